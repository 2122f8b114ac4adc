"""Files as telephones and designers have them, from the page's upload to the page's gallery."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.async_api import Browser, Page, expect

from tests.benchmarks.servers import smartserve
from tests.page.conftest import SETTINGS, tab
from tests.support.heif import encoded_heic
from tests.support.photos import case
from tests.support.server import SAMPLES, Library

LOGO = b"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 200">
<circle cx="100" cy="100" r="90" fill="#c00"/><text x="210" y="120" font-size="60">Logo</text>
</svg>"""
LONG_MS = 600_000
"""On a busy machine: five files are analysed, and one has 12 megapixels."""
SIZES: Mapping[str, tuple[int, int]] = {
    "IMG_0001.HEIC": (3024, 4032),
    "ten-bits.heic": (256, 64),
    "burst.heic": (768, 512),
    "cut-out.heic": (300, 200),
}
TYPES = {"avif": "image/avif", "webp": "image/webp", "jpeg": "image/jpeg"}


def files_in(folder: Path) -> list[Path]:
    """Return the files, in the order of `SIZES`, and a logo."""
    photo = Image.open(SAMPLES / "kodak-05.jpg")
    cut_out = photo.resize((300, 200)).convert("RGBA")
    cut_out.paste((0, 0, 0, 0), (0, 0, 150, 200))
    ramp = np.tile(np.linspace(0, 65_535, 256)[None, :, None], (64, 1, 3))
    contents = {
        "IMG_0001.HEIC": case("IMG_0001.HEIC").read_bytes(),
        "ten-bits.heic": encoded_heic(ramp, options=("-b", "10")),
        "burst.heic": encoded_heic(
            photo, Image.new("RGB", (192, 128), "red"), options=("-t", "96")
        ),
        "cut-out.heic": encoded_heic(cut_out),
        "logo.svg": LOGO,
    }
    paths = [folder / name for name in contents]
    for path in paths:
        path.write_bytes(contents[path.name])
    return paths


async def received(page: Page, url: str, accept: str = "*/*") -> tuple[str, bytes]:
    """Return the media type and the body of an answer."""
    answer = await page.request.get(url, headers={"Accept": accept})
    assert answer.status == 200, await answer.text()
    return answer.headers["content-type"], await answer.body()


def stored_metadata(data_dir: Path, media_id: int) -> dict[str, Any] | None:
    with closing(sqlite3.connect(data_dir / "smartserve.db", timeout=30)) as connection:
        connection.row_factory = sqlite3.Row
        query = "SELECT * FROM media_metadata WHERE media_id = ?"
        row = connection.execute(query, (media_id,)).fetchone()
    return dict(row) if row else None


async def test_uploaded_heic_files_and_a_logo_reach_the_page(
    browser: Browser, library: Library, tmp_path: Path
) -> None:
    paths = files_in(tmp_path)
    data_dir = library.copy(tmp_path / "data")
    with smartserve(data_dir, settings={**SETTINGS, "INGEST__RENDITIONS": "none"}) as running:
        base = f"http://127.0.0.1:{running.address[1]}"
        async with tab(browser, base) as visit:
            page = await visit.home()
            known = await page.locator(".tile").count()
            await page.wait_for_selector("#upload:not([hidden])")
            await page.set_input_files("#file", paths)
            await expect(page.locator(".uploads button")).to_have_count(len(paths), timeout=LONG_MS)
            listed = json.loads((await received(page, f"{base}/api/gallery"))[1])["pictures"]
            ids = {one["name"]: one["id"] for one in listed}
            for path in paths:
                await check(page, base, path.name, ids[path.name])
                # The row is written after the image is processed.
                async with asyncio.timeout(LONG_MS / 1000):
                    while (row := stored_metadata(data_dir, ids[path.name])) is None:
                        await page.wait_for_timeout(200)
                assert row["filename"] == path.name
                if path.name == "IMG_0001.HEIC":
                    assert {row["width"], row["height"]} == {3024, 4032}
            # Afresh: what is shown now comes from the server.
            await page.goto(base)
            tiles = page.locator(".tile img.there")
            await expect(tiles).to_have_count(known + len(paths), timeout=LONG_MS)
            assert await tiles.evaluate_all("all => all.every((one) => one.naturalWidth > 0)")


async def check(page: Page, base: str, name: str, media_id: int) -> None:
    """Check the description of an image, and the image in each format."""
    described = json.loads((await received(page, f"{base}/info/{media_id}"))[1])
    width, height = SIZES.get(name, (described["width"], described["height"]))
    assert (described["width"], described["height"]) == (width, height)
    for fmt, media_type in TYPES.items():
        url = f"{base}/serve/{media_id}?size=small&format={fmt}"
        found, body = await received(page, url)
        assert found == media_type
        with Image.open(io.BytesIO(body)) as image:
            image.load()
            assert abs(image.width / image.height - width / height) < 0.05, (name, image.size)
            if name == "burst.heic":
                wanted = Image.open(SAMPLES / "kodak-05.jpg").resize(image.size)
                difference = np.asarray(image.convert("RGB"), int) - np.asarray(wanted, int)
                assert np.abs(difference).mean() < 12
    if name in ("cut-out.heic", "logo.svg"):
        _, body = await received(page, f"{base}/serve/{media_id}?size=small", "image/webp,*/*")
        with Image.open(io.BytesIO(body)) as image:
            assert image.convert("RGBA").getchannel("A").getextrema()[0] == 0
