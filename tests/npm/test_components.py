"""The package in applications that Next.js and Nuxt built, in a real browser."""

from __future__ import annotations

import math
import re
import urllib.request
from html.parser import HTMLParser
from typing import Any

import pytest
from playwright.async_api import Browser, Route, expect

from tests.benchmarks.servers import Smartserve
from tests.npm.conftest import BASE, Tab, tab
from tests.page.conftest import FINAL_MS, until
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

LATENCY_MS = 150
PAGES = {
    "printed": 1,
    "priority": 1,
    "formats": 1,
    "ratio": 2,
    "plain": 1,
    "loader": 1,
    "unpic": 1,
}
"""Pages of the application, and how many images of the server each one shows."""

HOLD = """
window.held = [];
const later = window.setTimeout;
window.setTimeout = (action, ms, ...rest) =>
  ms === 30_000 ? window.held.push(action) : later(action, ms, ...rest);
"""
"""Holds the half minute after which the component checks for a final."""


class _Images(HTMLParser):
    """Collects what a page says before any script runs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.preloads: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img":
            self.images.append(given)
        if tag == "link" and given.get("as") == "image":
            self.preloads.append(given)


def rendered(url: str) -> _Images:
    """Return what the server of an application rendered."""
    with urllib.request.urlopen(url, timeout=30) as response:
        return _Images(response.read().decode())


def heads(visit: Tab) -> list[str]:
    """Return the URLs that were checked."""
    return [one.url for one in visit.requests if one.method == "HEAD"]


async def test_a_draft_is_replaced_by_its_final_after_one_check(
    browser: Browser, visit: Tab, site: Smartserve
) -> None:
    """The first test here: nothing else waits for the worker in the background.

    The browser's list of resources is full, as on a page that has been open for some time.
    """
    await visit.page.add_init_script(HOLD)
    await visit.page.add_init_script("performance.setResourceTimingBufferSize(0)")
    page = await visit.open("client")
    await page.get_by_text("photo").click()
    await expect(page.locator("output")).to_have_text("load")
    ((draft,),) = await visit.images("currentSrc")
    url = f"http://127.0.0.1:{site.address[1]}{draft.removeprefix(BASE)}"

    def is_final() -> bool:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=30) as response:
            return "Last-Modified" in response.headers

    await eventually(is_final, timeout_s=FINAL_MS / 1000, interval_s=0.2)
    assert await page.evaluate("window.held.splice(0).map((action) => action()).length") == 1
    await expect(page.locator("output")).to_have_text("load final")
    assert heads(visit) == [draft]
    ((final,),) = await visit.images("currentSrc")
    assert re.fullmatch(re.escape(draft) + r"&v=\d+", final)
    # A page that finds the final has nothing to check.
    async with tab(browser, visit.home) as later:
        await later.page.add_init_script(HOLD)
        page = await later.open("client")
        await page.get_by_text("photo").click()
        await expect(page.locator("output")).to_have_text("load")
        assert await page.evaluate("window.held.length") == 0
        assert heads(later) == []


@pytest.mark.parametrize("path", PAGES)
async def test_the_browser_shows_the_images_of_the_server_and_downloads_each_once(
    visit: Tab, next_app: str, path: str
) -> None:
    sent = rendered(f"{next_app}/{path}").images
    await visit.open(path)
    assert all(width for (width,) in await visit.images("naturalWidth"))
    for name in ("src", "srcset", "sizes", "loading"):
        shown = await visit.attributes(name)
        assert shown == [one.get(name) for one in sent]
    downloads = await visit.downloads()
    assert len(downloads) == PAGES[path], downloads


async def test_the_component_works_as_printed_in_the_requirements(visit: Tab) -> None:
    """In a server component of Next.js; `backgroundOption` and the formats choose the URL."""
    page = await visit.open("printed", latency_ms=LATENCY_MS)
    assert await visit.downloads() == [f"{BASE}/serve/2?size=thumbnail&format=avif&bg=removed"]
    shown = page.locator("dl")
    await expect(shown).to_have_count(2)
    for panel in await shown.all():
        await expect(panel).to_contain_text("/ 100")
        await expect(panel).to_contain_text("Mood")
        await expect(panel.locator("i")).not_to_have_count(0)
    assert await visit.shift() == 0


async def test_an_image_with_priority_is_preloaded_and_not_lazy(visit: Tab, next_app: str) -> None:
    sent = rendered(f"{next_app}/priority")
    (preload,) = sent.preloads
    (image,) = sent.images
    assert preload["imagesrcset"] == image["srcset"]
    assert preload["imagesizes"] == image["sizes"]
    assert (preload["fetchpriority"], image["fetchpriority"]) == ("high", "high")
    assert image["loading"] == "eager"
    page = await visit.open("priority", latency_ms=LATENCY_MS)
    largest = await visit.largest()
    assert [largest["url"]] == await visit.downloads()
    # The request does not wait for the scripts, so that it starts before any of them has arrived.
    began, scripts = await page.evaluate(
        "(() => { const all = performance.getEntriesByType('resource');"
        " const start = all.find((one) => one.name.includes('/serve/')).startTime;"
        " const ends = all.filter((one) => one.initiatorType === 'script');"
        " return [start, Math.min(...ends.map((one) => one.responseEnd))]; })()"
    )
    assert began < scripts


async def test_the_first_of_the_formats_is_the_one_that_is_preloaded(
    visit: Tab, next_app: str
) -> None:
    (preload,) = rendered(f"{next_app}/formats").preloads
    assert preload["type"] == "image/webp"
    await visit.open("formats")
    assert await visit.downloads() == [f"{BASE}/serve/2?w=828&format=webp"]


async def test_the_largest_paint_is_as_early_as_that_of_a_plain_image(
    browser: Browser, next_app: str
) -> None:
    """The best of up to six visits each, because the machine may be busy."""
    best = {"plain": math.inf, "priority": math.inf}
    for _ in range(6):
        for path, before in list(best.items()):
            async with tab(browser, next_app) as visit:
                await visit.open(path, latency_ms=LATENCY_MS)
                largest = await visit.largest()
                assert "/serve/2" in largest["url"]
                best[path] = min(before, largest["time"])
        if best["priority"] <= 1.15 * best["plain"]:
            return
    pytest.fail(f"milliseconds to the largest paint: {best}")


@pytest.mark.parametrize("path", ["printed", "priority", "formats", "ratio"])
async def test_the_layout_does_not_shift_if_the_ratio_is_known(visit: Tab, path: str) -> None:
    """Without width and height too: by `aspectRatio`, by a style, and by a size that crops."""
    await visit.open(path, latency_ms=LATENCY_MS)
    assert await visit.shift() == 0
    expected = {"printed": [(300, 300)], "ratio": [(1000, 667)] * 2}
    boxes = await visit.images("offsetWidth", "offsetHeight")
    assert [tuple(one) for one in boxes] == expected.get(path, [(768, 512)])


async def test_an_image_without_priority_is_loaded_when_it_comes_near(visit: Tab) -> None:
    page = await visit.open("lazy")
    assert await visit.downloads() == []
    await page.locator("img").scroll_into_view_if_needed()
    await until(page, "document.images[0].complete && document.images[0].naturalWidth > 0")
    assert len(await visit.downloads()) == 1


async def test_an_invalid_id_requests_nothing_and_spares_its_neighbours(visit: Tab) -> None:
    page = await visit.open("broken")
    (url,) = await visit.downloads()
    assert url.startswith(f"{BASE}/serve/3?")
    asked = [one.url for one in visit.requests if one.url.startswith(BASE)]
    assert not [one for one in asked if "undefined" in one or "null" in one]
    assert await visit.images("offsetWidth", "offsetHeight") == [[300, 200]] * 3
    assert await page.locator("dd").all_inner_texts() != []


async def test_a_failed_image_is_requested_again_without_formats(visit: Tab) -> None:
    page = await visit.open("client")
    refused: list[str] = []

    async def once(route: Route) -> None:
        if refused:
            await route.continue_()
            return
        refused.append(route.request.url)
        await route.fulfill(status=503, body="")

    await page.route("**/serve/**", once)
    await page.get_by_text("photo").click()
    await expect(page.locator("output")).to_have_text("load")
    assert "format=webp" in refused[0]
    ((url,),) = await visit.images("currentSrc")
    assert "format=" not in url
    assert "503" in visit.complaints.pop()


async def test_a_missing_image_is_an_error_after_some_retries(visit: Tab) -> None:
    await visit.page.clock.install()
    page = await visit.open("client")
    await page.get_by_text("missing").click()

    async def has_ended() -> bool:
        await page.clock.fast_forward(10_000)
        return await page.locator("output").inner_text() != ""

    await eventually(has_ended, interval_s=0.2)
    await expect(page.locator("output")).to_have_text("error")
    asked = [one.url for one in visit.requests if "/serve/999999" in one.url]
    # The retries, and those of Chromium: it requests another width of an image that has failed.
    assert 4 <= len(asked) <= 8


async def test_a_placeholder_is_shown_until_the_image_is_loaded(visit: Tab) -> None:
    page = await visit.open("client")
    await page.route("**/serve/**", lambda _: None)
    await page.get_by_text("photo").click()
    image = page.locator("img")
    await expect(image).to_have_attribute("style", re.compile(r"url\(.*data:image/gif"))
    await page.unroute_all(behavior="ignoreErrors")
    await page.reload()
    await page.get_by_text("photo").click()
    await expect(page.locator("output")).to_have_text("load")
    await expect(image).not_to_have_attribute("style", re.compile("data:"))


async def test_the_loader_leaves_images_of_the_application_alone(visit: Tab) -> None:
    await visit.open("loader")
    found: list[list[Any]] = await visit.images("alt", "currentSrc", "naturalWidth")
    (by_id, own) = found
    assert re.fullmatch(rf"{BASE}/serve/2\?w=\d+", by_id[1])
    assert own[1] == f"{visit.home}/badge.png"
    assert own[2] > 0


async def test_the_provider_works_in_an_application_of_nuxt(
    browser: Browser, nuxt_app: str
) -> None:
    async with tab(browser, nuxt_app) as visit:
        await visit.open("")
        found = dict(await visit.images("alt", "currentSrc"))
        assert found["by width"] == f"{BASE}/serve/2?w=640"
        assert found["by size"] == f"{BASE}/serve/3?size=thumbnail&v=ab"
        assert re.fullmatch(rf"{BASE}/serve/4\?w=\d+&format=avif", found["in formats"])
        assert found["of the application"] == f"{nuxt_app}/badge.png"
        assert all(width for (width,) in await visit.images("naturalWidth"))
        assert len(await visit.downloads()) == 3
