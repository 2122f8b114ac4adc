"""The checks of buckets before a server starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.app.object_storage import (
    check_object_storage,
    object_storage_faults,
    open_bucket,
)
from proxy.domain.errors import ConfigurationError
from proxy.settings import S3Settings, Settings
from tests.storage.buckets import s3_settings
from tests.support.seaweedfs import SeaweedFS
from tests.support.server import make_settings


def settings(server: SeaweedFS, **values: Any) -> Settings:
    return Settings(s3=s3_settings(server, **values))


async def refusal(settings: Settings) -> str:
    with pytest.raises(ConfigurationError) as refused:
        await check_object_storage(settings)
    return str(refused.value)


@pytest.mark.slow
async def test_buckets_that_can_be_used_are_accepted(seaweedfs: SeaweedFS) -> None:
    name = seaweedfs.create_bucket()
    used = settings(seaweedfs, buckets=[f"s3://{name}"], renditions=f"s3://{name}/site/a")
    await check_object_storage(used)
    # The check leaves nothing behind.
    assert [page for page in seaweedfs.bucket(name).list()] == []  # noqa: C416


@pytest.mark.slow
async def test_a_missing_bucket_is_refused_with_its_setting_and_the_reason(
    seaweedfs: SeaweedFS,
) -> None:
    missing = "s3://there-is-no-such-bucket"
    text = await refusal(settings(seaweedfs, buckets=[missing], renditions=missing))
    assert f"s3.buckets: {missing}: the bucket does not exist" in text
    assert f"s3.renditions: {missing}: the bucket does not exist" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"access_key_id": "nobody"}, "the access key does not exist"),
        ({"secret_access_key": "wrong"}, "the secret does not belong to the access key"),
    ],
)
async def test_wrong_credentials_are_refused_with_the_reason_and_without_the_secret(
    seaweedfs: SeaweedFS, values: Mapping[str, Any], reason: str
) -> None:
    name = seaweedfs.create_bucket()
    text = await refusal(settings(seaweedfs, buckets=[f"s3://{name}"], **values))
    assert reason in text
    assert seaweedfs.key[1] not in text


@pytest.mark.slow
async def test_renditions_need_the_right_to_write(seaweedfs: SeaweedFS) -> None:
    name = seaweedfs.create_bucket()
    access, secret = seaweedfs.reader
    keys = {"access_key_id": access, "secret_access_key": secret}
    await check_object_storage(settings(seaweedfs, buckets=[f"s3://{name}"], **keys))
    text = await refusal(settings(seaweedfs, renditions=f"s3://{name}", **keys))
    assert "the access key may not do this" in text


async def test_a_storage_that_is_down_does_not_prevent_the_start(tmp_path: Path) -> None:
    section = {
        "endpoint": "http://127.0.0.1:1",
        "buckets": ["s3://photos"],
        "access_key_id": "a",
        "secret_access_key": "b",
    }
    await check_object_storage(make_settings(tmp_path, s3=section))


def test_settings_that_the_library_refuses_are_named() -> None:
    with pytest.raises(ConfigurationError, match="s3: az://photos: "):
        open_bucket(Settings(s3=S3Settings(buckets=("az://photos",))), "az://photos", "test")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.app.object_storage.find_spec", lambda _: None)
    assert object_storage_faults(S3Settings()) == []
    section = S3Settings(buckets=("s3://photos",))
    assert "smartserve[s3]" in object_storage_faults(section)[0]
    with pytest.raises(ConfigurationError, match=r"smartserve\[s3\]"):
        open_bucket(Settings(s3=section), "s3://photos", "test")


def test_a_server_without_buckets_does_not_import_the_library() -> None:
    code = (
        "import sys; import proxy.app.services, proxy.app.doctor, proxy.app.startup_checks;"
        "sys.exit('obstore' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
