"""The check of buckets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.doctor.check import Verdict
from tests.doctor.conftest import Findings, run_area
from tests.storage.buckets import s3_settings
from tests.support.seaweedfs import SeaweedFS
from tests.support.server import make_settings


async def check(tmp_path: Path, section: dict[str, Any]) -> Findings:
    return await run_area("object storage", make_settings(tmp_path, s3=section))


async def test_without_buckets_nothing_is_checked(tmp_path: Path) -> None:
    found = await check(tmp_path, {})
    assert found["object storage"].verdict is Verdict.SKIPPED


async def test_a_storage_that_is_down_fails(tmp_path: Path) -> None:
    keys = {"access_key_id": "a", "secret_access_key": "b"}
    found = await check(
        tmp_path, {"endpoint": "http://127.0.0.1:1", "buckets": ["s3://photos"], **keys}
    )
    assert found["object storage"].verdict is Verdict.FAIL
    assert found["object storage"].seen.startswith("s3.buckets: s3://photos: ")
    assert "s3.endpoint" in found["object storage"].advice


@pytest.mark.slow
async def test_buckets_that_can_be_used_pass_and_a_missing_one_fails(
    tmp_path: Path, seaweedfs: SeaweedFS
) -> None:
    name = seaweedfs.create_bucket()
    section = s3_settings(seaweedfs, buckets=[f"s3://{name}"], renditions=f"s3://{name}/a")
    found = await check(tmp_path, section.model_dump(exclude_defaults=True))
    assert found["object storage"].verdict is Verdict.OK
    assert "2 buckets" in found["object storage"].seen
    section = section.model_copy(update={"renditions": "s3://there-is-no-such-bucket"})
    found = await check(tmp_path, section.model_dump(exclude_defaults=True))
    assert found["object storage"].verdict is Verdict.FAIL
    assert "the bucket does not exist" in found["object storage"].seen
