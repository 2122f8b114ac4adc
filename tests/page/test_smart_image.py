"""`<smart-image>` on a page of another origin, in a real browser."""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Request, expect

from proxy.web.handlers.page import STATIC
from tests.page.conftest import FINAL_MS, PATIENCE_MS, Visit, tab, until
from tests.support.waiting import eventually

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Elsewhere</title>
<link rel="icon" href="data:,">
<script>
window.shift = 0;
new PerformanceObserver((list) => {{
  for (const one of list.getEntries()) window.shift += one.value;
}}).observe({{ type: "layout-shift", buffered: true }});
</script>
<script type="module" src="{base}/static/smart-image.js"></script>
<body style="margin: 0">{body}</body></html>"""


class Elsewhere:
    """Serves a page of another origin, on its own port."""

    def __init__(self, base: str) -> None:
        self._base = base
        self.body = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = _PAGE.format(base=outer._base, body=outer.body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@asynccontextmanager
async def elsewhere(base: str) -> AsyncIterator[Elsewhere]:
    site = Elsewhere(base)
    thread = threading.Thread(target=site.server.serve_forever)
    thread.start()
    try:
        yield site
    finally:
        site.server.shutdown()
        thread.join()
        site.server.server_close()


class Host:
    """A page of another origin in a tab."""

    def __init__(self, visit: Visit, site: Elsewhere) -> None:
        self.visit = visit
        self.page: Page = visit.page
        self._site = site
        self.asked: list[str] = []
        self.page.on("request", self._note)

    def _note(self, request: Request) -> None:
        if request.method == "GET":
            self.asked.append(request.url)

    async def show(self, body: str, *, state: str = "final|draft") -> Page:
        """Open the page with this body, and wait until all components are in a state."""
        self._site.body = body
        await self.page.goto(self._site.url)
        for one in await self.page.locator("smart-image").all():
            await one.scroll_into_view_if_needed()
            await expect(one).to_have_attribute("state", re.compile(state), timeout=PATIENCE_MS)
        return self.page

    def pictures(self) -> list[str]:
        return [url for url in self.asked if "/serve/" in url]


@pytest_asyncio.fixture(loop_scope="session")
async def host(browser: Browser, base: str) -> AsyncIterator[Host]:
    viewport = {"width": 800, "height": 600}
    async with elsewhere(base) as site, tab(browser, base, viewport=viewport) as visit:
        made = Host(visit, site)
        yield made
        visit.elsewhere = [url for url in visit.elsewhere if not url.startswith(site.url)]


def test_the_component_has_at_most_four_kilobytes() -> None:
    assert len(gzip.compress((STATIC / "smart-image.js").read_bytes())) <= 4096


def test_the_component_has_no_dependencies() -> None:
    text = (STATIC / "smart-image.js").read_text()
    assert re.search(r"^import |\bimport\(|eval\(|innerHTML", text, re.MULTILINE) is None


async def image(page: Page, script: str) -> object:
    """Return the result of a script about the image of the first component."""
    found: object = await page.evaluate(
        f"(() => {{ const host = document.querySelector('smart-image');"
        f" const image = host.shadowRoot.querySelector('.image'); return {script}; }})()"
    )
    return found


async def test_an_image_is_shown_in_the_best_format_and_size(host: Host) -> None:
    page = await host.show('<smart-image media-id="2" alt="Caps on a wall"></smart-image>')
    assert await image(page, "image.naturalWidth > 0 && image.complete")
    assert await image(page, "image.alt") == "Caps on a wall"
    assert await image(page, "image.loading") == "lazy"
    (url,) = host.pictures()
    assert re.search(r"/serve/2\?w=828&v=[0-9a-f]{16}$", url)


async def test_a_script_of_another_origin_may_post_ids(host: Host, base: str) -> None:
    """The browser sends a CORS preflight first, and lets the script read the response."""
    page = await host.show("")
    told = await page.evaluate(
        """async (url) => {
          const headers = { "Content-Type": "application/json" };
          const body = JSON.stringify({ ids: [2, 1, 9999] });
          const answer = await fetch(url, { method: "POST", headers, body });
          return answer.json();
        }""",
        f"{base}/info",
    )
    assert [one["id"] for one in told["pictures"]] == [2, 1]
    assert [one["id"] for one in told["missing"]] == [9999]


async def test_there_is_no_layout_shift_with_an_aspect_ratio(host: Host) -> None:
    shape = 'style="display: block; aspect-ratio: 768/512"'
    page = await host.show(f'<smart-image media-id="2" {shape} alt=""></smart-image><p>below</p>')
    await page.wait_for_load_state("networkidle")
    assert await page.evaluate("window.shift") == 0
    assert await image(page, "host.clientHeight") == pytest.approx(800 * 512 / 768, abs=1)


async def test_the_placeholder_has_the_shape_of_the_image(host: Host) -> None:
    await host.page.route("**/serve/**", lambda route: None)
    page = await host.show('<smart-image media-id="2" alt=""></smart-image>', state="loading")
    await until(
        page, "document.querySelector('smart-image').shadowRoot.querySelector('.blur')?.complete"
    )
    height = await image(page, "host.clientHeight")
    assert height == pytest.approx(800 * 512 / 768, abs=1)
    assert await image(page, "host.shadowRoot.querySelector('.blur').naturalWidth") == 32
    await page.unroute_all(behavior="ignoreErrors")


async def test_width_and_height_set_the_shape(host: Host) -> None:
    await host.page.route("**/info/**", lambda route: None)
    page = await host.show(
        '<smart-image media-id="2" width="768" height="512" alt=""></smart-image>', state="loading"
    )
    height = await page.evaluate("document.querySelector('smart-image').clientHeight")
    assert height == pytest.approx(800 * 512 / 768, abs=1)
    await page.unroute_all(behavior="ignoreErrors")


async def test_a_preset_sets_the_box_and_offers_two_densities(host: Host) -> None:
    page = await host.show('<smart-image media-id="2" size="thumbnail" alt=""></smart-image>')
    assert await image(page, "image.clientWidth") == 300
    assert await image(page, "image.clientHeight") == 300
    srcset = str(await image(page, "image.srcset"))
    assert "size=thumbnail" in srcset
    assert srcset.endswith("&dpr=2 2x")


async def test_preferred_formats_are_requested_by_name(host: Host) -> None:
    await host.show('<smart-image media-id="2" preferred-formats="webp" alt=""></smart-image>')
    (url,) = host.pictures()
    assert "format=webp" in url


async def test_the_background_is_removed_on_request(host: Host) -> None:
    await host.show('<smart-image media-id="3" background="removed" alt=""></smart-image>')
    assert all("bg=removed" in url for url in host.pictures())


async def test_priority_disables_lazy_loading(host: Host) -> None:
    page = await host.show('<smart-image media-id="2" priority alt=""></smart-image>')
    assert await image(page, "image.loading") == "eager"
    assert await image(page, "image.fetchPriority") == "high"


async def test_an_image_far_below_is_loaded_lazily(host: Host) -> None:
    host._site.body = (
        '<div style="height: 9000px"></div><smart-image media-id="2" alt=""></smart-image>'
    )
    await host.page.goto(host._site.url)
    await host.page.wait_for_load_state("networkidle")
    assert host.pictures() == []
    await host.page.locator("smart-image").scroll_into_view_if_needed()
    await expect(host.page.locator("smart-image")).to_have_attribute(
        "state", re.compile("final|draft")
    )


async def test_descriptions_are_requested_in_one_batch(host: Host) -> None:
    body = "".join(
        f'<smart-image media-id="{one}" size="thumbnail" alt=""></smart-image>'
        for one in (1, 2, 3, 2)
    )
    await host.show(body)
    assert [url for url in host.asked if "/info" in url] == [f"{host.visit.base}/info?ids=1,2,3"]


async def test_a_draft_is_replaced_by_its_final(host: Host) -> None:
    page = await host.show(
        '<smart-image media-id="2" size="grid" preferred-formats="webp" alt=""></smart-image>'
    )
    await expect(page.locator("smart-image")).to_have_attribute("state", "final", timeout=FINAL_MS)
    await until(
        page, "document.querySelector('smart-image').shadowRoot.querySelector('.image').complete"
    )
    # Playwright reports the browser's requests a moment later.
    await eventually(lambda: any(re.search(r"v=[0-9a-f]{16}f", url) for url in host.pictures()))
    first = host.pictures()[0]
    assert "size=grid" in first
    assert not re.search(r"v=[0-9a-f]{16}f", first), "that was the draft"


async def test_a_missing_image_shows_the_reason(host: Host) -> None:
    page = await host.show('<smart-image media-id="99" alt="A harbour"></smart-image>', state="err")
    told = await page.evaluate(
        "document.querySelector('smart-image').shadowRoot.querySelector('.error').textContent"
    )
    assert told == "A harbour (there is no image with this id)"
    assert "404" in host.visit.complaints.pop()


async def test_a_failed_image_sets_the_error_state(host: Host) -> None:
    await host.page.route("**/serve/**", lambda route: route.fulfill(status=500, body=""))
    await host.show('<smart-image media-id="2" alt=""></smart-image>', state="error")
    assert "500" in host.visit.complaints.pop()


async def test_changing_the_id_shows_another_image(host: Host) -> None:
    page = await host.show('<smart-image media-id="2" size="small" alt=""></smart-image>')
    await page.evaluate("document.querySelector('smart-image').setAttribute('media-id', '4')")
    await until(
        page,
        "document.querySelector('smart-image').shadowRoot.querySelector('.image')"
        "?.currentSrc.includes('/serve/4?')",
    )


async def test_show_analysis_adds_the_panel(host: Host) -> None:
    page = await host.show(
        '<smart-image media-id="3" size="small" show-analysis alt=""></smart-image>'
    )
    panel = page.locator("smart-image-analysis dl")
    await expect(panel).to_contain_text("Quality")
    await expect(panel).to_contain_text("Mood")
    assert await panel.locator(".colours i").count() > 1


async def test_the_panel_can_be_used_alone(host: Host) -> None:
    host._site.body = '<smart-image-analysis media-id="2"></smart-image-analysis>'
    await host.page.goto(host._site.url)
    await expect(host.page.locator("smart-image-analysis dl")).to_contain_text("/ 100")
