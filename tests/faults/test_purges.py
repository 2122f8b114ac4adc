"""Three servers under load while images are replaced and purged at any of them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
from PIL import Image

from proxy.runtime.supervised_task import cancel
from tests.faults.conftest import Launch
from tests.faults.outage import moved_in
from tests.faults.responses import fetch
from tests.faults.server import Sections, Server, variables
from tests.faults.test_clock import ahead_s, clock_ahead
from tests.storage.buckets import s3_settings
from tests.support.commands import KEY, run
from tests.support.mariadb import MariaDB
from tests.support.redis import RedisServer
from tests.support.seaweedfs import SeaweedFS
from tests.support.server import Library
from tests.support.waiting import eventually, pause_between_pieces

pytestmark = pytest.mark.slow

_BEARER = {"Authorization": f"Bearer {KEY}"}
_SIZES = ("size=grid", "size=thumbnail", "w=64")
_HOUR_S = 3600
_PACE_S = 0.1
_PATIENCE_S = 120.0
"""Much longer than it takes on a busy machine."""
# JPEG changes a plain colour by less than half of this.
_STEP = 32


@dataclass
class Images:
    """Images whose files are replaced: each version is a plain colour of its own."""

    originals: Path
    paths: dict[int, Path]
    versions: dict[int, int] = field(default_factory=dict)

    def replace(self, media_id: int) -> None:
        """Replace a file in place; the database does not notice."""
        version = self.versions[media_id] = self.versions.get(media_id, 0) + 1
        target = self.paths[media_id]
        new = target.with_name(f"new-{media_id}{target.suffix}")
        Image.new("RGB", (640, 480), _colour(version)).save(new, quality=95)
        new.replace(target)


def _colour(version: int) -> tuple[int, int, int]:
    one, two, three = version % 8, version // 8 % 8, version // 64 % 8
    return one * _STEP + 16, two * _STEP + 16, three * _STEP + 16


def _version(body: bytes) -> int:
    with Image.open(io.BytesIO(body)) as image:
        middle = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    assert isinstance(middle, tuple)
    one, two, three = (int(level) // _STEP for level in middle)
    return one + 8 * two + 64 * three


@dataclass
class Cluster:
    """Three servers with the same originals."""

    servers: Sequence[Server]
    images: Images
    sections: Sections
    """The settings of all servers."""

    @asynccontextmanager
    async def load(self) -> AsyncIterator[list[int]]:
        """Request images at all servers during the block; yield the statuses of the responses."""
        statuses: list[int] = []

        async def visit(server: Server, seed: int) -> None:
            random = Random(seed)
            async with server.client() as client:
                while True:
                    media_id = random.choice(list(self.images.paths))
                    path = f"/serve/{media_id}?{random.choice(_SIZES)}&format=jpeg"
                    async with client.get(path) as answer:
                        await answer.read()
                        statuses.append(answer.status)
                    await pause_between_pieces(_PACE_S)

        visitors = [
            asyncio.create_task(visit(server, seed))
            for seed, server in enumerate([*self.servers] * 2)
        ]
        try:
            yield statuses
        finally:
            assert not [one for one in visitors if one.done()], "a connection failed"
            await cancel(*visitors)

    async def applied(self, purges: Sequence[int]) -> None:
        """Return when each server has applied the purges of the others, given those of each."""

        async def all_applied() -> bool:
            counts = [
                await server.metric("smartserve_purges_applied_total") for server in self.servers
            ]
            return counts == [sum(purges) - own for own in purges]

        await eventually(all_applied, timeout_s=_PATIENCE_S)

    async def bucket_is_used(self) -> bool:
        """Return whether the servers have stored renditions in the bucket, if they have one."""
        name = "smartserve_object_tier_writes_total"
        stored = [await server.metric(name, outcome="stored") for server in self.servers]
        return sum(stored) > 0 or "s3" not in self.sections

    async def served(self) -> dict[tuple[int, int, str], int]:
        """Return the version that each server serves of each image in each size."""
        found = {}
        for number, server in enumerate(self.servers):
            async with server.client() as client:
                for media_id in self.images.paths:
                    for size in _SIZES:
                        _, body = await _get(client, media_id, size)
                        found[number, media_id, size] = _version(body)
        return found

    async def etags(self) -> set[str]:
        """Return the ETags of all images at all servers."""
        return {
            await _etag(server, media_id)
            for server in self.servers
            for media_id in self.images.paths
        }

    def newest(self) -> dict[tuple[int, int, str], int]:
        return {
            (number, media_id, size): self.images.versions[media_id]
            for number in range(len(self.servers))
            for media_id in self.images.paths
            for size in _SIZES
        }


@pytest.fixture(
    params=[
        "mariadb and redis",
        "mariadb, redis and a bucket",
        pytest.param("sqlite", marks=pytest.mark.drill),
        pytest.param("sqlite, one rendition directory", marks=pytest.mark.drill),
    ]
)
async def cluster(
    request: pytest.FixtureRequest, launch: Launch, library: Library, tmp_path: Path
) -> Cluster:
    """Start three servers; with MariaDB the clock of the last one is an hour ahead.

    SQLite has the clock of the process that uses it, so there it must be the same for all. S3
    refuses the signatures of a server with another clock.
    """
    kind = str(request.param)
    folders = [library.copy(tmp_path / name) for name in ("a", "b", "c")]
    originals = folders[0] / "originals"
    # Enough for a busy machine: a purge that the database does not accept in time is repeated.
    patient = {"connect_timeout_s": _PATIENCE_S, "query_timeout_s": _PATIENCE_S}
    sections: dict[str, dict[str, Any]] = {
        "admin": {"key": KEY},
        "log": {"access": False},
        "storage": {"root": str(originals)},
        "database": {"url": f"sqlite+aiosqlite:///{folders[0] / 'smartserve.db'}", **patient},
    }
    ahead: Mapping[str, str] | None = None
    if "mariadb" in kind:
        mariadb: MariaDB = request.getfixturevalue("mariadb")
        redis: RedisServer = request.getfixturevalue("redis")
        name = await moved_in(mariadb, folders[0], library.ids)
        url = f"mysql+aiomysql://proxy@127.0.0.1:{mariadb.port}/{name}"
        sections |= {"database": {"url": url, **patient}, "cluster": {"redis_url": redis.url}}
        if "bucket" in kind:
            seaweedfs: SeaweedFS = request.getfixturevalue("seaweedfs")
            bucket = s3_settings(seaweedfs, renditions=f"s3://{seaweedfs.create_bucket()}/site")
            sections["s3"] = bucket.model_dump(exclude_defaults=True)
        else:
            ahead = clock_ahead(_HOUR_S)
    if "one rendition directory" in kind:
        sections["renditions"] = {"directory": str(folders[0] / "renditions")}
        (folders[0] / "renditions").mkdir(exist_ok=True)
    images = Images(
        originals,
        {
            media_id: next(originals.rglob(f"{name}*"))
            for name, media_id in library.ids.items()
            if name in {"logo", "badge", "large"}
        },
    )
    for media_id in images.paths:
        images.replace(media_id)
    servers = [
        await launch(sections, data_dir=folder, extra=extra)
        for folder, extra in zip(folders, (None, None, ahead), strict=True)
    ]
    if ahead is not None:
        async with servers[-1].client() as client:
            assert ahead_s(await fetch(client, "/healthz")) > _HOUR_S / 2
    started = Cluster(servers, images, sections)
    # The library knows the files that were replaced.
    for media_id in images.paths:
        await _purge(servers[0], f"/api/media/{media_id}/renditions")
    await started.applied([len(images.paths), 0, 0])
    return started


async def _purge(server: Server, path: str) -> None:
    async with server.client(headers=_BEARER) as client, client.delete(path) as answer:
        assert answer.status == 200
        assert (await answer.json())["recorded"]


async def test_no_old_byte_is_served_after_a_purge(cluster: Cluster, tmp_path: Path) -> None:
    """One test, because three servers take long to start: of images, of all, and by the command."""
    async with cluster.load() as statuses:
        await _purge_200_times(cluster)
        # While the load goes on: what was rendered before the purges must not come back.
        assert await cluster.served() == cluster.newest()
        await _purge_everything(cluster)
        assert await cluster.served() == cluster.newest()
        await _purge_by_command(cluster, tmp_path / "command")
    assert await cluster.served() == cluster.newest()
    assert len(await cluster.etags()) == len(cluster.images.paths), "equal on all servers"
    assert await cluster.bucket_is_used()
    # A busy machine sheds load.
    assert {200} <= set(statuses) <= {200, 503}


async def _purge_200_times(cluster: Cluster) -> None:
    """Replace and purge images at random servers; wait until all servers applied each purge."""
    random = Random(17)
    purges = [len(cluster.images.paths), 0, 0]
    for _ in range(200):
        media_id = random.choice(list(cluster.images.paths))
        number = random.randrange(3)
        cluster.images.replace(media_id)
        await _purge(cluster.servers[number], f"/api/media/{media_id}/renditions")
        purges[number] += 1
    await cluster.applied(purges)
    # Named by their present files: once they are read again, the names are the same.
    etags = await cluster.etags()
    for media_id in cluster.images.paths:
        await _purge(cluster.servers[0], f"/api/media/{media_id}/renditions")
        purges[0] += 1
    await cluster.applied(purges)
    assert await cluster.etags() == etags


async def _purge_everything(cluster: Cluster) -> None:
    """Purge everything at one server, and wait until the ETags of all servers have changed."""
    old = await cluster.etags()
    await _purge(cluster.servers[1], "/api/renditions")

    async def renewed() -> bool:
        return not old & await cluster.etags()

    await eventually(renewed, timeout_s=_PATIENCE_S)


async def _purge_by_command(cluster: Cluster, data_dir: Path) -> None:
    """Replace and purge all images; wait until every server serves the new images."""
    for media_id in cluster.images.paths:
        cluster.images.replace(media_id)
    given = {f"SMARTSERVE_{name}": one for name, one in variables(cluster.sections).items()}
    purge = ("purge", "--all", "--data-dir", data_dir)
    done = await asyncio.to_thread(run, *purge, **given)
    assert done.returncode == 0, done.stderr

    async def renewed() -> bool:
        return await cluster.served() == cluster.newest()

    await eventually(renewed, timeout_s=_PATIENCE_S)


async def _etag(server: Server, media_id: int) -> str:
    async with server.client() as client:
        return (await _get(client, media_id, _SIZES[0]))[0]


async def _get(client: aiohttp.ClientSession, media_id: int, size: str) -> tuple[str, bytes]:
    """Return ETag and body, however busy the server is."""
    found: list[tuple[str, bytes]] = []

    async def sent() -> bool:
        async with client.get(f"/serve/{media_id}?{size}&format=jpeg") as answer:
            assert answer.status in {200, 503}
            if answer.status == 200:
                found.append((answer.headers["ETag"], await answer.read()))
        return bool(found)

    await eventually(sent, timeout_s=_PATIENCE_S)
    return found[0]
