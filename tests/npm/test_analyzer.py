"""The components of the analyzer in a real browser, with recorded and hostile answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, WebSocketRoute, expect

from proxy.metadata.formats import SUPPORTED_IMAGE_EXTENSIONS, UNSUPPORTED_FORMAT
from tests.deploy.programs import program
from tests.npm.conftest import Tab, tab
from tests.npm.installed import HERE, lay_out, run
from tests.page.conftest import until
from tests.page.test_metadata import HOSTILE, OVERRIDE, answer, hostile
from tests.page.test_reach import CONTRASTS, ColorScheme, axe
from tests.support.server import SAMPLES

pytestmark = pytest.mark.slow

HOME = "http://app.test"
HTML = """<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">
<title>Analyzer</title>
<style>body { background: Canvas }</style>
<body><main><h1>Application</h1><div id="root"></div></main><script src="/bundle.js"></script>"""
POLICY = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self' ws:"
SOCKET = "**/api/images_mvp/progress/*"
SAMPLE = SAMPLES / "logo.png"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the components and React in one script."""
    place = lay_out(HERE / "analyzer", tmp_path_factory.mktemp("analyzer") / "app")
    options = ("--bundle", "--jsx=automatic", "--jsx-dev", "--charset=utf8", "--log-level=error")
    mode = '--define:process.env.NODE_ENV="development"'
    binary = place / "node_modules" / "esbuild" / "bin" / "esbuild"
    return run(program("node"), binary, "entry.jsx", *options, mode, at=place)


async def prepare(opened: Tab, bundle: str) -> Page:
    """Open a page that can show any component."""

    async def reply(route: Route) -> None:
        if route.request.url.endswith("/bundle.js"):
            await route.fulfill(body=bundle, content_type="text/javascript; charset=utf-8")
        else:
            headers = {"Content-Security-Policy": POLICY, "Content-Type": "text/html"}
            await route.fulfill(body=HTML, headers=headers)

    await opened.page.route(f"{HOME}/*", reply)
    await opened.page.goto(HOME)
    opened.complaints.clear()  # React advertises its developer tools
    return opened.page


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, bundle: str) -> AsyncIterator[Page]:
    async with tab(browser, HOME) as opened:
        yield await prepare(opened, bundle)
        # Of the requests that a test answers so.
        opened.complaints = [one for one in opened.complaints if "status of 422" not in one]


async def show(page: Page, name: str, **properties: Any) -> None:
    await page.evaluate("([name, properties]) => show(name, properties)", [name, properties])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
async def test_hostile_metadata_is_text_that_fits_and_axe_finds_no_violations(
    scheme: ColorScheme, width: int, browser: Browser, bundle: str, tmp_path: Path
) -> None:
    """The screenshot remains in the test's folder."""
    async with tab(browser, HOME) as opened:
        page = await prepare(opened, bundle)
        await page.set_viewport_size({"width": width, "height": 900})
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        await show(page, "MetadataDisplay", data=hostile(), onClear=True)
        await page.get_by_text("All fields").click()
        await page.locator("summary").nth(1).click()
        buttons = page.get_by_role("button", name="Show all")
        await expect(buttons).to_have_count(2)
        while await buttons.count():
            await buttons.first.click()
        await expect(page.locator("dd", has_text=HOSTILE).first).to_be_visible()
        assert await page.locator("#root img, #root script, #root a").count() == 0
        assert await page.evaluate("window.attacked") is None
        assert OVERRIDE not in await page.locator("#root").inner_text()
        assert await axe(page) == []
        assert await page.evaluate(CONTRASTS) == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        await page.screenshot(path=tmp_path / "display.png", full_page=True)
        await page.get_by_role("button", name="Clear").click()
        assert await page.evaluate("calls.map(([name]) => name)") == ["onClear"]


async def test_a_second_call_cancels_the_first_and_errors_are_set_and_thrown(page: Page) -> None:
    async def reply(route: Route) -> None:
        body = route.request.post_data_buffer or b""
        if b'filename="first.png"' in body:
            return  # never answered
        if b'filename="bad.png"' in body:
            await route.fulfill(status=422, json={"error": "The file is damaged.", "code": "X"})
        else:
            await route.fulfill(json=answer() | {"filename": "second.png"})

    await page.route("**/api/standalone-metadata/analyze", reply)
    await page.evaluate("showHook()")
    await until(page, "Boolean(window.analyzeImage)")
    state = page.locator("output")
    await page.evaluate("window.first = analyzeImage('first.png'), 0")
    await expect(state).to_contain_text('"isAnalyzing":true')
    assert await page.evaluate("analyzeImage('second.png')") == "second.png"
    assert await page.evaluate("first") == "AbortError: Another image was selected."
    done = {"isAnalyzing": False, "result": "second.png", "error": None}
    await expect(state).to_have_text(json.dumps(done, separators=(",", ":")))
    thrown = await page.evaluate("analyzeImage('bad.png')")
    assert thrown == "AnalysisError: The file is damaged."
    await expect(state).to_contain_text('"error":"The file is damaged."')


async def test_progress_comes_over_the_socket(page: Page) -> None:
    sockets: list[WebSocketRoute] = []
    await page.route_web_socket(SOCKET, lambda one: sockets.append(one))  # noqa: PLW0108 - playwright rejects built-in methods
    await show(page, "ProgressTracker", sessionId="s" * 16, onComplete=True)
    await expect(page.get_by_role("status")).to_have_text("Connected")
    for one in sockets:
        one.send(json.dumps({"type": "progress", "percentage": 30, "stage": "walked"}))
    await expect(page.get_by_role("status")).to_have_text("Connected: Tags read")
    await expect(page.get_by_role("progressbar")).to_have_js_property("value", 30)
    await expect(page.locator("[aria-current=step]")).to_have_text("Tags read")
    for one in sockets:
        one.send(json.dumps({"type": "complete"}))
    await expect(page.get_by_role("status")).to_have_text("Complete")
    assert await axe(page) == []


async def test_without_a_socket_progress_is_polled(page: Page) -> None:
    states = iter([{"type": "progress", "percentage": 50, "stage": "engine"}])

    async def reply(route: Route) -> None:
        await route.fulfill(json=next(states, {"type": "complete"}))

    await page.route_web_socket(SOCKET, lambda one: asyncio.ensure_future(one.close()))
    await page.route(SOCKET, reply)
    await show(page, "ProgressTracker", sessionId="s" * 16)
    await expect(page.get_by_role("status")).to_have_text("Complete")


async def test_the_upload_accepts_the_formats_of_the_server(page: Page, tmp_path: Path) -> None:
    sent: list[bytes] = []

    async def reply(route: Route) -> None:
        sent.append(route.request.post_data_buffer or b"")
        await route.fulfill(json=answer())

    await page.route("**/api/images_mvp/extract", reply)
    await page.route_web_socket(SOCKET, lambda _: None)
    await show(page, "SimpleUpload", onResult=True)
    field = page.get_by_label("select a file")
    accepted = (await field.get_attribute("accept") or "").split(",")
    assert set(SUPPORTED_IMAGE_EXTENSIONS) <= set(accepted)
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    await field.set_input_files(text)
    await expect(page.get_by_role("alert")).to_have_text(UNSUPPORTED_FORMAT)
    assert not sent
    raw = tmp_path / "photo.NEF"
    raw.write_bytes(b"II*\0")
    await field.set_input_files(raw)
    await expect(page.get_by_role("progressbar")).to_be_visible()
    assert b'name="sessionId"' in sent[0]
    await expect(page.get_by_role("alert")).to_have_count(0)
    assert await axe(page) == []


async def test_the_analyzer_is_used_by_keyboard_and_its_quality_is_shown(page: Page) -> None:
    async def reply(route: Route) -> None:
        await route.fulfill(json=answer())

    await page.route("**/api/standalone-metadata/analyze", reply)
    await page.route_web_socket(SOCKET, lambda _: None)
    await show(page, "ImageAnalyzer")
    # A Tab before it is there would leave the page.
    await expect(page.get_by_label("select a file")).to_be_attached()
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("select a file")).to_be_focused()
    await page.set_input_files("input[type=file]", SAMPLE)
    await expect(page.get_by_role("heading", name="logo.png")).to_be_visible()
    for text in ("not measured", "0.3: the fallback engine", "Install exiftool."):
        await expect(page.get_by_text(text)).to_be_visible()
    tones = await page.locator("[data-tone]").evaluate_all(
        "all => all.map((one) => one.dataset.tone)"
    )
    assert tones == ["yellow", "none", "red"]
    assert await axe(page) == []
