"""Originals in buckets, served by a real server from a real S3 server."""

from __future__ import annotations

import asyncio
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
from tests.faults.tcpproxy import TcpProxy
from tests.storage.buckets import client, s3_settings
from tests.support.seaweedfs import SeaweedFS
from tests.support.server import SAMPLES, WEBP_ONLY, Library, Serve, Serving
from tests.support.waiting import eventually

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


def in_tier(server: SeaweedFS, name: str, port: int = 0) -> Mapping[str, Any]:
    """Return the settings of the third tier; ``port`` is that of a proxy."""
    section = s3_settings(server, port, renditions=f"s3://{name}/site")
    return section.model_dump(exclude_defaults=True)


@pytest.mark.slow
async def test_a_second_server_serves_what_the_first_has_rendered(
    serve: Serve, library: Library, seaweedfs: SeaweedFS, tmp_path: Path
) -> None:
    photo, name = library.ids["photo"], seaweedfs.create_bucket()
    first = await serve(s3=in_tier(seaweedfs, name))
    expected = await fetch(first, photo, "small")
    assert expected[0] == 200
    await eventually(lambda: first.metric("smartserve_object_tier_writes_total"))
    (tmp_path / "other").mkdir()
    elsewhere = {"directory": str(tmp_path / "other")}
    second = await serve(s3=in_tier(seaweedfs, name), renditions=elsewhere)
    answers = await asyncio.gather(*(fetch(second, photo, "small") for _ in range(50)))
    assert answers == [expected] * 50
    assert second.renders() == 0
    assert second.metric("smartserve_object_tier_reads_total", outcome="hit") == 1
    # A purge reaches the bucket.
    await second.services.storage.purger.medium(photo)
    assert list(seaweedfs.bucket(name).list()) == []


@pytest.mark.slow
async def test_without_its_bucket_a_server_serves_and_renders_as_before(
    serve: Serve, library: Library, seaweedfs: SeaweedFS
) -> None:
    photo, name = library.ids["photo"], seaweedfs.create_bucket()
    async with TcpProxy(seaweedfs.port) as proxy:
        serving = await serve(
            s3=in_tier(seaweedfs, name, proxy.port), renditions={"memory_max_bytes": 0}
        )
        stored = await fetch(serving, photo, "small")
        await eventually(lambda: serving.metric("smartserve_object_tier_writes_total"))
        requested = serving.metric("smartserve_object_tier_reads_total")
        proxy.refuse()
        # From the disk: the bucket is not asked.
        assert [await fetch(serving, photo, "small") for _ in range(5)] == [stored] * 5
        assert serving.metric("smartserve_object_tier_reads_total") == requested
        assert (await fetch(serving, photo, "grid"))[0] == 200
        await eventually(lambda: serving.metric("smartserve_object_tier_dropped_total"))
        assert serving.metric("smartserve_object_tier_failures_total") > 0


@pytest.mark.slow
async def test_originals_that_hang_cost_one_time_limit_and_no_hit(
    serve: Serve, data_dir: Path, library: Library, seaweedfs: SeaweedFS
) -> None:
    photo, name = library.ids["photo"], seaweedfs.create_bucket()
    seaweedfs.bucket(name).put("a.jpg", PHOTO.read_bytes())
    set_path(data_dir, photo, f"s3://{name}/a.jpg")
    serving = await serve(s3={**section(seaweedfs, name), "breaker_s": 600})
    stored = await fetch(serving, photo, "small")
    assert stored[0] == 200

    def timeouts() -> float:
        return serving.metric("smartserve_source_errors_total", kind="timeout")

    reader = serving.services.storage.originals.remote["s3"]  # type: ignore[attr-defined]
    reader._buckets[f"s3://{name}"].timeout_s = 0.5
    seaweedfs.pause()
    try:
        assert await fetch(serving, photo, "small") == stored
        # Another size of the image takes the place of the one that cannot be rendered.
        fallback = await fetch(serving, photo, "grid")
        assert fallback == stored
        assert timeouts() == 1
        # Refused by the circuit breaker from now on.
        assert await fetch(serving, photo, "zoom") == stored
        assert timeouts() == 1
    finally:
        seaweedfs.resume()
    assert serving.metric("smartserve_source_errors_total", kind="unavailable") >= 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["missing bucket", "forbidden"])
async def test_an_original_that_cannot_be_had_is_an_error_without_its_address(
    serve: Serve, data_dir: Path, library: Library, seaweedfs: SeaweedFS, fault: str
) -> None:
    photo, name = library.ids["photo"], seaweedfs.create_bucket()
    set_path(data_dir, photo, f"s3://{name}/a.jpg")
    serving = await serve(s3=section(seaweedfs, name))
    # It happens while the server runs: at the start it would be refused.
    reader = serving.services.storage.originals.remote["s3"]  # type: ignore[attr-defined]
    wrong: dict[str, Any] = {"secret_access_key": "wrong"} if fault == "forbidden" else {}
    other = name if fault == "forbidden" else "there-is-no-such-bucket"
    broken = client(s3_settings(seaweedfs, **wrong), other)
    reader._buckets[f"s3://{name}"]._store = broken._store
    response = await serving.client.get(f"/serve/{photo}", headers={"Accept": WEBP_ONLY})
    text = await response.text()
    assert response.status == 503
    assert name not in text
    assert "s3:" not in text
    assert serving.metric("smartserve_source_errors_total", kind="unavailable") >= 1
