"""The inspector while something loads or fails: it shows nothing of another image or request."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.page.conftest import FINAL_MS, PATIENCE_MS, Visit, intercept, tab, until

PHOTO, LOGO = 2, 3
_SHOWN = """[...document.querySelectorAll(
  "#url, #snippet, #origin, #headers, #analysis, #colours, #bars, #why-text")]
  .map((one) => one.textContent.trim()).join("")"""
"""The text of everything that describes one image or one response."""


_GATE = """
const decode = HTMLImageElement.prototype.decode;
window.waiting = 0;
HTMLImageElement.prototype.decode = async function () {
  if (window.gate) {
    window.waiting += 1;
    await window.gate;
    // After what waits for this function.
    setTimeout(() => { window.waiting -= 1; });
  }
  return decode.call(this);
};
"""
"""Images are decoded when `window.gate` resolves."""


@asynccontextmanager
async def held(page: Page, pattern: str) -> AsyncIterator[asyncio.Event]:
    """Hold matching requests until the event is set, or the block ends."""
    released = asyncio.Event()

    async def hold(route: Route) -> None:
        await released.wait()
        await route.continue_()

    await intercept(page, pattern, hold)
    try:
        yield released
    finally:
        released.set()
        await page.unroute_all(behavior="wait")


async def settled(page: Page) -> None:
    await until(page, "/Draft|Final/.test(document.querySelector('#stage').textContent)")


async def test_nothing_of_the_previous_image_is_shown_while_the_next_one_loads(
    visit: Visit,
) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await settled(page)
    assert f"/serve/{PHOTO}" in await page.locator("#snippet").inner_text()
    async with held(page, f"**/info/{LOGO}") as released:
        await page.keyboard.press("ArrowLeft")
        await expect(page.locator("#inspector-title")).to_have_text("logo.png")
        assert await page.evaluate(_SHOWN) == ""
        assert await page.locator("#image.there").count() == 0
        assert await page.locator('[data-fact="bytes"]').inner_text() == "–"
        await expect(page.locator("#stage")).to_have_text("Loading …")
        # Choices that are made meanwhile are applied once the description has loaded.
        await page.locator('#format label:has([value="webp"])').click()
        released.set()
        await expect(page.locator("#url")).to_contain_text(f"/serve/{LOGO}?", timeout=PATIENCE_MS)
        await expect(page.locator("#url")).to_contain_text("format=webp")


async def test_copy_is_disabled_until_there_is_something_to_copy(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    async with held(page, f"**/info/{LOGO}") as released:
        await page.keyboard.press("ArrowLeft")
        for name in ("url", "snippet"):
            await expect(page.locator(f'[data-copy="{name}"]')).to_be_disabled()
        released.set()
        for name in ("url", "snippet"):
            await expect(page.locator(f'[data-copy="{name}"]')).to_be_enabled(timeout=PATIENCE_MS)


async def test_an_image_that_is_decoded_late_does_not_appear_in_the_next_one(
    visit: Visit,
) -> None:
    await visit.page.add_init_script(_GATE)
    page = await visit.inspect("kodak-03.jpg")
    await settled(page)
    await page.evaluate(
        "void (window.gate = new Promise((resolve) => { window.openGate = resolve; }))"
    )
    await page.select_option("#size", "small")
    await until(page, "window.waiting === 1")
    await page.evaluate("window.gate = null")
    await page.locator("#previous").click()
    await expect(page.locator("#inspector-title")).to_have_text("logo.png")
    await settled(page)
    pixels = await page.locator('[data-fact="pixels"]').inner_text()
    await page.evaluate("window.openGate()")
    await until(page, "window.waiting === 0")
    await expect(page.locator('[data-fact="pixels"]')).to_have_text(pixels)


async def test_an_image_whose_description_fails_shows_only_the_reason(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await settled(page)
    await intercept(page, f"**/info/{LOGO}", lambda route: route.abort())
    await page.keyboard.press("ArrowLeft")
    await expect(page.locator("#error")).to_have_text(
        "The server does not respond. Check that it is running, then retry."
    )
    assert await page.evaluate(_SHOWN) == ""
    assert await page.locator("#image.there").count() == 0
    visit.complaints.clear()  # of the request that was aborted here


async def test_a_request_that_fails_does_not_keep_the_image_of_the_one_before(
    visit: Visit,
) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await settled(page)
    answer: dict[str, Any] = {"status": 503, "json": {"detail": "No worker became free."}}
    await intercept(page, "**/serve/*?size=thumbnail*", lambda route: route.fulfill(**answer))
    await page.select_option("#size", "thumbnail")
    await expect(page.locator("#error")).to_have_text("No worker became free.")
    assert await page.locator("#image.there").count() == 0
    assert await page.locator('[data-fact="pixels"]').inner_text() == "–"
    visit.complaints.clear()  # of the response that was replaced here


@pytest.mark.parametrize("chosen", ["small", "thumbnail"])
async def test_facts_of_the_earlier_request_are_removed_while_a_new_one_runs(
    chosen: str, visit: Visit
) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await settled(page)
    async with held(page, f"**/serve/*?size={chosen}*"):
        await page.select_option("#size", chosen)
        await expect(page.locator('[data-fact="bytes"]')).to_have_text("–")
        await expect(page.locator("#figure")).to_have_attribute("aria-busy", "true")
        assert await page.locator("#headers tr").count() == 0


async def test_a_closed_inspector_requests_nothing(visit: Visit) -> None:
    page = await visit.home()
    asked: list[str] = []
    # Described before, so that the description arrives at once.
    assert (await page.request.get(f"{visit.base}/info/{LOGO}")).ok
    async with held(page, f"**/info/{LOGO}") as released:
        await page.get_by_role("button", name="Inspect logo.png").click()
        # An inspector that has not opened yet is hidden, too.
        await expect(page.locator("#inspector")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.locator("#inspector")).to_be_hidden()
        page.on("request", lambda request: asked.append(request.url))
        released.set()
        # The metrics are polled every two seconds.
        for _ in range(2):
            await page.wait_for_event("request", lambda request: "/metrics" in request.url)
    assert [url for url in asked if f"/serve/{LOGO}" in url] == []


async def test_a_fallback_is_not_called_final_and_is_replaced(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await settled(page)
    turns: list[str] = []

    async def fall_back_once(route: Route) -> None:
        response = await route.fetch(headers={**route.request.headers, "if-none-match": ""})
        headers = dict(response.headers)
        if not turns:
            headers["cache-status"] = "smartserve; hit; detail=fallback"
        turns.append(route.request.url)
        await route.fulfill(response=response, headers=headers)

    await intercept(page, "**/serve/*?size=thumbnail&format=png*", fall_back_once)
    await page.locator('#format label:has([value="png"])').click()
    await page.select_option("#size", "thumbnail")
    await expect(page.locator("#stage")).to_have_text("Fallback")
    await expect(page.locator("#stage-note")).to_contain_text("nearest stored image")
    await expect(page.locator("#stage")).to_have_text("Final", timeout=PATIENCE_MS)


async def test_a_failed_poll_does_not_replace_a_shown_draft_by_an_error(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    polls: list[str] = []

    async def fail_polls(route: Route) -> None:
        response = await route.fetch(headers={**route.request.headers, "if-none-match": ""})
        if "if-none-match" in route.request.headers and len(polls) < 1:
            polls.append(route.request.url)
            await route.fulfill(status=503, json={"detail": "busy"})
            return
        headers = dict(response.headers)
        if not polls:
            headers["cache-status"] = "smartserve; hit; detail=draft"
        await route.fulfill(response=response, headers=headers)

    await intercept(page, "**/serve/*?size=thumbnail&format=png*", fail_polls)
    await page.locator('#format label:has([value="png"])').click()
    await page.select_option("#size", "thumbnail")
    await expect(page.locator("#stage")).to_have_text("Draft")
    await expect(page.locator("#stage")).to_have_text("Final", timeout=PATIENCE_MS)
    assert len(polls) == 1
    await expect(page.locator("#error")).to_be_hidden()
    visit.complaints.clear()  # of the response that was replaced here


async def test_a_background_that_could_not_be_removed_is_reported(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await page.locator('#bg label:has([value="removed"])').click()
    await expect(page.locator("#notice")).to_contain_text("background was not removed")
    await expect(page.locator("#announcement")).to_contain_text("background was not removed")
    # The image is the opaque original, whatever was requested.
    assert "transparent" not in (await page.get_attribute("#frame", "class") or "")
    await settled(page)
    await expect(page.locator("#notice")).to_contain_text("border of this image is not uniform")
    await page.locator('#bg label:has([value="original"])').click()
    await expect(page.locator("#notice")).to_be_hidden()


async def test_a_removed_background_is_not_reported_as_kept(visit: Visit) -> None:
    page = await visit.inspect("logo.png")
    await page.locator('#bg label:has([value="removed"])').click()
    await expect(page.locator("#url")).to_contain_text("bg=removed")
    await settled(page)
    await expect(page.locator("#notice")).to_be_hidden()
    await expect(page.locator("#frame")).to_have_class("frame transparent")


async def test_formats_are_not_compared_with_themselves_after_an_animation(
    browser: Browser, drawn: str
) -> None:
    async with tab(browser, drawn) as visit:
        page = await visit.inspect("moving.gif")
        await expect(page.locator("#bars li")).not_to_have_count(0)
        await page.keyboard.press("Escape")
        await page.get_by_role("button", name="Inspect photo.jpg").click()
        await expect(page.locator("#bars li")).to_have_count(3)
        assert await page.input_value("#left") == "jpeg"
        assert await page.input_value("#right") == "avif"
        # A choice is kept for the next image; the same format on both sides swaps them.
        await page.select_option("#left", "avif")
        assert await page.input_value("#right") == "jpeg"


async def test_a_format_that_fails_is_reported_in_the_comparison(visit: Visit) -> None:
    page = await visit.home()
    answer: dict[str, Any] = {"status": 503, "json": {"detail": "No worker became free."}}
    await intercept(page, "**/serve/*format=webp*", lambda route: route.fulfill(**answer))
    await page.get_by_role("button", name="Inspect kodak-03.jpg").click()
    await expect(page.locator("#bars")).to_contain_text("No worker became free.")
    await expect(page.locator("#under")).to_have_attribute("src", re.compile("blob:"))
    await page.select_option("#right", "webp")
    assert await page.get_attribute("#under", "src") is None
    visit.complaints.clear()  # of the response that was replaced here


async def test_a_new_address_opens_another_image(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await page.evaluate(f"location.hash = '{LOGO}'")
    await expect(page.locator("#inspector-title")).to_have_text("logo.png")
    await expect(page.locator("#url")).to_contain_text(f"/serve/{LOGO}?")


async def test_a_double_click_on_a_tile_opens_the_inspector(visit: Visit) -> None:
    # So high that the backdrop is at the place of the tile after the first click.
    await visit.page.set_viewport_size({"width": 1280, "height": 1900})
    page = await visit.home()
    await page.get_by_role("button", name="Inspect badge.png").dblclick(position={"x": 3, "y": 9})
    await page.wait_for_selector("#image.there")
    assert await page.locator("#inspector").is_visible()


async def test_copy_works_without_the_clipboard_api(visit: Visit) -> None:
    await visit.page.add_init_script(
        "Object.defineProperty(navigator, 'clipboard', { value: undefined })"
    )
    page = await visit.inspect("kodak-03.jpg")
    await page.evaluate(
        "addEventListener('copy', (event) => { window.copied ="
        " event.clipboardData.getData('text/plain'); })"
    )
    await page.locator('[data-copy="url"]').click()
    await expect(page.locator('[data-copy="url"]')).to_have_text("Copied")
    url = await page.locator("#url").inner_text()
    assert await page.evaluate("window.copied") == visit.base + url


async def test_a_refused_copy_is_not_reported_as_done(visit: Visit) -> None:
    await visit.page.add_init_script(
        "Object.defineProperty(navigator, 'clipboard', { value: undefined });"
        "document.execCommand = () => false;"
    )
    page = await visit.inspect("kodak-03.jpg")
    await expect(page.locator("#stage")).to_have_text("Final", timeout=FINAL_MS)
    await page.locator('[data-copy="url"]').click()
    await expect(page.locator('[data-copy="url"]')).to_have_text("Not copied")
    await expect(page.locator("#announcement")).to_contain_text("Not copied")
    await expect(page.locator(".address + #copy-fault")).to_contain_text("copy it with Ctrl+C")
    selected = await page.evaluate("getSelection().toString()")
    assert selected.startswith(f"{visit.base}/serve/{PHOTO}?")
