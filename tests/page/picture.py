"""Takes the screenshot of the page that the README shows: ``python -m tests.page.picture``.

Starts a server with the samples and a Chromium. The gallery is above; below it is an image in the
inspector, with its final. It takes half a minute, mostly for rendering the finals.
"""

from __future__ import annotations

import asyncio
import io
import re
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import FloatRect, Page, ViewportSize, async_playwright, expect

from tests.benchmarks.servers import smartserve
from tests.page.conftest import FINAL_MS, QUIET, chromium

PICTURE = Path(__file__).with_name("page.webp")
SHOWN = "kodak-23.jpg"
_WIDE, _GALLERY, _INSPECTOR = 1440, 596, 1030
_ALONE = """
body > :not(dialog) { visibility: hidden }
dialog::backdrop { background: none; backdrop-filter: none }
"""
"""Shows the inspector without the page behind it."""


async def photograph(base: str) -> Image.Image:
    """Return the gallery and, below it, the inspector, in the light colour scheme."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=list(QUIET))
        viewport = ViewportSize(width=_WIDE, height=_INSPECTOR)
        page = await browser.new_page(viewport=viewport, color_scheme="light", bypass_csp=True)
        page.set_default_timeout(FINAL_MS)
        await _inspect(page, base)
        style = await page.add_style_tag(content=_ALONE)
        inspector = await _shot(page, _INSPECTOR)
        await style.evaluate("style => style.remove()")
        await page.keyboard.press("Escape")
        await page.wait_for_selector("#inspector", state="hidden")
        await page.set_viewport_size(ViewportSize(width=_WIDE, height=_GALLERY))
        gallery = await _shot(page, _GALLERY)
        await browser.close()
    whole = Image.new("RGB", (_WIDE, _GALLERY + _INSPECTOR))
    whole.paste(gallery, (0, 0))
    whole.paste(inspector, (0, _GALLERY))
    return whole


async def _inspect(page: Page, base: str) -> None:
    """Open one image and wait until all requested finals are rendered."""
    await page.goto(base)
    await page.get_by_role("button", name=f"Inspect {SHOWN}").click()
    for _ in range(3):
        await expect(page.locator("#stage")).to_have_text("Final", timeout=FINAL_MS)
        await page.wait_for_load_state("networkidle")
        await _finished(page, base)
        # The URL names the open image, so a reload opens it again.
        await page.reload()
    await expect(page.locator("#stage")).to_have_text("Final", timeout=FINAL_MS)
    await page.wait_for_load_state("networkidle")


async def _finished(page: Page, base: str) -> None:
    """Return when no final is queued."""
    while True:
        text = await (await page.request.get(f"{base}/metrics")).text()
        if re.search(r"^smartserve_upgrade_backlog 0\.0$", text, re.MULTILINE):
            return
        await page.wait_for_timeout(1000)


async def _shot(page: Page, height: int) -> Image.Image:
    clip = FloatRect(x=0, y=0, width=_WIDE, height=height)
    return Image.open(io.BytesIO(await page.screenshot(clip=clip)))


def main() -> None:
    """Write the screenshot beside this file."""
    # Finals of the requested sizes only: those of all sizes would take minutes.
    settings = {"UPGRADES__ALL_SIZES": "false"}
    with (
        tempfile.TemporaryDirectory() as folder,
        smartserve(Path(folder) / "data", "--samples", settings=settings) as site,
    ):
        whole = asyncio.run(photograph(f"http://127.0.0.1:{site.address[1]}"))
    whole.save(PICTURE, quality=82, method=6)
    print(f"{PICTURE}: {whole.width} x {whole.height}, {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
