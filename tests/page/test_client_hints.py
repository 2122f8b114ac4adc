"""Client hints as Chromium sends them: by itself, on request of a page, and to another origin."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.benchmarks.servers import smartserve
from tests.page.conftest import QUIET, chromium, tab
from tests.support.server import Library

_LENGTH = (
    """async (url) => (await (await fetch(url, {cache: "no-store"})).arrayBuffer()).byteLength"""
)


@pytest.fixture(scope="module")
def hinted(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a server with client hints, and return the address of an image."""
    data_dir = library.copy(tmp_path_factory.mktemp("hinted") / "data")
    settings = {"CLIENT_HINTS__ENABLED": "true", "UPGRADES__ENABLED": "false"}
    with smartserve(data_dir, settings=settings) as running:
        yield f"http://127.0.0.1:{running.address[1]}/serve/{library.ids['photo']}?size=thumbnail"


@pytest_asyncio.fixture(loop_scope="session")
async def slow() -> AsyncIterator[Browser]:
    """Start a browser whose connection is of type 2g, as it believes."""
    arguments = [*QUIET, "--force-effective-connection-type=2G"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=arguments)
        yield browser
        await browser.close()


@contextmanager
def elsewhere(head: str) -> Iterator[str]:
    """Serve a page of another origin with this head."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(f'<!doctype html>{head}<link rel="icon" href="data:,">'.encode())

        def log_message(self, format: str, *_args: object) -> None:  # noqa: A002
            del format

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


async def lengths(url: str) -> tuple[int, int]:
    """Return the lengths of the usual and the leaner image."""
    found = []
    async with aiohttp.ClientSession() as client:
        for hints in ({}, {"Save-Data": "on"}):
            async with client.get(url, headers=hints) as answer:
                found.append(len(await answer.read()))
    usual, lean = found
    assert lean < usual
    return usual, lean


async def test_save_data_is_sent_without_a_request_for_it(browser: Browser, hinted: str) -> None:
    usual, lean = await lengths(hinted)
    with elsewhere("") as address:
        async with await browser.new_context() as context:
            page = await context.new_page()
            await page.goto(address)
            assert await page.evaluate(_LENGTH, hinted) == usual
            session = await context.new_cdp_session(page)
            await session.send("Emulation.setDataSaverOverride", {"dataSaverEnabled": True})
            assert await page.evaluate(_LENGTH, hinted) == lean


async def test_ect_is_sent_to_the_origin_of_the_page_that_requests_it(
    slow: Browser, hinted: str
) -> None:
    usual, lean = await lengths(hinted)
    base = hinted.partition("/serve/")[0]
    async with tab(slow, base) as visit:
        await visit.page.goto(f"{base}/")
        assert await visit.page.evaluate(_LENGTH, hinted) == lean
    with elsewhere("") as address:
        async with await slow.new_context() as context:
            page = await context.new_page()
            await page.goto(address)
            assert await page.evaluate(_LENGTH, hinted) == usual


async def test_ect_is_sent_to_another_origin_that_the_page_delegates_it_to(
    slow: Browser, hinted: str
) -> None:
    _, lean = await lengths(hinted)
    base = hinted.partition("/serve/")[0]
    # As deploy/README.md has it.
    with elsewhere(f'<meta http-equiv="delegate-ch" content="ect {base}">') as address:
        async with await slow.new_context() as context:
            page = await context.new_page()
            await page.goto(address)
            assert await page.evaluate(_LENGTH, hinted) == lean
