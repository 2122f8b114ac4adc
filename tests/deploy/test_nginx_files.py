"""A live nginx that stores finals as files, in front of a server whose requests are counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from tests.deploy.conftest import TWO_STAGES, Started
from tests.deploy.front import CLIENT_HINTS, Change, nginx
from tests.deploy.origin import Fetches, Origin
from tests.faults.responses import Answer
from tests.faults.server import Server
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Pair:
    """nginx in front of a server."""

    fetches: Fetches
    client: aiohttp.ClientSession
    files: Path

    async def fetch(self, target: str, method: str = "GET", **headers: str) -> Answer:
        """Return a response of nginx to a target that is sent unchanged."""
        shown = URL(target, encoded=True)
        async with self.client.request(method, shown, headers=headers) as answer:
            return Answer(answer.status, await answer.read(), answer.headers)

    def stored(self) -> list[str]:
        """Return the files that later requests are answered from."""
        folder = self.files / "kept"
        return [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]


@asynccontextmanager
async def in_front_of(
    server: Origin | Server, folder: Path, changes: Iterable[Change] = ()
) -> AsyncIterator[Pair]:
    fetches = Fetches(server)
    await fetches.begin()
    with nginx(folder / "front", "files", upstream=server.port, changes=changes) as front:
        async with aiohttp.ClientSession(front.base) as client:
            yield Pair(fetches, client, folder / "front" / "smartserve-files")


@pytest.fixture
async def pair(origin: Origin, tmp_path: Path) -> AsyncIterator[Pair]:
    async with in_front_of(origin, tmp_path) as one:
        yield one


@pytest.fixture
def media_id(library: Library) -> int:
    return library.ids["photo"]


async def test_a_final_is_requested_once_and_then_served_as_a_file(
    pair: Pair, media_id: int
) -> None:
    target = f"/serve/{media_id}.avif?size=thumbnail&v=3"
    first = await pair.fetch(target)
    # nginx names the file after the client has the last byte.
    await eventually(lambda: pair.stored() == [f"{media_id}/3/size=thumbnail.avif"])
    second = await pair.fetch(target)
    assert await pair.fetches.count() == 1
    assert first.body == second.body
    assert second.headers is not None
    for name, value in (
        ("Content-Type", "image/avif"),
        ("Cache-Control", "public, max-age=31536000, immutable"),
        ("X-Content-Type-Options", "nosniff"),
        ("Cache-Tag", f"m-{media_id}"),
    ):
        assert second.headers[name] == value
    again = await pair.fetch(target, **{"If-None-Match": second.headers["ETag"]})
    assert again.status == 304


async def test_a_new_version_is_another_file(pair: Pair, media_id: int) -> None:
    for version in ("1", "2"):
        await pair.fetch(f"/serve/{media_id}.webp?w=640&dpr=2&v={version}")
    assert await pair.fetches.count() == 2
    assert len(pair.stored()) == 2


@pytest.mark.parametrize("enabled", [False, True])
async def test_a_lean_image_is_never_stored(
    started: Started, media_id: int, tmp_path: Path, *, enabled: bool
) -> None:
    server = await started({"client_hints": {"enabled": True}})
    target = f"/serve/{media_id}.avif?size=thumbnail&v=3"
    async with in_front_of(server, tmp_path, CLIENT_HINTS if enabled else ()) as pair:
        lean = await pair.fetch(target, **{"Save-Data": "on"})
        stored = [f"{media_id}/3/size=thumbnail.avif"]
        if enabled:
            assert pair.stored() == []
        else:
            await eventually(lambda: pair.stored() == stored)
        usual = await pair.fetch(target)
        await eventually(lambda: pair.stored() == stored)
        assert (len(lean.body) < len(usual.body)) is enabled


async def test_a_draft_is_never_stored(started: Started, media_id: int, tmp_path: Path) -> None:
    server = await started(TWO_STAGES)
    async with in_front_of(server, tmp_path) as pair:
        draft = await pair.fetch(f"/serve/{media_id}.avif?size=thumbnail&v=3")
        assert draft.headers is not None
        assert draft.headers["Cache-Control"].startswith("public, max-age=60")
        assert pair.stored() == []


async def test_a_head_a_part_and_an_error_are_never_stored(pair: Pair, media_id: int) -> None:
    target = f"/serve/{media_id}.avif?size=thumbnail&v=3"
    assert (await pair.fetch(target, "HEAD")).status == 200
    assert (await pair.fetch(target, Range="bytes=0-9")).status == 206
    assert (await pair.fetch("/serve/999.avif?size=thumbnail&v=3")).status == 404
    assert (await pair.fetch(f"/serve/{media_id}.avif?size=huge&v=3")).status == 400
    assert pair.stored() == []
    assert len((await pair.fetch(target)).body) > 1000


@pytest.mark.parametrize(
    "query",
    [
        "size=thumbnail",
        "size=thumbnail&v=../../../x",
        "size=thumbnail&v=..",
        "size=thumbnail&v=%2e%2e%2fx",
        "size=thumbnail&v=3&format=auto",
        "size=thumbnail&v=3?size=grid",
        "size=thumbnail&v=3&v=4",
        "v=3&size=thumbnail",
    ],
)
async def test_other_urls_are_forwarded(query: str, pair: Pair, media_id: int) -> None:
    target = f"/serve/{media_id}.avif?{query}"
    answers = [await pair.fetch(target), await pair.fetch(target)]
    assert {answer.status for answer in answers} == {200}
    assert await pair.fetches.count() == 2
    assert pair.stored() == []
    top = {path.name for path in pair.files.iterdir()}
    assert top <= {"kept", "passing", "temporary"}
