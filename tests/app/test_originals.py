"""Originals in buckets, served by a real server from a real S3 server."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxy.app.originals import build_originals
from proxy.domain.worker_protocol import HOLDS
from proxy.settings import Settings
from proxy.storage.originals.local_store import LocalOriginals
from tests.storage.buckets import s3_settings
from tests.support.seaweedfs import SeaweedFS
from tests.support.server import SAMPLES, WEBP_ONLY, Library, Serve, Serving

PHOTO = min(SAMPLES.glob("*.jpg"))


def test_without_buckets_originals_are_local_files(tmp_path: Path) -> None:
    settings = Settings()
    local = LocalOriginals(tmp_path, settings.storage)
    assert build_originals(settings, local) is local


def section(server: SeaweedFS, *names: str) -> Mapping[str, Any]:
    """Return the settings of originals in buckets."""
    buckets = [f"s3://{name}" for name in names]
    return s3_settings(server, buckets=buckets).model_dump(exclude_defaults=True)


def set_path(data_dir: Path, media_id: int, path: str) -> None:
    """Change the path of a row as another program would."""
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as database, database:
        change = "UPDATE media_files SET bulk_path = ?, updated_at = '2030-01-01' WHERE id = ?"
        database.execute(change, (path, media_id))


async def fetch(serving: Serving, media_id: int, size: str) -> tuple[int, bytes]:
    response = await serving.client.get(
        f"/serve/{media_id}", params={"size": size}, headers={"Accept": WEBP_ONLY}
    )
    return response.status, await response.read()


@pytest.mark.slow
async def test_an_image_in_a_bucket_is_rendered_in_the_sandbox(
    serve: Serve, data_dir: Path, library: Library, seaweedfs: SeaweedFS
) -> None:
    photo, name = library.ids["photo"], seaweedfs.create_bucket()
    seaweedfs.bucket(name).put("2025/a b.jpg", PHOTO.read_bytes())
    local = await serve()
    expected = await fetch(local, photo, "small")
    set_path(data_dir, photo, f"s3://{name}/2025/a b.jpg")
    (data_dir / "originals").rename(data_dir / "unused")
    (data_dir / "originals").mkdir()
    serving = await serve(
        s3=section(seaweedfs, name), renditions={"memory_max_bytes": 0, "directory": ""}
    )
    await serving.services.storage.renditions.clear()
    assert await fetch(serving, photo, "small") == expected
    assert expected[0] == 200
    assert serving.renders() == 1
    # The worker got the bytes through a descriptor, and lacks nothing of its confinement.
    local_report = local.services.rendering.pool.hello.sandbox
    assert serving.services.rendering.pool.hello.sandbox == local_report
    assert set(local_report.values()) == {HOLDS}


@pytest.mark.slow
async def test_the_original_of_an_image_in_a_bucket_is_downloaded(
    serve: Serve, data_dir: Path, library: Library, seaweedfs: SeaweedFS
) -> None:
    photo, name = library.ids["photo"], seaweedfs.create_bucket()
    seaweedfs.bucket(name).put("a.jpg", PHOTO.read_bytes())
    set_path(data_dir, photo, f"s3://{name}/a.jpg")
    key = "k" * 20
    serving = await serve(s3=section(seaweedfs, name), admin={"key": key})
    address = f"/api/media/{photo}/original"
    headers = {"Authorization": f"Bearer {key}"}
    response = await serving.client.get(address, headers=headers)
    assert (response.status, await response.read()) == (200, PHOTO.read_bytes())
    response = await serving.client.get(address, headers=headers | {"Range": "bytes=5-9"})
    assert (response.status, await response.read()) == (206, PHOTO.read_bytes()[5:10])
    response = await serving.client.get(address, params={"metadata": "stripped"}, headers=headers)
    assert response.status == 200


@pytest.mark.slow
async def test_a_replaced_object_of_the_same_size_is_noticed(
    serve: Serve, data_dir: Path, library: Library, seaweedfs: SeaweedFS
) -> None:
    photo, name = library.ids["photo"], seaweedfs.create_bucket()
    body = PHOTO.read_bytes()
    seaweedfs.bucket(name).put("a.jpg", body)
    set_path(data_dir, photo, f"s3://{name}/a.jpg")
    serving = await serve(s3=section(seaweedfs, name))
    assert (await fetch(serving, photo, "small"))[0] == 200
    before = await serving.services.storage.repository.find(photo)
    # The same image with other bytes behind its end.
    seaweedfs.bucket(name).put("a.jpg", body[:-1] + b"\0")
    statuses = [(await fetch(serving, photo, "grid"))[0] for _ in range(2)]
    after = await serving.services.storage.repository.find(photo)
    assert before is not None
    assert before.facts is not None
    assert after is not None
    assert after.facts is not None
    assert after.facts.content_hash != before.facts.content_hash
    assert statuses[-1] == 200
