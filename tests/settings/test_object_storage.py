"""The settings of object storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from proxy.domain.errors import ConfigurationError
from proxy.settings import S3Settings, s3_secret


def test_by_default_no_bucket_is_used() -> None:
    assert not S3Settings().enabled
    assert S3Settings(buckets=("s3://photos",)).enabled
    assert S3Settings(renditions="s3://renditions/site/a").enabled


@pytest.mark.parametrize(
    "values",
    [
        {"buckets": ["photos"]},
        {"buckets": ["s3://photos/"]},
        {"buckets": ["s3://photos/folder"]},
        {"buckets": ["https://photos"]},
        {"buckets": ["s3://"]},
        {"renditions": "renditions"},
        {"renditions": "s3://renditions/"},
        {"renditions": "s3://renditions//a"},
        {"renditions": "s3://renditions/../a b"},
        {"endpoint": "s3.example.org"},
        {"endpoint": "ftp://s3.example.org"},
        {"endpoint": "https://s3.example.org/bucket"},
        {"region": "EU West"},
        {"access_key_id": "a"},
        {"secret_access_key": "b"},
        {"access_key_id": "a b", "secret_access_key": "c"},
        {"access_key_id": "a", "secret_access_key": "b", "secret_access_key_file": "c"},
        {"timeout_s": 0},
        {"max_queued_bytes": 1},
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        S3Settings.model_validate(values)


def test_the_secret_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("secret\n")
    section = S3Settings(access_key_id="a", secret_access_key_file=str(file))
    assert s3_secret(section) == "secret"
    assert s3_secret(S3Settings(access_key_id="a", secret_access_key="b")) == "b"
    file.unlink()
    with pytest.raises(ConfigurationError, match=r"s3\.secret_access_key_file"):
        s3_secret(section)


def test_secrets_are_not_printed() -> None:
    section = S3Settings(access_key_id="the-access-key", secret_access_key="the-secret")
    assert "the-" not in repr(section)
