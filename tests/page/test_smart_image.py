"""`<smart-image>` on a page of another origin, in a real browser."""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Request, Route, expect

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
<script type="module" {how} src="{base}/static/smart-image.js"></script>
<body style="margin: 0">{body}</body></html>"""
_HURRY = """
const patient = window.setTimeout;
window.setTimeout = (task, ms, ...rest) => patient(task, ms / 50, ...rest);
"""
"""Shortens the component's back-off and its wait for a final to a fiftieth."""
_CHROME = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
_LATER = "<!-- later -->"


class Elsewhere:
    """Serves a page of another origin, on its own port."""

    def __init__(self, base: str) -> None:
        self._base = base
        self.body = ""
        self.how = ""
        """Attributes of the script."""
        self.rest = threading.Event()
        """Set when what follows `_LATER` may be sent."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = _PAGE.format(base=outer._base, body=outer.body, how=outer.how).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                first, mark, rest = page.partition(_LATER.encode())
                self.wfile.write(first)
                if mark:
                    outer.rest.wait(PATIENCE_MS / 1000)
                    self.wfile.write(mark + rest)

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
        self.checked: list[str] = []
        """Targets of HEAD."""
        self.page.on("request", self._note)

    def _note(self, request: Request) -> None:
        (self.checked if request.method == "HEAD" else self.asked).append(request.url)

    async def forgive(self, text: str) -> None:
        """Wait for an error that contains the text, and remove all such errors."""
        said = self.visit.complaints
        await eventually(lambda: any(text in one for one in said))
        said[:] = [one for one in said if text not in one]

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


async def shown(page: Page) -> object:
    """Return the text that the first component shows in place of its image."""
    return await page.locator("smart-image .error").first.text_content()


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
    assert url.endswith("/serve/2?w=828")


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
    await host.page.route("**/serve/**", lambda route: None)
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


async def test_a_signer_gets_each_address(host: Host) -> None:
    signer = "globalThis.smartImageSigner = ({ id, url }) => `${url}&sig=of-${id}`"
    page = await host.show(
        f'<script>{signer}</script><smart-image media-id="2" size="thumbnail" alt=""></smart-image>'
    )
    srcset = str(await image(page, "image.srcset"))
    assert srcset.count("&sig=of-2") == 2
    assert "&dpr=2&sig=of-2 2x" in srcset
    assert all("&sig=of-2" in url for url in host.pictures())


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


async def final_of(url: str) -> None:
    """Return when the server has the final: only that has a date."""
    async with aiohttp.ClientSession() as client:

        async def there() -> bool:
            async with client.head(url, headers={"Accept": _CHROME}) as answer:
                return "Last-Modified" in answer.headers

        await eventually(there, timeout_s=FINAL_MS / 1000, interval_s=0.2)


async def test_a_draft_is_replaced_by_its_final_after_one_check(host: Host) -> None:
    async def once_there(route: Route) -> None:
        if route.request.method == "HEAD":
            await final_of(route.request.url)
        await route.continue_()

    await host.page.add_init_script(_HURRY)
    await host.page.route("**/serve/**", once_there)
    one = '<smart-image media-id="2" size="grid" preferred-formats="webp" alt=""></smart-image>'
    page = await host.show(one + one)
    for each in await page.locator("smart-image").all():
        await expect(each).to_have_attribute("state", "final", timeout=FINAL_MS)
    # Playwright reports the browser's requests a moment later.
    await eventually(lambda: any(re.search(r"&v=\d+$", url) for url in host.pictures()))
    first = host.pictures()[0]
    assert first.endswith("size=grid&format=webp"), "that was the draft"
    # Both show the same draft.
    assert host.checked == [first]
    await page.unroute_all(behavior="ignoreErrors")


async def test_a_draft_is_recognised_if_the_list_of_resources_is_full(host: Host) -> None:
    """The browser keeps 250 of them: after that, a page that polls has none for its images."""
    await host.page.add_init_script("performance.setResourceTimingBufferSize(0)")
    # No other test here requests this size as WebP, so this response is a draft.
    one = '<smart-image media-id="2" size="header" preferred-formats="webp" alt=""></smart-image>'
    await host.show(one, state="draft")


async def test_an_own_img_is_replaced_by_its_final_too(host: Host, base: str) -> None:
    async def once_there(route: Route) -> None:
        if route.request.method == "HEAD":
            await final_of(route.request.url)
        await route.continue_()

    await host.page.add_init_script(_HURRY)
    await host.page.route("**/serve/**", once_there)
    url = f"{base}/serve/3?w=96&format=webp"
    page = await host.show(f'<smart-image media-id="3"><img src="{url}" alt=""></smart-image>')
    await expect(page.locator("smart-image")).to_have_attribute("state", "final", timeout=FINAL_MS)
    await eventually(lambda: len(host.pictures()) == 2)
    assert re.fullmatch(re.escape(url) + r"&v=\d+", host.pictures()[1])
    assert host.checked == [url]
    await page.unroute_all(behavior="ignoreErrors")


async def test_a_final_is_not_checked(host: Host, base: str) -> None:
    url = f"{base}/serve/2?w=64&format=webp"
    await host.show(f'<smart-image media-id="2"><img src="{url}" alt=""></smart-image>')
    await final_of(url)
    await host.page.add_init_script(_HURRY)
    body = f'<smart-image media-id="2"><img src="{url}&v=final" alt=""></smart-image>'
    page = await host.show(body, state="final")
    # A check would have been sent by then.
    await page.evaluate("new Promise((resolve) => setTimeout(resolve, 40_000))")
    assert host.checked == []
    assert len(host.pictures()) == 2


async def test_an_image_does_not_wait_for_any_other_response(host: Host) -> None:
    """The descriptions and all other images never arrive."""
    await host.page.route("**/info**", lambda route: None)
    await host.page.route("**/serve/3?**", lambda route: None)
    host._site.body = (
        '<smart-image media-id="3" priority alt=""></smart-image>'
        '<smart-image id="mine" media-id="2" priority alt=""></smart-image>'
    )
    await host.page.goto(host._site.url, wait_until="commit")
    mine = host.page.locator("#mine")
    await expect(mine).to_have_attribute("state", re.compile("final|draft"), timeout=PATIENCE_MS)
    assert [url for url in host.pictures() if "/serve/2?" in url] == [
        f"{host.visit.base}/serve/2?w=828"
    ]
    await host.page.unroute_all(behavior="ignoreErrors")


async def test_the_image_is_requested_before_its_description(host: Host) -> None:
    await host.show('<smart-image media-id="2" alt=""></smart-image>')
    own = [url for url in host.asked if "/serve/" in url or "/info/" in url]
    assert own == [f"{host.visit.base}/serve/2?w=828", f"{host.visit.base}/info/2"]


async def test_the_space_is_reserved_by_width_and_height(host: Host) -> None:
    page = await host.show(
        '<smart-image style="display: block; aspect-ratio: 768/512" media-id="2" width="768"'
        ' height="512" alt=""></smart-image><p>below</p>'
    )
    await page.wait_for_load_state("networkidle")
    assert await page.evaluate("window.shift") == 0


async def test_the_width_and_height_of_a_preset_are_learned(host: Host) -> None:
    page = await host.show('<smart-image media-id="2" size="small"></smart-image>')
    await until(
        page, "document.querySelector('smart-image').shadowRoot.querySelector('.box').style.width"
    )
    box = "host.shadowRoot.querySelector('.box')"
    assert await image(page, f"{box}.style.cssText") == "aspect-ratio: 480 / 320; width: 480px;"
    assert await image(page, "image.clientWidth") == 480


@pytest.mark.parametrize(
    ("around", "own", "text"),
    [
        ("de", "", "Mützen"),
        ("de-AT", "", "Mützen"),
        ("de", 'lang="en-GB"', "Caps"),
        ("it", "", "Caps on a wall"),
        ("de", 'alt="Given"', "Given"),
        ("de", 'lang="fr"', ""),
        # As `best_language` of the server: in any case, subtag by subtag, then another variant.
        ("EN-gb", "", "Caps"),
        ("en-GB-oxendict", "", "Caps"),
        ("en", "", "Caps"),
        ("en-US", "", "Caps"),
        ("zh-Hant-TW", "", "帽子"),
        ("zh-hans", "", "帽子"),
        ("zh", "", "帽子"),
        ("pt", "", "Bonés"),
        ("pt-PT", "", "Chapéus"),
        ("pt-AO", "", "Bonés"),
        ("e", "", "Caps on a wall"),
        ("eng", "", "Caps on a wall"),
        ("*", "", "Caps on a wall"),
        ("", "", "Caps on a wall"),
    ],
)
async def test_the_text_of_an_editor_is_in_the_language_of_the_page(
    host: Host, around: str, own: str, text: str
) -> None:
    async def described(route: Route) -> None:
        answer = await route.fetch()
        texts = {"de": "Mützen", "en-GB": "Caps", "fr": "", "pt-BR": "Bonés", "pt-PT": "Chapéus"}
        texts |= {"zh-Hant": "帽子", "zh-Hant-HK": "冷帽"}
        found = {**await answer.json(), "alts": texts, "alt": "Caps on a wall"}
        await route.fulfill(response=answer, json=found)

    await host.page.route("**/info/2", described)
    page = await host.show(
        f'<div lang="{around}"><smart-image media-id="2" size="small" {own}></smart-image></div>'
    )
    # The description comes after the image.
    await until(page, "document.querySelector('smart-image').shadowRoot.querySelector('.blur')")
    assert await image(page, "image.alt") == text


async def test_a_background_is_requested_only_if_it_is_named(host: Host) -> None:
    for given, wanted in (("", ""), ("original", "&bg=original"), ("blue", "")):
        host.asked.clear()
        await host.show(
            f'<smart-image media-id="2" size="small" background="{given}" alt=""></smart-image>'
        )
        assert host.pictures() == [f"{host.visit.base}/serve/2?size=small{wanted}"]


async def test_a_srcset_is_used_as_it_is_given(host: Host) -> None:
    await host.show(
        '<smart-image media-id="2" srcset="/serve/2?w=640&amp;v=ab 640w,'
        ' /serve/2?w=1200&amp;v=ab 768w" alt=""></smart-image>'
    )
    assert host.pictures() == [f"{host.visit.base}/serve/2?w=1200&v=ab"]


async def test_a_version_is_part_of_the_url(host: Host) -> None:
    await host.show('<smart-image media-id="2" size="small" version="ab" alt=""></smart-image>')
    assert host.pictures() == [f"{host.visit.base}/serve/2?size=small&v=ab"]


async def test_an_own_img_is_downloaded_once_and_shown(host: Host, base: str) -> None:
    page = await host.show(
        '<smart-image media-id="2">'
        f'<img src="{base}/serve/2?w=640" width="768" height="512" alt="Caps"></smart-image>'
        "<p>below</p>"
    )
    await page.wait_for_load_state("networkidle")
    assert host.pictures() == [f"{base}/serve/2?w=640"]
    # The page has said everything itself.
    assert not [url for url in host.asked if "/info" in url]
    assert await page.locator("smart-image img").bounding_box() is not None
    assert await page.evaluate("window.shift") == 0


async def test_an_own_img_that_is_parsed_after_the_component_has_run_is_downloaded_once(
    host: Host, base: str
) -> None:
    host._site.how = "async"
    host._site.body = (
        f'<smart-image media-id="2">{_LATER}<picture><source type="image/webp"'
        f' srcset="{base}/serve/2?w=640&amp;format=webp"><img src="{base}/serve/2?w=640" alt="">'
        "</picture></smart-image>"
    )
    await host.page.goto(host._site.url, wait_until="commit")
    await until(host.page, "Boolean(customElements.get('smart-image'))")
    assert await host.page.evaluate("document.readyState") == "loading"
    host._site.rest.set()
    await expect(host.page.locator("smart-image")).to_have_attribute(
        "state", re.compile("final|draft"), timeout=PATIENCE_MS
    )
    await host.page.wait_for_load_state("networkidle")
    assert host.pictures() == [f"{base}/serve/2?w=640&format=webp"]


async def test_a_lazy_own_img_stays_lazy(host: Host, base: str) -> None:
    host._site.body = (
        '<div style="height: 9000px"></div><smart-image media-id="2"><img loading="lazy"'
        f' src="{base}/serve/2?w=640" width="768" height="512" alt=""></smart-image>'
    )
    await host.page.goto(host._site.url)
    await host.page.wait_for_load_state("networkidle")
    assert host.pictures() == []
    component = host.page.locator("smart-image")
    await expect(component).to_have_attribute("state", "loading")
    await component.scroll_into_view_if_needed()
    await expect(component).to_have_attribute("state", re.compile("final|draft"))
    assert host.pictures() == [f"{base}/serve/2?w=640"]


async def test_images_without_a_size_are_lazy_too(host: Host) -> None:
    """Until the shape is known, an image takes some space, so not all are in the viewport."""
    await host.page.route("**/info**", lambda route: None)
    body = '<smart-image media-id="2"></smart-image><smart-image media-id="3"></smart-image>'
    host._site.body = body * 20
    await host.page.goto(host._site.url)
    await host.page.wait_for_load_state()
    await eventually(host.pictures)
    states = "[...document.querySelectorAll('smart-image')].map((one) => one.clientHeight > 100)"
    assert all(await host.page.evaluate(states))
    last = host.page.locator("smart-image").last
    await expect(last).to_have_attribute("state", "loading")
    await host.page.unroute_all(behavior="ignoreErrors")


async def test_another_candidate_of_the_srcset_is_no_final(host: Host) -> None:
    page = await host.show('<smart-image media-id="3" priority alt=""></smart-image>')
    await page.evaluate(
        "window.finals = 0; document.querySelector('smart-image')"
        ".addEventListener('final', () => { window.finals += 1; })"
    )
    await page.set_viewport_size({"width": 1600, "height": 600})
    await page.evaluate(
        "document.querySelector('smart-image').shadowRoot.querySelector('.image').sizes = '1600px'"
    )
    await eventually(lambda: len(host.pictures()) == 2)
    await until(page, "performance.getEntriesByName(" + repr(host.pictures()[1]) + ").length > 0")
    assert await page.evaluate("window.finals") == 0


async def test_an_own_img_of_another_image_is_not_shown(host: Host, base: str) -> None:
    page = await host.show(
        f'<smart-image media-id="2"><img src="{base}/serve/22?w=64" alt="" loading="lazy"'
        "></smart-image>"
    )
    assert await page.locator("smart-image > img").bounding_box() is None
    assert f"{base}/serve/2?w=828" in host.pictures()


_BAD_IDS = (
    *("undefined", "null", "NaN", "[object Object]", "-1", "1.5", "1e3", "7,8", "../7", "007"),
    *(" 7 ", "7?w=16", "99999999999999999999", "(", "\u0667"),
)


async def test_an_invalid_id_costs_only_itself(host: Host) -> None:
    bad = [
        f'<smart-image class="bad" media-id="{one}" size="small" alt="A harbour"></smart-image>'
        f'<smart-image-analysis media-id="{one}"></smart-image-analysis>'
        for one in _BAD_IDS
    ]
    page = await host.show(
        "".join(bad)
        + '<smart-image class="good" media-id="2" size="small"></smart-image>'
        + '<smart-image class="good" media-id="3" size="small"></smart-image>',
        state="final|draft|error",
    )
    for one in await page.locator(".bad").all():
        await expect(one).to_have_attribute("state", "error")
    for one in await page.locator(".good").all():
        await expect(one).to_have_attribute("state", re.compile("final|draft"))
    texts = await page.locator(".bad .error").all_text_contents()
    assert texts == ["A harbour"] * len(_BAD_IDS)
    # Nothing was requested for them.
    requested = [url for url in host.asked if "/serve/" in url or "/info" in url]
    assert sorted(requested) == [
        f"{host.visit.base}/info?ids=2,3",
        *(f"{host.visit.base}/serve/{one}?size=small" for one in (2, 3)),
    ]


async def test_a_missing_image_costs_only_itself(host: Host) -> None:
    page = await host.show(
        '<smart-image media-id="99" alt="A harbour"></smart-image>'
        '<smart-image id="good" media-id="2"></smart-image>',
        state="final|draft|error",
    )
    await expect(page.locator("#good")).to_have_attribute("state", re.compile("final|draft"))
    # Not what the server says.
    assert await shown(page) == "A harbour"
    assert [url for url in host.asked if re.search(r"/(serve|info\?ids=)/?99", url)] == [
        f"{host.visit.base}/serve/99?w=828",
        f"{host.visit.base}/info?ids=99,2",
    ]


async def test_a_missing_image_without_alt_shows_no_text(host: Host) -> None:
    page = await host.show('<smart-image media-id="99"></smart-image>', state="error")
    assert await shown(page) == ""
    await host.forgive("404")


async def test_the_text_of_an_own_img_that_fails_is_shown(host: Host, base: str) -> None:
    page = await host.show(
        f'<smart-image media-id="99"><img src="{base}/serve/99" alt="A harbour"></smart-image>',
        state="error",
    )
    assert await shown(page) == "A harbour"
    await host.forgive("404")


async def test_each_image_is_described_singly_if_a_list_is_rejected(host: Host) -> None:
    def reject(route: Route) -> Awaitable[None]:
        return route.fulfill(status=400, json={"detail": "ids must be 1 to 100 media ids"})

    await host.page.route("**/info?**", reject)
    page = await host.show(
        '<smart-image media-id="2" size="small"></smart-image>'
        '<smart-image media-id="3" size="small"></smart-image>'
    )
    for at in range(2):
        box = f"document.querySelectorAll('smart-image')[{at}].shadowRoot.querySelector('.box')"
        await until(page, f"Boolean({box}.style.width)")
    assert [url for url in host.asked if "/info" in url] == [
        f"{host.visit.base}/info{path}" for path in ("?ids=2,3", "/2", "/3")
    ]
    await host.forgive("400")


@pytest.mark.parametrize("status", [503, 502, 429, None])
async def test_a_description_is_retried(host: Host, status: int | None) -> None:
    failures = iter(range(2))

    async def fail_twice(route: Route) -> None:
        if next(failures, None) is None:
            await route.continue_()
        elif status is None:
            await route.abort()
        else:
            await route.fulfill(status=status, json={"detail": "the server is overloaded"})

    await host.page.add_init_script(_HURRY)
    await host.page.route("**/info**", fail_twice)
    page = await host.show('<smart-image-analysis media-id="2"></smart-image-analysis>')
    await expect(page.locator("smart-image-analysis dl")).to_contain_text("/ 100")
    assert len([url for url in host.asked if "/info" in url]) == 3
    await host.forgive("Failed to load resource")


@pytest.mark.parametrize("status", [503, None])
@pytest.mark.parametrize("inside", ["", '<img src="{url}" alt="">'], ids=["drawn", "own"])
async def test_an_image_is_retried(host: Host, base: str, status: int | None, inside: str) -> None:
    failures = iter(range(2))

    async def fail_twice(route: Route) -> None:
        if next(failures, None) is None:
            await route.continue_()
        elif status is None:
            await route.abort()
        else:
            await route.fulfill(status=status, json={"detail": "the server is overloaded"})

    await host.page.add_init_script(_HURRY)
    await host.page.route("**/serve/**", fail_twice)
    url = f"{base}/serve/2?size=grid"
    inside = inside.format(url=url)
    await host.show(f'<smart-image media-id="2" size="grid" alt="">{inside}</smart-image>')
    assert host.pictures() == [url] * 3
    await host.forgive("Failed to load resource")


async def test_an_image_that_keeps_failing_sets_the_error_state(host: Host) -> None:
    await host.page.add_init_script(_HURRY)
    await host.page.route("**/serve/**", lambda route: route.fulfill(status=500, body="oh no"))
    page = await host.show('<smart-image media-id="2" alt="A harbour"></smart-image>', state="err")
    assert len(host.pictures()) == 5
    assert await shown(page) == "A harbour"
    await host.forgive("500")


async def test_a_format_that_the_server_does_not_send_is_given_up(host: Host) -> None:
    """JPEG has no transparency: the server answers 400."""
    await host.page.add_init_script(_HURRY)
    page = await host.show(
        '<smart-image media-id="2" background="removed" preferred-formats="jpeg"></smart-image>'
    )
    assert await image(page, "image.naturalWidth > 0")
    assert "format=jpeg" in host.pictures()[0]
    assert "format" not in host.pictures()[1]


async def test_an_image_is_retried_even_if_it_cannot_be_described(host: Host) -> None:
    failures = iter(range(2))

    async def fail_twice(route: Route) -> None:
        await (route.continue_() if next(failures, None) is None else route.abort())

    await host.page.add_init_script(_HURRY)
    await host.page.route("**/info/**", lambda route: route.fulfill(status=500, body="oh no"))
    await host.page.route("**/serve/**", fail_twice)
    await host.show('<smart-image media-id="2" size="grid"></smart-image>')
    assert len(host.pictures()) == 3
    await host.forgive("Failed to load resource")


async def test_an_image_is_shown_even_if_it_cannot_be_described(host: Host) -> None:
    await host.page.route("**/info**", lambda route: route.fulfill(status=500, body="oh no"))
    page = await host.show(
        '<smart-image media-id="2"></smart-image>'
        '<smart-image media-id="2" size="small"></smart-image>'
        '<smart-image media-id="2" width="3" height="1"></smart-image>'
    )
    found = await page.evaluate(
        "[...document.querySelectorAll('smart-image')].map((host) => host.shadowRoot"
        ".querySelector('.image')).map((image) => [image.clientWidth, image.clientHeight])"
    )
    # The shapes of the image itself, of the preset, and of the attributes.
    assert found == [[800, 533], [480, 320], [800, 267]]
    await host.forgive("500")


async def test_an_image_that_fails_keeps_its_space(host: Host) -> None:
    page = await host.show(
        '<smart-image media-id="undefined" width="300" height="100"></smart-image>'
        '<smart-image media-id="99" width="300" height="100"></smart-image>',
        state="error",
    )
    heights = "[...document.querySelectorAll('smart-image')].map((one) => one.clientHeight)"
    assert await page.evaluate(heights) == [267, 267]
    await host.forgive("404")


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
