"""The gallery, the metrics panel and the drop zone, in a real browser."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.benchmarks.servers import smartserve
from tests.page.conftest import PATIENCE_MS, SETTINGS, Visit, intercept, tab, until
from tests.support.server import SAMPLES, Library

PHOTO = min(SAMPLES.glob("*.jpg"))


async def test_the_newest_images_are_shown_without_requests_to_other_hosts(
    visit: Visit,
) -> None:
    page = await visit.home()
    names = await page.locator(".tile").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert [name.removeprefix("Inspect ") for name in names] == [
        *("badge.png", "logo.png", PHOTO.name, "large.jpg")
    ]
    await expect(page.locator(".tile img.there")).to_have_count(4, timeout=PATIENCE_MS)
    assert await page.locator(".tile img").evaluate_all(
        "all => all.every(one => one.naturalWidth > 0)"
    )


async def test_placeholders_are_painted_before_the_images_load(visit: Visit) -> None:
    await visit.home()
    # The page requests the missing hashes; the listing has them once they are computed.
    listed = "fetch('/api/gallery').then((response) => response.json())"
    await until(
        visit.page, f"{listed}.then(({{ pictures }}) => pictures.every((one) => one.thumbhash))"
    )
    await visit.page.route("**/serve/**", lambda route: route.abort())
    await visit.page.reload()
    await visit.page.wait_for_selector(".tile canvas")
    painted = await visit.page.locator(".tile canvas").evaluate_all(
        "all => all.map(one => one.width)"
    )
    assert max(painted) == 32
    await visit.page.wait_for_selector(".tile.broken")
    visit.complaints.clear()  # of the requests that were aborted here


async def test_the_panel_shows_the_metrics(visit: Visit) -> None:
    page = await visit.home()
    await expect(page.locator('[data-live="hits"]')).to_contain_text("%", timeout=PATIENCE_MS)
    await expect(page.locator('[data-live="latency"]')).to_contain_text("s")
    await expect(page.locator('[data-live="queue"]')).to_have_text("0")
    await expect(page.locator('[data-note="hits"]')).to_contain_text("since the server started")


async def test_quantiles_and_hit_rate_are_computed_from_the_text_format(visit: Visit) -> None:
    await visit.page.goto(visit.base)
    told = await visit.page.evaluate(
        """async () => {
          const { figures, parse } = await import("/static/metrics.js");
          return figures(parse([
            'smartserve_requests_total{route="serve",status="200",source="memory"} 3.0',
            'smartserve_requests_total{route="serve",status="200",source="render"} 1.0',
            'smartserve_requests_total{route="serve",status="404",source="none"} 7.0',
            'smartserve_requests_total{route="metrics",status="200",source="none"} 9.0',
            'smartserve_request_seconds_bucket{le="0.01",route="serve"} 2.0',
            'smartserve_request_seconds_bucket{le="0.1",route="serve"} 4.0',
            'smartserve_request_seconds_bucket{le="+Inf",route="serve"} 4.0',
            'smartserve_bytes_saved_total{format="avif"} 1e+06',
            'smartserve_bytes_saved_total{format="we\\\\"bp"} 5.0',
          ].join("\\n")));
        }"""
    )
    assert (told["answered"], told["cached"], told["saved"]) == (4, 3, 1_000_005)
    assert told["median"] == pytest.approx(0.01)
    assert told["p95"] == pytest.approx(0.091)


def listed(first: int, last: int, following: int | None) -> dict[str, Any]:
    """Return a page of the gallery with descending ids."""
    unknown = dict.fromkeys(("name", "version", "width", "height", "thumbhash"))
    ids = range(first, last - 1, -1)
    pictures = [{"id": one, "settled": True, **unknown} for one in ids]
    return {"pictures": pictures, "next": following}


@asynccontextmanager
async def many_images(
    page: Page, *, fail_first: bool = False, newer: bool = False
) -> AsyncIterator[list[str]]:
    """Answer with 80 images in two pages, whose thumbnails are those of image 1.

    With ``newer`` there are five more from the second request on.
    """
    asked: list[str] = []

    async def gallery(route: Route) -> None:
        asked.append(route.request.url)
        if fail_first and len(asked) == 1:
            await route.fulfill(status=503, json={"detail": "The database does not respond."})
            return
        if "before=" in route.request.url:
            await route.fulfill(json=listed(40, 1, None))
        elif len(asked) > 1 and newer:
            await route.fulfill(json=listed(85, 46, 46))
        else:
            await route.fulfill(json=listed(80, 41, 41))

    async def thumbnail(route: Route) -> None:
        await route.continue_(url=re.sub(r"/serve/\d+", "/serve/1", route.request.url))

    await page.route("**/api/gallery*", gallery)
    await page.route("**/serve/*", thumbnail)
    await page.route("**/info?*", lambda route: route.fulfill(json={"pictures": []}))
    try:
        yield asked
        # Without the routes, images that still load would be requested by ids that do not exist.
        await page.wait_for_load_state("networkidle")
    finally:
        await page.unroute_all(behavior="ignoreErrors")


async def test_a_double_click_on_load_more_adds_each_image_once(visit: Visit) -> None:
    async with many_images(visit.page) as asked:
        page = await visit.home()
        await page.locator("#more").dblclick()
        await expect(page.locator(".tile")).to_have_count(80)
        await page.wait_for_load_state("networkidle")
        await expect(page.locator(".tile")).to_have_count(80)
        names = await page.locator(".tile").evaluate_all("all => all.map(one => one.ariaLabel)")
        assert len(set(names)) == 80
        assert len(asked) == 2
        await expect(page.get_by_role("button", name="Inspect Image 40")).to_be_focused()
        await expect(page.locator("#gallery-count")).to_have_text("80")


async def test_two_refreshes_at_once_add_each_image_once(visit: Visit) -> None:
    async with many_images(visit.page, newer=True):
        page = await visit.home()
        await page.evaluate(
            """async () => {
              const { refresh, all } = await import("/static/gallery.js");
              await Promise.all([refresh(), refresh()]);
            }"""
        )
        await expect(page.locator(".tile")).to_have_count(45)


async def test_a_refresh_after_a_removal_puts_no_older_image_first(visit: Visit) -> None:
    """The page is filled up with an image that is older than all shown ones."""
    asked: list[str] = []

    async def gallery(route: Route) -> None:
        asked.append(route.request.url)
        newest, last = (80, 41) if len(asked) == 1 else (79, 40)
        await route.fulfill(json=listed(newest, last, last))

    async with many_images(visit.page):
        # The last route is the first to be tried.
        await visit.page.route("**/api/gallery*", gallery)
        page = await visit.home()
        await page.evaluate('import("/static/gallery.js").then(({ refresh }) => refresh())')
        await expect(page.locator(".tile").first).to_have_attribute(
            "aria-label", "Inspect Image 80"
        )
        await expect(page.locator(".tile")).to_have_count(40)


async def test_pages_without_public_images_are_skipped(visit: Visit) -> None:
    pages = {"": listed(80, 81, 61), "61": listed(60, 41, 41), "41": listed(40, 41, 21)}
    asked: list[str] = []

    async def gallery(route: Route) -> None:
        before = route.request.url.partition("before=")[2]
        asked.append(before)
        await route.fulfill(json=pages.get(before, listed(20, 1, None)))

    async with many_images(visit.page):
        # The last route is the first to be tried.
        await visit.page.route("**/api/gallery*", gallery)
        page = await visit.home()
        await expect(page.locator(".tile")).to_have_count(20)
        await expect(page.locator("#gallery-empty")).to_be_hidden()
        assert asked == ["", "61"]
        await page.locator("#more").click()
        await expect(page.locator(".tile")).to_have_count(40)
        await expect(page.locator("#more")).to_be_hidden()
        assert asked == ["", "61", "41", "21"]
        await page.evaluate('import("/static/gallery.js").then(({ refresh }) => refresh())')
        await expect(page.locator(".tile")).to_have_count(40)
        await expect(page.locator("#more")).to_be_hidden()


async def test_a_gallery_that_cannot_be_listed_gives_the_reason_and_a_retry(
    visit: Visit,
) -> None:
    page = visit.page
    async with many_images(page, fail_first=True):
        await page.goto(visit.base)
        await expect(page.locator("#gallery-error")).to_have_text(
            "The images could not be listed. The database does not respond."
        )
        # The rest of the page works.
        await page.wait_for_selector("#upload:not([hidden])")
        await expect(page.locator('[data-note="hits"]')).not_to_be_empty()
        await page.get_by_role("button", name="Retry").click()
        await expect(page.locator(".tile")).to_have_count(40)
        await expect(page.locator("#gallery-error")).to_be_hidden()
        await expect(page.locator("#more")).to_have_text("Load more")
    visit.complaints.clear()  # of the response that was replaced here


async def test_metrics_that_cannot_be_read_are_not_shown_as_current(visit: Visit) -> None:
    page = await visit.home()
    await expect(page.locator('[data-live="hits"]')).to_contain_text("%", timeout=PATIENCE_MS)
    await intercept(page, "**/metrics", lambda route: route.abort())
    for name in ("hits", "latency", "queue", "saved"):
        await expect(page.locator(f'[data-live="{name}"]')).to_have_text("–")
    await expect(page.locator("#live")).to_contain_text("The server does not respond.")
    visit.complaints.clear()  # of the requests that were aborted here


async def test_an_uploaded_file_is_queued_processed_and_served(
    browser: Browser, library: Library, tmp_path: Path
) -> None:
    with smartserve(library.copy(tmp_path / "data"), settings=SETTINGS) as running:
        async with tab(browser, f"http://127.0.0.1:{running.address[1]}") as visit:
            page = await visit.home()
            # Until it is shown, nothing reads what is chosen.
            await page.wait_for_selector("#upload:not([hidden])")
            await page.set_input_files("#file", SAMPLES / "kodak-05.jpg")
            await page.wait_for_selector(".uploads button", timeout=PATIENCE_MS)
            assert await page.locator(".steps .done").all_text_contents() == [
                *("uploaded", "queued", "processed", "served")
            ]
            await expect(page.locator(".tile")).to_have_count(5)
            await page.locator(".uploads button").click()
            await page.wait_for_selector("#image.there")
            await expect(page.locator("#inspector-title")).to_have_text("kodak-05.jpg")


async def test_a_known_file_is_named_and_becomes_no_second_image(visit: Visit) -> None:
    page = await visit.home()
    await page.wait_for_selector("#upload:not([hidden])")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    await page.set_input_files("#file", SAMPLES / "logo.png")
    text = "This file is image 3 already (logo.png). No second image was created."
    await expect(page.locator(".uploads .known")).to_have_text(text)
    await expect(page.locator("#announcement")).to_have_text(f"logo.png: {text}")
    assert "PATCH" not in sent
    await expect(page.locator(".tile")).to_have_count(4)
    await page.get_by_role("button", name="Inspect logo.png").first.click()
    await expect(page.locator("#inspector-title")).to_have_text("logo.png")


async def test_equal_files_at_once_become_one_image(
    browser: Browser, library: Library, tmp_path: Path
) -> None:
    copies = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for copy in copies:
        shutil.copy(SAMPLES / "kodak-05.jpg", copy)
    other = SAMPLES / "kodak-15.jpg"
    with smartserve(library.copy(tmp_path / "data"), settings=SETTINGS) as running:
        async with tab(browser, f"http://127.0.0.1:{running.address[1]}") as visit:
            page = await visit.home()
            await page.wait_for_selector("#upload:not([hidden])")
            sent: list[str] = []
            page.on("request", lambda request: sent.append(request.method))
            # A status that cannot be read once is no failure of the upload.
            fails = [True]

            async def fail_once(route: Route) -> None:
                if fails and fails.pop():
                    await route.fulfill(status=503, json={"detail": "busy"})
                else:
                    await route.continue_()

            await intercept(page, "**/api/page/uploads/*", fail_once)
            await page.set_input_files("#file", [*copies, other])
            await expect(page.locator(".uploads button")).to_have_count(3, timeout=2 * PATIENCE_MS)
            assert sent.count("PATCH") == 2
            # Not the other one, although it may be listed before it is processed.
            await expect(page.locator(".uploads .known")).to_have_count(1)
            await expect(page.locator(".uploads .known")).to_contain_text("already. No second")
            await expect(page.locator(".tile")).to_have_count(6)
            visit.complaints.clear()  # of the response that was replaced here


async def test_at_most_four_of_many_files_are_read_and_processed_at_once(
    visit: Visit, tmp_path: Path
) -> None:
    files = [tmp_path / f"{at}.jpg" for at in range(12)]
    for at, file in enumerate(files):
        file.write_bytes(b"%d" % at)
    ready = asyncio.Event()

    async def known(route: Route) -> None:
        await ready.wait()
        await route.fulfill(json={"id": 3, "name": "logo.png"})

    page = visit.page
    await page.add_init_script(
        """
        window.reading = 0;
        const read = Blob.prototype.arrayBuffer;
        Blob.prototype.arrayBuffer = function () {
          window.reading += 1;
          return read.call(this);
        };
        """
    )
    await page.route("**/api/page/known*", known)
    await visit.home()
    await page.wait_for_selector("#upload:not([hidden])")
    async with page.expect_request("**/api/page/known*"):
        await page.set_input_files("#file", files)
    # All are listed at once, also those that wait.
    await expect(page.locator(".uploads li")).to_have_count(12)
    await until(page, "window.reading >= 4")
    # More would have been read by then.
    await page.wait_for_timeout(500)
    assert await page.evaluate("window.reading") == 4
    ready.set()
    await expect(page.locator(".uploads button")).to_have_count(12)
    assert await page.evaluate("window.reading") == 12
    await page.unroute_all(behavior="ignoreErrors")


async def test_a_file_that_is_no_image_is_rejected_with_the_reason(
    visit: Visit, tmp_path: Path
) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("not a picture")
    page = await visit.home()
    await page.wait_for_selector("#upload:not([hidden])")
    await page.set_input_files("#file", text)
    await page.wait_for_selector(".uploads .bad")
    assert "415" in visit.complaints.pop()


@pytest.mark.drill
async def test_without_uploads_the_drop_zone_is_hidden(
    browser: Browser, library: Library, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "MAIN__ENABLED": "false"}
    with smartserve(library.copy(tmp_path / "data"), settings=settings) as running:
        async with tab(browser, f"http://127.0.0.1:{running.address[1]}") as visit:
            page = await visit.home()
            await page.wait_for_load_state("networkidle")
            assert await page.locator("#upload").is_hidden()
