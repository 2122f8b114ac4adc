"""A real browser and a real server: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image
from playwright.async_api import Browser, Page, Route, async_playwright, expect

from tests.benchmarks.servers import Smartserve, smartserve
from tests.support.server import SAMPLES, Library
from tests.support.unavailable import unavailable

QUIET = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
)
"""Runs as root, and sends no requests of its own to other machines."""

SETTINGS = {
    # Drafts always go first, and finals cost little.
    "UPGRADES__BUDGET_S": "0",
    "UPGRADES__ALL_SIZES": "false",
    "ENCODERS__TARGET": "0",
    "ENCODERS__AVIF__FINAL__EFFORT": "1",
    "WORKERS__COUNT": "2",
}
PATIENCE_MS = 30_000
FINAL_MS = 240_000
"""Finals may take a while on a busy machine."""
# The default of 5 s is too short on a busy machine.
expect.set_options(timeout=PATIENCE_MS)
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`);
});
"""


@dataclass
class Visit:
    """A tab, and the errors that occurred in it."""

    page: Page
    base: str
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    async def watch(self) -> None:
        """Record console errors, script errors, and requests to other hosts."""
        await self.page.add_init_script(WATCH)
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type == "error" else None,
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        if not url.startswith((self.base, "data:", "blob:")):
            self.elsewhere.append(url)

    async def faults(self) -> list[str]:
        """Return all errors, including violations of the content security policy."""
        violations: list[str] = await self.page.evaluate("window.violations")
        return [*self.complaints, *self.elsewhere, *violations]

    async def home(self) -> Page:
        """Open the page, and wait for its images."""
        await self.page.goto(self.base)
        await self.page.wait_for_selector(".tile img.there")
        return self.page

    async def inspect(self, name: str) -> Page:
        """Open the page and one of its images, and wait for the response."""
        page = await self.home()
        await page.get_by_role("button", name=f"Inspect {name}").click()
        await page.wait_for_selector("#image.there")
        return page


async def until(page: Page, script: str, *, timeout_ms: int = PATIENCE_MS) -> None:
    """Return when a script returns true.

    `wait_for_function` cannot be used: it evaluates text in the page, which the content security
    policy forbids.

    Raises:
        TimeoutError: it did not return true in time.
    """
    async with asyncio.timeout(timeout_ms / 1000):
        while not await page.evaluate(script):
            await page.wait_for_timeout(50)


async def intercept(page: Page, pattern: str, handler: Callable[[Route], Any]) -> None:
    """Route matching requests of a loaded page to a handler; return when routing is active.

    A request sent directly after `Page.route` has reached the server once. So a probe is requested
    until it is intercepted.
    """
    seen: list[str] = []

    async def answer(route: Route) -> None:
        seen.append(route.request.url)
        await route.fulfill(body="")

    await page.route(pattern, handler)
    await page.route("**/healthz?intercepted", answer)
    async with asyncio.timeout(PATIENCE_MS / 1000):
        while not seen:
            await page.evaluate("fetch('/healthz?intercepted').then((one) => one.text())")
    await page.unroute("**/healthz?intercepted", answer)


@asynccontextmanager
async def tab(browser: Browser, base: str, **options: Any) -> AsyncIterator[Visit]:
    """Open a tab with a fresh profile; any error in it fails the test."""
    async with await browser.new_context(**options) as context:
        context.set_default_timeout(PATIENCE_MS)
        visit = Visit(await context.new_page(), base)
        await visit.watch()
        yield visit
        assert await visit.faults() == []


def chromium() -> str:
    """Return the path of Chromium. Without it tests are skipped, or fail if ``CI`` is set."""
    found = shutil.which("chromium")
    if found is None:
        unavailable("chromium is not installed: the browser tests cannot run")
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder slow, and run them in one loop: the browser belongs to it."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.slow)
        # Several waits in one test, each with a limit of its own, may be long on a busy machine.
        item.add_marker(pytest.mark.timeout(600))
        if isinstance(item, pytest.Function) and iscoroutinefunction(item.function):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def site(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Smartserve]:
    """Run a server with the default settings and two stages, shared by all tests here."""
    data_dir = library.copy(tmp_path_factory.mktemp("site") / "data")
    with smartserve(data_dir, settings=SETTINGS) as running:
        yield running


def _drawn(directory: Path) -> dict[str, Path]:
    """Draw logos in one colour on nothing, and an animation of two frames."""
    files = {}
    for name, colour in (("white", (255,) * 3), ("grey", (136,) * 3), ("black", (0,) * 3)):
        files[name] = directory / f"{name}.png"
        logo = Image.new("RGBA", (300, 300))
        logo.paste((*colour, 255), (75, 75, 225, 225))
        logo.save(files[name])
    files["moving"] = directory / "moving.gif"
    first, second = (Image.new("RGB", (320, 240), colour) for colour in ("navy", "orange"))
    first.save(files["moving"], save_all=True, append_images=[second], duration=200, loop=0)
    files["photo"] = directory / "photo.jpg"
    shutil.copy(min(SAMPLES.glob("*.jpg")), files["photo"])
    return files


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a server with logos of one colour, an animation and a photo; return its address."""
    directory = tmp_path_factory.mktemp("drawn")
    Library(directory / "data", _drawn(directory))
    with smartserve(directory / "data", settings=SETTINGS) as running:
        yield f"http://127.0.0.1:{running.address[1]}"


@pytest.fixture(scope="session")
def base(site: Smartserve) -> str:
    return f"http://127.0.0.1:{site.address[1]}"


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, base: str) -> AsyncIterator[Visit]:
    async with tab(browser, base, viewport={"width": 1280, "height": 900}) as visit:
        yield visit
