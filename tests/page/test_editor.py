"""The editor in a real browser: focal point, crops, background and texts, also by keyboard."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

from tests.benchmarks.servers import smartserve
from tests.page.conftest import SETTINGS, Visit, intercept, tab, until
from tests.page.test_reach import ColorScheme, axe
from tests.support.server import Library

KEY = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="session")
def desk(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a server with an admin key, on images of its own; return its address."""
    data_dir = library.copy(tmp_path_factory.mktemp("desk") / "data")
    # On a busy machine a query may take longer than the default of 5 s; a 503 would be a fault.
    settings = {**SETTINGS, "ADMIN__KEY": KEY, "DATABASE__QUERY_TIMEOUT_S": "60"}
    with smartserve(data_dir, settings=settings) as running:
        yield f"http://127.0.0.1:{running.address[1]}"


@pytest_asyncio.fixture(loop_scope="session")
async def editor(browser: Browser, desk: str) -> AsyncIterator[Visit]:
    async with tab(browser, desk, viewport={"width": 1200, "height": 900}) as visit:
        yield visit


async def unlock(visit: Visit, name: str = "kodak-03.jpg") -> Page:
    """Open an image, and its editor."""
    page = await visit.inspect(name)
    await page.get_by_label("Admin key").fill(KEY)
    await page.keyboard.press("Enter")
    await expect(page.locator("#editing")).to_be_visible()
    return page


async def media(page: Page) -> str:
    """Return the address of the open image in the API."""
    return str(await page.evaluate("`${location.origin}/api/media/${location.hash.slice(1)}`"))


async def choices(page: Page) -> Any:
    """Return what is set for the open image."""
    answer = await page.request.get(f"{await media(page)}/choices", headers=BEARER)
    return await answer.json()


async def clear(page: Page) -> None:
    for path in ("focus", "crops/thumbnail", "crops/header", "background", "alt"):
        await page.request.delete(f"{await media(page)}/{path}", headers=BEARER)


def note(page: Page, size: str) -> Any:
    return page.locator("#previews li", has_text=size).locator(".note")


async def test_a_click_sets_the_focal_point_and_shows_the_new_crops(editor: Visit) -> None:
    page = await unlock(editor)
    await clear(page)
    before = await page.locator("#url").inner_text()
    thumbnail = page.locator(".tile").filter(has=page.locator("b", has_text="kodak-03.jpg"))
    source = await thumbnail.locator("img").get_attribute("src")
    await expect(note(page, "thumbnail")).to_have_text("automatic")

    await until(page, "document.querySelector('#whole').naturalWidth > 0")
    box = await page.locator("#plane").bounding_box()
    assert box is not None
    await page.locator("#plane").click(
        position={"x": box["width"] * 0.25, "y": box["height"] * 0.75}
    )
    await expect(note(page, "thumbnail")).to_have_text("focal point")
    assert (await choices(page))["focus"] is None, "nothing is saved before the button is used"
    await page.get_by_role("button", name="Set focal point").click()
    await expect(page.locator("#editing-state")).to_have_text(re.compile("focal point is set"))

    focus = (await choices(page))["focus"]
    assert focus["x"] == pytest.approx(0.25, abs=0.02)
    assert focus["y"] == pytest.approx(0.75, abs=0.02)
    # The image and its tile show the new version.
    await expect(page.locator("#url")).not_to_have_text(before)
    assert await thumbnail.locator("img").get_attribute("src") != source

    await page.get_by_role("button", name="Return to automatic").click()
    await expect(page.locator("#editing-state")).to_have_text(re.compile("detected again"))
    assert (await choices(page))["focus"] is None


async def test_the_preview_of_a_crop_is_what_the_server_renders(editor: Visit) -> None:
    page = await unlock(editor)
    await clear(page)
    await page.locator('#target label:has([value="thumbnail"])').click()
    await page.locator("#across").fill("30")
    await page.locator("#down").fill("60")
    await page.locator("#zoom-in").fill("50")
    shown = (
        await page.locator("#previews li", has_text="thumbnail")
        .locator("img")
        .evaluate(
            """(image) => {
            const [outer, inner] = [image.parentElement, image]
                .map((one) => one.getBoundingClientRect());
            return [(outer.x - inner.x) / inner.width, (outer.y - inner.y) / inner.height,
                outer.width / inner.width, outer.height / inner.height];
        }"""
        )
    )
    await page.get_by_role("button", name="Set crop of thumbnail").click()
    await expect(page.locator("#editing-state")).to_have_text(
        re.compile("crop of thumbnail is set")
    )
    crop = (await choices(page))["crops"]["thumbnail"]
    # 768 x 512 pixels: half of the largest square.
    assert crop["width"] == pytest.approx(256 / 768, abs=0.001)
    assert crop["height"] == pytest.approx(0.5, abs=0.001)
    assert shown == pytest.approx([crop[name] for name in ("x", "y", "width", "height")], abs=0.01)
    await expect(note(page, "header")).to_have_text("automatic")


async def test_everything_can_be_set_by_keyboard(editor: Visit) -> None:
    page = await unlock(editor)
    await clear(page)
    # The focus is on the first choice after the key was accepted.
    await expect(page.locator('#target [value=""]')).to_be_focused()
    await page.keyboard.press("ArrowRight")
    title = await page.locator("#set").inner_text()
    size = title.removeprefix("Set crop of ")
    await page.keyboard.press("Tab")
    await expect(page.locator("#across")).to_be_focused()
    await page.keyboard.press("Home")
    await page.keyboard.press("Tab")
    await page.keyboard.press("End")
    await page.keyboard.press("Tab")
    await expect(page.locator("#zoom-in")).to_be_focused()
    await page.keyboard.press("Home")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("#editing-state")).to_have_text(re.compile(f"crop of {size} is set"))
    crop = (await choices(page))["crops"][size]
    assert crop["x"] == 0
    assert crop["y"] + crop["height"] == pytest.approx(1, abs=0.001)
    # The arrow keys moved sliders, and no other image was opened.
    await expect(page.locator("#inspector-title")).to_have_text("kodak-03.jpg")


async def test_the_default_background_is_shown_at_once(editor: Visit) -> None:
    page = await unlock(editor, "logo.png")
    await clear(page)
    await page.locator('#default-bg label:has([value="removed"])').click()
    await expect(page.locator("#editing-state")).to_have_text(re.compile("without its background"))
    assert (await choices(page))["background"] == "removed"
    assert await page.locator('#bg [value="removed"]').is_checked()
    assert "bg=" not in await page.locator("#url").inner_text()
    await expect(page.locator("#frame")).to_have_class(re.compile("transparent"))
    # The original has to be named in the address now.
    await page.locator('#bg label:has([value="original"])').click()
    await expect(page.locator("#url")).to_contain_text("bg=original")


async def test_texts_are_saved_listed_and_deleted_by_language(editor: Visit) -> None:
    page = await unlock(editor)
    await clear(page)
    await page.locator("#alt-language").fill("de-at")
    await page.locator("#alt-text").fill("Mützen an einer Wand")
    await page.get_by_role("button", name="Save text").click()
    listed = page.locator("#alt-texts li")
    await expect(listed).to_have_count(1)
    await expect(listed).to_contain_text("de-AT")
    assert await listed.locator("span").get_attribute("lang") == "de-AT"
    assert (await choices(page))["alt"] == {"de-AT": "Mützen an einer Wand"}
    await page.get_by_role("button", name="Delete the text in de-AT").click()
    await expect(listed).to_have_count(0)
    assert (await choices(page))["alt"] == {}


async def test_a_save_that_ends_late_leaves_the_next_image_alone(editor: Visit) -> None:
    page = await unlock(editor)
    await clear(page)
    held, released = asyncio.Event(), asyncio.Event()
    first = await page.evaluate("location.hash.slice(1)")

    async def late(route: Route) -> None:
        held.set()
        await released.wait()
        await route.continue_()

    # The request for the new description, after the focal point is saved.
    await intercept(page, f"**/info/{first}", late)
    await page.locator("#across").fill("10")
    await page.locator("#set").click()
    await held.wait()
    await page.locator("#previous").click()
    await expect(page.locator("#editing")).to_be_visible()
    await page.locator("#across").fill("80")
    async with page.expect_response(f"**/info/{first}"):
        released.set()
    # The answer is handled after it has arrived.
    await page.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")
    assert await page.locator("#across").input_value() == "80"
    await expect(page.locator("#editing-error")).to_be_hidden()
    await expect(page.locator("#editing-state")).to_be_empty()
    await page.unroute_all()
    await page.locator("#next").click()
    await expect(page.locator("#editing")).to_be_visible()
    await clear(page)


async def test_saving_something_else_keeps_a_focal_point_that_is_not_set_yet(
    editor: Visit,
) -> None:
    page = await unlock(editor)
    await clear(page)
    await page.locator("#across").fill("20")
    await page.locator("#down").fill("70")
    await page.locator("#alt-text").fill("Caps on a wall")
    await page.get_by_role("button", name="Save text").click()
    await expect(page.locator("#editing-state")).to_have_text(re.compile("text in en is saved"))
    assert await page.locator("#across").input_value() == "20"
    await expect(note(page, "thumbnail")).to_have_text("focal point")
    await page.get_by_role("button", name="Set focal point").click()
    await expect(page.locator("#editing-state")).to_have_text(re.compile("focal point is set"))
    assert (await choices(page))["focus"] == {"x": 0.2, "y": 0.7}
    await page.get_by_role("button", name="Return to automatic").click()
    await expect(page.locator("#editing-state")).to_have_text(re.compile("detected again"))
    assert await page.locator("#across").input_value() == "50"


async def test_a_slider_that_moves_during_a_save_is_not_reset(editor: Visit) -> None:
    page = await unlock(editor)
    await clear(page)
    held, released = asyncio.Event(), asyncio.Event()

    async def late(route: Route) -> None:
        held.set()
        await released.wait()
        await route.continue_()

    await intercept(page, "**/focus", late)
    await page.locator("#across").fill("20")
    await page.locator("#set").click()
    await held.wait()
    await page.locator("#across").fill("80")
    released.set()
    await expect(page.locator("#editing-state")).to_have_text(re.compile("focal point is set"))
    assert (await choices(page))["focus"]["x"] == 0.2
    assert await page.locator("#across").input_value() == "80"
    await page.unroute_all()
    # What was not set belongs to this image alone.
    await page.locator("#previous").click()
    await expect(page.locator("#editing")).to_be_visible()
    assert await page.locator("#across").input_value() == "50"
    await page.locator("#next").click()
    await expect(page.locator("#editing")).to_be_visible()
    assert await page.locator("#across").input_value() == "20"
    await clear(page)


async def test_a_text_is_not_kept_for_the_next_image(editor: Visit) -> None:
    page = await unlock(editor)
    await page.locator("#alt-text").fill("Caps on a wall")
    await page.locator("#previous").click()
    await expect(page.locator("#editing")).to_be_visible()
    assert await page.locator("#alt-text").input_value() == ""


async def test_a_save_by_keyboard_keeps_the_focus(editor: Visit) -> None:
    page = await unlock(editor)
    await clear(page)
    state = page.locator("#editing-state")
    for language in ("de", "fr"):
        await page.locator("#alt-language").fill(language)
        await page.get_by_role("button", name="Save text").click()
        await expect(state).to_have_text(re.compile(f"text in {language} is saved"))
    await page.get_by_role("button", name="Delete the text in de").focus()
    await page.keyboard.press("Enter")
    await expect(state).to_have_text(re.compile("in de is deleted"))
    await expect(page.get_by_role("button", name="Delete the text in fr")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(state).to_have_text(re.compile("in fr is deleted"))
    await expect(page.locator("#alt-language")).to_be_focused()

    await page.locator('#default-bg [value="original"]').focus()
    await page.keyboard.press("ArrowRight")
    await expect(state).to_have_text(re.compile("without its background"))
    await expect(page.locator('#default-bg [value="removed"]')).to_be_focused()

    await page.locator("#set").click()
    await expect(state).to_have_text(re.compile("focal point is set"))
    await page.locator("#automatic").focus()
    await page.keyboard.press("Enter")
    await expect(state).to_have_text(re.compile("detected again"))
    await expect(page.locator("#set")).to_be_focused()
    await clear(page)


async def test_a_wrong_key_and_a_bad_language_are_said_and_nothing_is_lost(
    browser: Browser, desk: str
) -> None:
    async with tab(browser, desk) as visit:
        page = await visit.inspect("kodak-03.jpg")
        await page.get_by_label("Admin key").fill("wrong-horse-battery-staple")
        await page.keyboard.press("Enter")
        await expect(page.locator("#editing-error")).to_have_text("the key is wrong")
        await expect(page.locator("#unlock")).to_be_visible()
        await page.get_by_label("Admin key").fill(KEY)
        await page.keyboard.press("Enter")
        await expect(page.locator("#editing")).to_be_visible()
        await page.locator("#alt-language").fill("german_")
        await page.locator("#alt-text").fill("Mützen")
        await page.get_by_role("button", name="Save text").click()
        await expect(page.locator("#editing-error")).to_contain_text("language tag")
        assert await page.locator("#alt-text").input_value() == "Mützen"
        # The key is kept for the next image.
        await page.get_by_role("button", name="Older image").click()
        await expect(page.locator("#editing")).to_be_visible()
        # The browser logs the 401 and the 400.
        visit.complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390, 320])
async def test_the_editor_fits_every_screen_and_axe_finds_no_violations(
    browser: Browser, desk: str, width: int, scheme: ColorScheme
) -> None:
    viewport = {"width": width, "height": 800}
    async with tab(browser, desk, viewport=viewport, color_scheme=scheme) as visit:
        page = await unlock(visit)
        await page.locator('#target label:has([value="header"])').click()
        body = page.locator("#inspector .body")
        assert await body.evaluate("(one) => one.scrollWidth <= one.clientWidth")
        for one in await page.locator("#editing *").all():
            box = await one.bounding_box()
            if box and not await one.evaluate("(one) => !!one.closest('.crop, .plane')"):
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= width
        assert await axe(page) == []
