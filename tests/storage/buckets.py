"""Buckets of a real S3 server, directly or through a proxy that injects faults."""

from __future__ import annotations

from typing import Any

from proxy.settings import S3Settings
from proxy.storage.bucket import Bucket, open_store
from tests.support.seaweedfs import SeaweedFS


def s3_settings(server: SeaweedFS, port: int = 0, **values: Any) -> S3Settings:
    """Return settings for the server, or for a proxy in front of it."""
    return S3Settings.model_validate(
        {
            "endpoint": f"http://127.0.0.1:{port or server.port}",
            "access_key_id": server.key[0],
            "secret_access_key": server.key[1],
            # No answer is late because the machine is busy.
            "timeout_s": 60,
            "tier_timeout_s": 60,
            **values,
        }
    )


def client(
    section: S3Settings, name: str, *, timeout_s: float = 60, breaker_s: float = 60
) -> Bucket:
    """Return a client of a bucket."""
    store = open_store(f"s3://{name}", section, section.secret_access_key)
    return Bucket(store, name="test", timeout_s=timeout_s, breaker_s=breaker_s)
