"""Accessibility: keyboard, three widths, light and dark, reduced motion."""

from __future__ import annotations

import io
import re
from importlib import resources
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image
from playwright.async_api import Browser, Locator, Page, expect

from tests.page.conftest import Visit, tab, until

ColorScheme = Literal["light", "dark"]
WIDTHS = ((390, 844), (820, 1180), (1440, 900))

_UNNAMED = """() => [...document.querySelectorAll(
    "button, select, input, a, [role=group], dialog, section")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.ariaLabel || one.labels?.length || one.textContent.trim() ||
    one.getAttribute("aria-labelledby")))
  .map((one) => one.outerHTML)"""
"""Controls without an accessible name."""

CONTRASTS = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
    .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour[3] === undefined || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const one of document.querySelectorAll(
      "h1, h2, h3, p, a, dt, dd, span, summary, code, pre, th, td, button, legend, b")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !one.checkVisibility() || one.closest(".tile, [disabled], .hidden")) continue;
    const [a, b] = [light(channels(getComputedStyle(one).color)), light(ground(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${one.outerHTML.slice(0, 80)}: ${ratio.toFixed(2)}`);
  }
  return faint;
}"""
"""Text below the contrast of WCAG 2.2, 1.4.3."""


def luminance(pixel: tuple[int, ...]) -> float:
    """Return the relative luminance of WCAG 2.2."""
    linear = [
        one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4
        for one in (channel / 255 for channel in pixel[:3])
    ]
    return sum(a * b for a, b in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


async def contrast(shown: Locator) -> float:
    """Return the contrast of a square logo with the tone of its ground that differs more."""
    with Image.open(io.BytesIO(await shown.screenshot())) as screenshot:
        picture = screenshot.convert("RGB")
    width, height = picture.size
    logo = luminance(_pixel(picture, width // 2, height // 2))
    # Left of the logo, which takes the inner half: between the rounded corners and its edge.
    ground = {_pixel(picture, width // 7, y) for y in range(height // 4, 3 * height // 4)}
    pairs = (sorted((logo, luminance(tone))) for tone in ground)
    return max((light + 0.05) / (dark + 0.05) for dark, light in pairs)


def _pixel(picture: Image.Image, x: int, y: int) -> tuple[int, ...]:
    found = picture.getpixel((x, y))
    assert isinstance(found, tuple)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_logos_of_one_colour_are_visible(
    scheme: ColorScheme, browser: Browser, drawn: str
) -> None:
    async with tab(browser, drawn, color_scheme=scheme, reduced_motion="reduce") as visit:
        page = await visit.home()
        for name, least in (("white", 3), ("black", 3), ("grey", 1.7)):
            tile = page.get_by_role("button", name=f"Inspect {name}.png")
            await expect(tile).to_have_class(re.compile("clear"))
            await expect(tile.locator("canvas")).to_have_count(0)
            assert await contrast(tile) >= least, name
            await tile.click()
            await page.wait_for_selector("#image.there")
            await expect(page.locator("#figure")).to_have_attribute("aria-busy", "false")
            assert await contrast(page.locator("#image")) >= least, name
            await page.keyboard.press("Escape")


async def focused(page: Page) -> str:
    told: str = await page.evaluate(
        "document.activeElement.ariaLabel || document.activeElement.id || "
        "document.activeElement.textContent"
    )
    return told


async def test_everything_is_reachable_by_keyboard(visit: Visit) -> None:
    page = await visit.home()
    await page.keyboard.press("Tab")
    assert await focused(page) == "Skip to the images"
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    assert await focused(page) == "Inspect badge.png"
    await page.keyboard.press("ArrowRight")
    assert await focused(page) == "Inspect logo.png"
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#image.there")
    assert await focused(page) == "inspector-title"
    seen = []
    for _ in range(40):
        await page.keyboard.press("Tab")
        seen.append(await page.evaluate("document.activeElement.id || document.activeElement.name"))
    for one in ("size", "format", "dpr", "bg", "left", "right", "zoom", "pair", "split", "snippet"):
        assert one in seen, one
    await page.keyboard.press("Escape")
    await expect(page.locator("#inspector")).to_be_hidden()
    await expect(page.get_by_role("button", name="Inspect logo.png")).to_be_focused()


async def test_arrow_keys_move_between_images(visit: Visit) -> None:
    page = await visit.inspect("logo.png")
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#inspector-title")).to_have_text("kodak-03.jpg")
    await page.keyboard.press("ArrowLeft")
    await page.keyboard.press("ArrowLeft")
    await expect(page.locator("#inspector-title")).to_have_text("badge.png")
    assert await page.locator("#previous").is_disabled()
    await page.locator("#close").click()
    await expect(page.get_by_role("button", name="Inspect badge.png")).to_be_focused()


async def test_every_control_has_an_accessible_name(visit: Visit) -> None:
    page = await visit.home()
    assert await page.evaluate(_UNNAMED) == []
    await page.get_by_role("button", name="Inspect logo.png").click()
    await page.wait_for_selector("#image.there")
    assert await page.evaluate(_UNNAMED) == []
    for role in ("banner", "main", "navigation"):
        assert await page.locator(f"[role={role}], {_landmark(role)}").count() >= 1


def _landmark(role: str) -> str:
    return {"banner": "header", "main": "main", "navigation": "nav"}[role]


async def test_reduced_motion_is_respected(browser: Browser, base: str) -> None:
    async with tab(browser, base, reduced_motion="reduce") as visit:
        page = await visit.home()
        durations = await page.evaluate(
            "[...document.querySelectorAll('*')].map((one) => getComputedStyle(one))"
            ".flatMap((one) => [one.transitionDuration, one.animationName])"
        )
        assert {one for one in durations if not re.fullmatch(r"0s(, 0s)*|none", one)} == set()


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        (size, scheme) if usual else pytest.param(size, scheme, marks=pytest.mark.drill)
        for size, scheme, usual in (
            *((size, "light", size[0] != WIDTHS[0][0]) for size in WIDTHS),
            *((size, "dark", size[0] == WIDTHS[0][0]) for size in WIDTHS),
        )
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else value,
)
async def test_the_page_fits_the_width_and_has_enough_contrast(
    size: tuple[int, int], scheme: str, browser: Browser, base: str, tmp_path: Path
) -> None:
    """The screenshots remain in the test's folder."""
    width, height = size
    viewport = {"width": width, "height": height}
    async with tab(browser, base, viewport=viewport, color_scheme=scheme) as visit:
        page = await visit.home()
        await page.wait_for_selector("#upload:not([hidden])")
        wide = "document.documentElement.scrollWidth"
        assert await page.evaluate(wide) <= width
        assert await page.evaluate(CONTRASTS) == []
        await page.screenshot(path=tmp_path / "gallery.png")
        await page.get_by_role("button", name="Inspect kodak-03.jpg").click()
        await page.wait_for_selector("#image.there")
        await page.evaluate(
            "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
        )
        await page.wait_for_load_state("networkidle")
        body = await page.evaluate(
            "(({ scrollWidth, clientWidth }) => [scrollWidth, clientWidth])"
            "(document.querySelector('#inspector .body'))"
        )
        assert body[0] <= body[1]
        assert await page.evaluate(CONTRASTS) == []
        await page.screenshot(path=tmp_path / "inspector.png")


_AXE = """axe.run().then(({ violations }) => violations.map(
  (one) => `${one.id}: ${one.help}: ${one.nodes.map((node) => node.html)}`))"""


async def axe(page: Page) -> list[str]:
    """Return the violations that axe-core finds."""
    pytest.importorskip("axe_playwright_python", reason="requirements-dev.lock is not installed")
    script = resources.files("axe_playwright_python") / "axe.min.js"
    await page.evaluate(script.read_text())
    found: list[str] = await page.evaluate(_AXE)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_no_violations(
    scheme: ColorScheme, browser: Browser, drawn: str, tmp_path: Path
) -> None:
    async with tab(browser, drawn, color_scheme=scheme, reduced_motion="reduce") as visit:
        page = await visit.home()
        await page.wait_for_selector("#upload:not([hidden])")
        text = tmp_path / "notes.jpg"
        text.write_text("not a picture")
        await page.set_input_files("#file", text)
        await page.wait_for_selector(".uploads .bad")
        visit.complaints.clear()  # of the upload that was rejected
        assert await axe(page) == []
        await page.get_by_role("button", name="Inspect photo.jpg").click()
        await page.locator('#bg label:has([value="removed"])').click()
        await expect(page.locator("#notice")).to_be_visible()
        await page.evaluate(
            "document.querySelectorAll('details').forEach((one) => one.open = true)"
        )
        await expect(page.locator("#why-formats li")).to_have_count(3)
        assert await axe(page) == []
        await page.goto(f"{drawn}/#99")
        await page.reload()
        await expect(page.locator("#error")).to_be_visible()
        visit.complaints.clear()  # of the image that does not exist
        assert await axe(page) == []


async def test_response_headers_are_scrolled_by_keyboard(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await page.get_by_text("Response headers").click()
    await expect(page.locator("#headers tr")).not_to_have_count(0)
    region = page.get_by_role("region", name="Response headers")
    await page.keyboard.press("Tab")
    await expect(region).to_be_focused()
    await page.keyboard.press("End")
    await until(page, "document.querySelector('.scroll').scrollTop > 0")


@pytest.mark.parametrize("width", [320, 1280])
async def test_a_long_value_does_not_widen_the_inspector(
    width: int, browser: Browser, drawn: str
) -> None:
    async with tab(browser, drawn, viewport={"width": width, "height": 800}) as visit:
        page = await visit.inspect("white.png")
        await page.evaluate(
            "document.querySelectorAll('details').forEach((one) => one.open = true)"
        )
        await expect(page.locator("#analysis dd")).not_to_have_count(0)
        await expect(page.locator("#why-formats li")).to_have_count(3)
        wider = """[".body", ".controls"].map((one) => document.querySelector(one))
          .map((one) => one.scrollWidth - one.clientWidth)"""
        assert await page.evaluate(wider) == [0, 0]


async def test_an_image_is_opened_at_its_top(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    top = "document.querySelector('#inspector .body').scrollTop"
    await page.evaluate(f"{top} = 300")
    await until(page, f"{top} > 0")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Inspect kodak-03.jpg").click()
    await page.wait_for_selector("#image.there")
    assert await page.evaluate(top) == 0


async def test_the_chosen_segment_is_visible_in_forced_colours(browser: Browser, base: str) -> None:
    async with tab(browser, base, forced_colors="active") as visit:
        page = await visit.inspect("kodak-03.jpg")
        outlines = await page.locator("#format span").evaluate_all(
            "all => all.map((one) => getComputedStyle(one).outlineStyle)"
        )
        assert outlines == ["solid", "none", "none", "none", "none"]
