"""Servers of different recipes on one directory: a change of the recipe, and rolling upgrades."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from tests.faults.conftest import Launch
from tests.faults.server import Server
from tests.support.commands import KEY
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_WIDTHS = (64, 96, 128, 256)
_NEW_WIDTHS = (320, 384)
"""Requested for the first time after the change."""
_ROUNDS = 3
_BEARER = {"Authorization": f"Bearer {KEY}"}


class Answer(NamedTuple):
    """What a client gets, apart from dates."""

    etag: str
    lifetime: str
    body: bytes


Answers = Mapping[tuple[int, int], Answer]
"""By media id and width."""


def _recipe(quality: int) -> dict[str, dict[str, Any]]:
    """Return settings by which each rendition is final, and differs from that of another recipe."""
    return {
        "admin": {"key": KEY},
        "encoders__jpeg__draft": {"quality": quality},
        "upgrades": {"enabled": False, "remakes_per_minute": 6000, "idle_priority": False},
    }


async def _get(client: aiohttp.ClientSession, media_id: int, width: int) -> Answer:
    async with client.get(f"/serve/{media_id}?w={width}&format=jpeg") as answer:
        assert answer.status == 200
        headers = answer.headers
        return Answer(headers["ETag"], headers["Cache-Control"], await answer.read())


async def _answers(server: Server, ids: list[int], *widths: int) -> Answers:
    """Request all images in all widths at the same time."""
    keys = [(media_id, width) for media_id in ids for width in widths]
    async with server.client() as client:
        found = await asyncio.gather(*(_get(client, *key) for key in keys))
    return dict(zip(keys, found, strict=True))


async def _settled(server: Server, ids: list[int], *widths: int) -> Answers:
    """Return the answers when no draft is among them."""
    answers: Answers = {}

    async def final() -> bool:
        nonlocal answers
        answers = await _answers(server, ids, *widths)
        return all("max-age=60," not in one.lifetime for one in answers.values())

    await eventually(final, timeout_s=120)
    return answers


async def _rendered(server: Server) -> float:
    """Return the renders for clients."""
    return await server.metric("smartserve_render_seconds_count")


async def _remade(server: Server) -> float:
    """Return the renders in the background."""
    return await server.metric("smartserve_upgrade_seconds_count")


def _ids(library: Library) -> list[int]:
    return [library.ids["photo"], library.ids["large"]]


def _files(directory: Path, media_id: int) -> list[Path]:
    return list((directory / "renditions").glob(f"??/{media_id}/*"))


async def test_a_change_of_the_recipe_under_load_causes_no_miss(
    launch: Launch, library: Library
) -> None:
    ids = _ids(library)
    server = await launch(_recipe(80))
    before = await _answers(server, ids, *_WIDTHS)
    await server.stop()

    server = await launch(_recipe(50))
    rounds = await asyncio.gather(
        *(_answers(server, ids, *_WIDTHS, *_NEW_WIDTHS) for _ in range(_ROUNDS))
    )
    # Without the change, the new widths alone would have been misses.
    assert await _rendered(server) <= 1.2 * len(ids) * len(_NEW_WIDTHS)
    drafts = {
        key: one
        for answers in rounds
        for key, one in answers.items()
        if "max-age=60," in one.lifetime
    }
    assert drafts
    assert all((one.etag, one.body) == before[key][::2] for key, one in drafts.items())
    after = await _settled(server, ids, *_WIDTHS)
    assert all(one.etag != before[key].etag for key, one in after.items())
    assert all(one.body != before[key].body for key, one in after.items())
    assert await _rendered(server) <= 1.2 * len(ids) * len(_NEW_WIDTHS)

    async def counted() -> bool:
        return await _remade(server) == len(ids) * len(_WIDTHS)

    await eventually(counted, timeout_s=60)


async def test_servers_of_two_recipes_share_a_directory_and_a_database(
    launch: Launch, library: Library, data_dir: Path
) -> None:
    ids = _ids(library)
    old, new = await launch(_recipe(80)), await launch(_recipe(50))
    # Each is the first one to render some of the images.
    await _answers(old, ids, 64, 96)
    await _answers(new, ids, 128, 256)
    finals = [await _settled(server, ids, *_WIDTHS) for server in (old, new)]
    for key in finals[0]:
        assert len({answers[key].etag for answers in finals}) == 2
        assert len({answers[key].body for answers in finals}) == 2
    remade = [len(ids) * 2, len(ids) * 2]

    async def counted() -> bool:
        return [await _remade(server) for server in (old, new)] == remade

    # A final is served before it is counted.
    await eventually(counted, timeout_s=60)

    # Nothing is remade for the other's sake, whatever is requested where.
    for _ in range(_ROUNDS):
        assert [await _answers(server, ids, *_WIDTHS) for server in (old, new)] == finals
    assert [await _remade(server) for server in (old, new)] == remade
    assert [await _rendered(server) for server in (old, new)] == remade

    photo = ids[0]
    assert len(_files(data_dir, photo)) == 2 * len(_WIDTHS)
    async with (
        old.client(headers=_BEARER) as client,
        client.delete(f"/api/media/{photo}/renditions") as answer,
    ):
        assert answer.status == 200
    assert _files(data_dir, photo) == []
    applied = "smartserve_purges_applied_total"

    async def reached() -> bool:
        return await new.metric(applied) == 1

    await eventually(reached, timeout_s=60)
    count = await _rendered(new)
    await _answers(new, [photo], 64)
    assert await _rendered(new) == count + 1
