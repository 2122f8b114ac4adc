"""Conditional requests while a substitute is served: a 304 carries what a 200 would carry now."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, closing
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import CHROME, Library, Serve
from tests.web.substitutes import ROUTES, Substitute, check_matrix
from tests.web.test_fallbacks import no_worker_free
from tests.web.test_stages import ASKED_ONLY, held_back

pytestmark = pytest.mark.slow  # real substitutes of four kinds

KINDS = ("draft", "missing", "busy", "processing", "background")


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


async def substitute(
    kind: str, serve: Serve, library: Library, data_dir: Path, stack: AsyncExitStack
) -> Substitute:
    photo = library.ids["photo"]
    query = "size=small&bg=removed" if kind == "background" else "size=small"
    settings: Mapping[str, Any] = {}
    if kind == "draft":
        settings = {"upgrades": ASKED_ONLY}
    if kind == "processing":
        with closing(sqlite3.connect(data_dir / "smartserve.db")) as rows, rows:
            rows.execute("UPDATE media_files SET status = 'processing'")
    server = await serve(workers={"count": 1, "max_queue": 1}, **settings)
    found = Substitute(server, photo, query)
    if kind in ("missing", "busy"):
        # A size that replaces the one which cannot be rendered any more.
        await server.client.get(f"/serve/{photo}?size=thumbnail", headers={"Accept": CHROME})
        await server.services.serving.renderer.drain()
    if kind == "missing":
        (original,) = (data_dir / "originals").rglob("kodak-*")
        original.unlink()
    elif kind == "busy":
        await stack.enter_async_context(no_worker_free(server))
    await (await found.send("/serve", cached=False)).read()
    if kind == "draft":
        stack.callback(os.kill, await held_back(server), signal.SIGCONT)
    return found


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_substitute_is_never_confirmed_as_the_final(
    kind: str, route: str, serve: Serve, library: Library, data_dir: Path, stack: AsyncExitStack
) -> None:
    served = await substitute(kind, serve, library, data_dir, stack)
    await check_matrix(served, route, same=kind in ("processing", "background"))


async def test_the_date_of_a_draft_does_not_confirm_the_final(
    serve: Serve, library: Library
) -> None:
    server = await serve()
    path = f"/serve/{library.ids['photo']}?size=small"
    final = await server.client.get(path)
    since = {"If-Modified-Since": formatdate(usegmt=True)}
    assert (await server.client.get(path, headers=since)).status == 200
    since = {"If-Modified-Since": final.headers["Last-Modified"]}
    assert (await server.client.get(path, headers=since)).status == 304
