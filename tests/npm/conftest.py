"""Applications with the package, in a real browser, in front of a real server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Request, async_playwright

from tests.benchmarks.servers import Smartserve, listening, smartserve
from tests.deploy.programs import program
from tests.npm.installed import HERE, PACKAGE, built
from tests.page.conftest import PATIENCE_MS, QUIET, SETTINGS, chromium, until
from tests.support.ports import free_port
from tests.support.server import Library

BASE = "http://img.test"
"""The server's address in the applications; Chromium maps it to the port of the test."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the browser tests of this folder in one loop: the browser belongs to it."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        # The first one installs and builds.
        item.add_marker(pytest.mark.timeout(600))
        if isinstance(item, pytest.Function) and iscoroutinefunction(item.function):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@dataclass
class Tab:
    """A page, what it requested, and the errors that occurred in it."""

    page: Page
    home: str
    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request))  # noqa: PLW0108 - playwright rejects built-in methods
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type != "log" else None,
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    async def open(self, path: str, *, latency_ms: int = 0) -> Page:
        """Open a page of the application, and wait until it and its images are loaded."""
        if latency_ms:
            session = await self.page.context.new_cdp_session(self.page)
            await session.send("Network.enable")
            limits = {"latency": latency_ms, "downloadThroughput": -1, "uploadThroughput": -1}
            await session.send("Network.emulateNetworkConditions", {"offline": False, **limits})
        await self.page.goto(f"{self.home}/{path}", wait_until="networkidle")
        return self.page

    async def shift(self) -> float:
        """Return the cumulative layout shift, when all images are loaded and painted."""
        await until(
            self.page, "[...document.images].every((one) => one.complete && one.naturalWidth)"
        )
        moved: float = await self.page.evaluate(
            "new Promise((told) => requestAnimationFrame(() =>"
            " requestAnimationFrame(() => setTimeout(() => told(window.shift)))))"
        )
        return moved

    async def largest(self) -> dict[str, Any]:
        """Return URL and time of the largest contentful paint, when that is an image."""
        await until(self.page, "Boolean(window.largest?.url)")
        found: dict[str, Any] = await self.page.evaluate("window.largest")
        return found

    async def downloads(self) -> list[str]:
        """Return the URLs of all images that were transferred, in order; copies do not count."""
        found: list[str] = await self.page.evaluate(
            "performance.getEntriesByType('resource')"
            ".filter((one) => one.name.includes('/serve/') && one.initiatorType !== 'fetch')"
            ".map((one) => one.name)"
        )
        return found

    async def images(self, *names: str) -> list[list[Any]]:
        """Return properties of all images of the page."""
        found: list[list[Any]] = await self.page.evaluate(
            "(names) => [...document.images].map((one) => names.map((name) => one[name]))",
            list(names),
        )
        return found

    async def attributes(self, name: str) -> list[str | None]:
        """Return an attribute of all images of the page."""
        found: list[str | None] = await self.page.evaluate(
            "(name) => [...document.images].map((one) => one.getAttribute(name))", name
        )
        return found


@pytest.fixture(scope="session")
def site(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Smartserve]:
    """A server with two stages: a first response is always a draft."""
    data_dir = library.copy(tmp_path_factory.mktemp("site") / "data")
    # The origins of the applications pass requests without a token on, as a proxy does.
    settings = {**SETTINGS, "METADATA__ANONYMOUS": "everywhere"}
    with smartserve(data_dir, settings=settings) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(site: Smartserve) -> AsyncIterator[Browser]:
    path = chromium()
    rules = f"--host-resolver-rules=MAP img.test 127.0.0.1:{site.address[1]}"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*QUIET, rules])
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def next_app(shared_dir: Path, site: Smartserve) -> Iterator[str]:
    """Build and serve an application of Next.js with the App Router; return its URL."""
    binary = "node_modules/next/dist/bin/next"
    templates = PACKAGE / "next" / "app"
    also = {
        "app/own/page.tsx": templates / "analyzer" / "page.tsx",
        "app/own/analyze/route.ts": templates / "api" / "analyze" / "route.ts",
    }
    place = built(HERE / "next", shared_dir / "next", binary, "build", also=also)
    port = free_port()
    server = f"IMAGE_SERVER_URL=http://127.0.0.1:{site.address[1]}"
    command = ("env", "NEXT_TELEMETRY_DISABLED=1", server, program("node"), place / binary, "start")
    where = (place, "-H", "127.0.0.1", "-p", str(port))
    with listening([*command, *where], port, log=shared_dir / f"next-{port}.log"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def nuxt_app(shared_dir: Path) -> Iterator[str]:
    """The URL of an application, built by Nuxt, and served by it."""
    place = built(HERE / "nuxt", shared_dir / "nuxt", "node_modules/nuxt/bin/nuxt.mjs", "build")
    port = free_port()
    command = ("env", f"PORT={port}", "HOST=127.0.0.1", program("node"))
    where = place / ".output" / "server" / "index.mjs"
    with listening([*command, where], port, log=shared_dir / f"nuxt-{port}.log"):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def tab(browser: Browser, home: str) -> AsyncIterator[Tab]:
    """Open a tab with a fresh profile; any error or warning in it fails the test."""
    async with await browser.new_context(viewport={"width": 1000, "height": 900}) as context:
        context.set_default_timeout(PATIENCE_MS)
        opened = Tab(await context.new_page(), home)
        yield opened
        assert opened.complaints == []


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, next_app: str) -> AsyncIterator[Tab]:
    """A tab for the application of Next.js."""
    async with tab(browser, next_app) as opened:
        yield opened
