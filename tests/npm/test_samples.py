"""Samples of the requirements as printed, and the package, with a real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.async_api import Browser, FilePayload, Page, Route, expect

from tests.benchmarks.servers import Smartserve
from tests.deploy.programs import program
from tests.npm.conftest import tab
from tests.npm.installed import HERE, lay_out
from tests.npm.printed import place_of, samples
from tests.page.test_metadata import answer
from tests.page.test_reach import axe
from tests.support.server import SAMPLES
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

INFOTEXT = """a scene of violence
Negative prompt: calm
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 18446744073709551615, Size: 64x48, \
Model: DreamShaper_8"""
JOURNEY = "a red fox --ar 3:2 --chaos 90 --quality 2 --style raw --v 6.1"
HOSTILE = "<img src=x onerror=window.attacked=1>"


def drawn(path: Path, **texts: str) -> Path:
    """Draw a PNG with texts."""
    chunks = PngInfo()
    for keyword, text in texts.items():
        chunks.add_text(keyword, text)
    Image.new("RGB", (64, 48), "teal").save(path, pnginfo=chunks)
    return path


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a photograph, and images that name a generator."""
    folder = tmp_path_factory.mktemp("images")
    shutil.copy(min(SAMPLES.glob("*.jpg")), folder / "photo.jpg")
    drawn(folder / "violence.png", parameters=INFOTEXT)
    drawn(folder / "midjourney.png", Description=JOURNEY)
    return folder


def test_the_samples_are_those_of_the_document() -> None:
    found = samples()
    assert len(found) == 14
    for name, text in found.items():
        assert place_of(name).read_text().strip("\n") == text.strip("\n"), name


@pytest.mark.timeout(600)
def test_services_run_in_node_as_printed(site: Smartserve, images: Path, tmp_path: Path) -> None:
    base = f"http://127.0.0.1:{site.address[1]}"
    with urllib.request.urlopen(f"{base}/api/page/token", timeout=30) as response:
        token = json.loads(response.read())["token"]
    place = lay_out(HERE, tmp_path / "npm")
    server = {"IMAGE_SERVER_URL": base, "IMAGE_SERVER_TOKEN": token, "IMAGES": str(images)}
    done = subprocess.run(
        [program("node"), "--test", "--test-timeout=200000", "services.test.mjs", "node.test.mjs"],
        cwd=place, env={**os.environ, **server}, capture_output=True, text=True, check=False,
        timeout=500,
    )  # fmt: skip
    assert re.search(r"^# fail 0$", done.stdout, re.MULTILINE), done.stdout + done.stderr
    assert re.search(r"^# cancelled 0$", done.stdout, re.MULTILINE), done.stdout


def _warm(site: Smartserve) -> None:
    """Return when the server has extracted an image."""
    address = f"http://127.0.0.1:{site.address[1]}/api/extract/health"

    def extracts() -> bool:
        # Unhealthy is a 503: it takes longer on a busy machine.
        with suppress(urllib.error.HTTPError), urllib.request.urlopen(address, timeout=60) as found:
            return bool(json.loads(found.read())["engine"]["available"])
        return False

    wait_until(extracts, timeout_s=180)


@asynccontextmanager
async def application(
    browser: Browser, home: str, path: str, site: Smartserve
) -> AsyncIterator[Page]:
    """Open a page of an application whose origin passes the metadata routes on to the server."""

    async def forward(route: Route) -> None:
        url = route.request.url.replace(home, f"http://127.0.0.1:{site.address[1]}")
        await route.continue_(url=url)

    # The engines start with the first file.
    await asyncio.to_thread(_warm, site)
    async with tab(browser, home) as opened:
        await opened.page.route(f"{home}/api/standalone-metadata/**", forward)
        # These applications do not pass sockets on.
        await opened.page.route_web_socket("**/api/images_mvp/progress/*", lambda _: None)
        yield await opened.open(path)


async def test_the_sample_for_react_and_next_runs_as_printed(
    browser: Browser, next_app: str, site: Smartserve, images: Path
) -> None:
    async with application(browser, next_app, "analyzer", site) as page:
        await page.set_input_files("input[type=file]", images / "violence.png")
        await expect(page.get_by_text("AI-generated: Stable Diffusion")).to_be_visible()
        await expect(page.get_by_text("a scene of violence").first).to_be_visible()
        await expect(page.get_by_role("heading", name="violence.png")).to_be_visible()


@pytest.mark.parametrize("path", ["api/analyze", "own/analyze"])
async def test_routes_of_next_analyze_an_image(
    path: str, browser: Browser, next_app: str, site: Smartserve, images: Path
) -> None:
    """The printed one, and the one of the package."""
    async with application(browser, next_app, "analyzer", site) as page:
        image: FilePayload = {
            "name": "midjourney.png",
            "mimeType": "image/png",
            "buffer": (images / "midjourney.png").read_bytes(),
        }
        request = page.context.request
        answer = await request.post(f"{next_app}/{path}", multipart={"image": image})
        found = await answer.json()
        assert answer.status == 200
        assert (found["is_ai_generated"], found["ai_generator_type"]) == (True, "midjourney")
        assert found["prompt"] == "a red fox"
        assert found["filename"] == "midjourney.png"
        assert found["complete_metadata"]["width"] == 64
        empty = await request.post(f"{next_app}/{path}", multipart={"other": "x"})
        assert (empty.status, (await empty.json())["error"]) == (400, "No file uploaded")


async def test_the_page_of_the_package_runs_in_next(
    browser: Browser, next_app: str, site: Smartserve, images: Path
) -> None:
    async with application(browser, next_app, "own", site) as page:
        await page.set_input_files("input[type=file]", images / "midjourney.png")
        await expect(page.get_by_text("AI-generated: Midjourney")).to_be_visible()


async def test_the_sample_for_vue_runs_as_printed(
    browser: Browser, nuxt_app: str, site: Smartserve, images: Path
) -> None:
    async with application(browser, nuxt_app, "printed", site) as page:
        await page.set_input_files("input[type=file]", images / "violence.png")
        await expect(page.locator("pre")).to_contain_text('"ai_generator_type": "stable_diffusion"')


async def test_the_component_for_vue_shows_text_and_errors(
    browser: Browser, nuxt_app: str, site: Smartserve, tmp_path: Path
) -> None:
    async with application(browser, nuxt_app, "analyzer", site) as page:
        path = drawn(tmp_path / "a.png", parameters=f"{HOSTILE}\nSteps: 1, Sampler: x, Seed: 1")
        await page.set_input_files("input[type=file]", path)
        await expect(page.locator("dd", has_text=HOSTILE).first).to_be_visible()
        await page.get_by_text("All fields").click()
        await page.get_by_label("Filter by name or value").fill("parameters")
        await expect(page.locator("details dt").first).to_be_visible()
        assert await page.locator("main img").count() == 0
        assert await page.evaluate("window.attacked") is None
        assert await axe(page) == []
        await page.get_by_role("button", name="Clear").click()
        await expect(page.locator("dd")).to_have_count(0)


async def test_the_component_for_vue_shows_the_quality_if_the_answer_has_metrics(
    browser: Browser, nuxt_app: str, images: Path
) -> None:
    answers = iter([answer(), {**answer(), "quality_metrics": None}])

    async def reply(route: Route) -> None:
        await route.fulfill(json=next(answers))

    async with tab(browser, nuxt_app) as opened:
        await opened.page.route(f"{nuxt_app}/api/standalone-metadata/**", reply)
        await opened.page.route_web_socket("**/api/images_mvp/progress/*", lambda _: None)
        page = await opened.open("analyzer")
        await page.set_input_files("input[type=file]", images / "photo.jpg")
        for text in ("not measured", "0.3: the fallback engine", "Install exiftool."):
            await expect(page.get_by_text(text)).to_be_visible()
        tones = await page.locator("[data-tone]").evaluate_all(
            "all => all.map((one) => one.dataset.tone)"
        )
        assert tones == ["yellow", "none", "red"]
        assert await axe(page) == []
        await page.get_by_role("button", name="Clear").click()
        await page.set_input_files("input[type=file]", images / "photo.jpg")
        await expect(page.get_by_role("heading", name="logo.png")).to_be_visible()
        await expect(page.get_by_text("Quality of the extraction")).to_have_count(0)
