"""The inspector in a real browser: requests, drafts and finals, formats, snippets."""

from __future__ import annotations

import json
import re

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.page.conftest import FINAL_MS, PATIENCE_MS, Visit, intercept, tab, until


async def fact(page: Page, name: str) -> str:
    return await page.locator(f'[data-fact="{name}"]').inner_text()


async def ask(page: Page, name: str, value: str) -> None:
    """Click a radio button, and wait for the response."""
    await page.locator(f'#{name} label:has([value="{value}"])').click()
    await settled(page)


async def settled(page: Page) -> None:
    """Wait until a response is shown."""
    await expect(page.locator("#stage")).to_have_text(
        re.compile("Draft|Final"), timeout=PATIENCE_MS
    )


async def test_an_image_is_shown_with_the_facts_of_its_response(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await settled(page)
    assert await fact(page, "format") == "AVIF"
    assert await fact(page, "pixels") == "768 × 512"
    assert re.fullmatch(r"[\d.]+ kB", await fact(page, "bytes"))
    assert re.fullmatch(r"[\d.]+ m?s", await fact(page, "time"))
    await expect(page.locator("#origin")).to_have_text(re.compile("Draft|memory|disk|concurrent"))
    await page.get_by_text("Response headers").click()
    await expect(page.locator("#headers")).to_contain_text("cache-status")
    assert await page.evaluate("document.querySelector('#image').naturalWidth") == 768


async def test_the_controls_change_the_request(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await page.select_option("#size", "thumbnail")
    await expect(page.locator('[data-fact="pixels"]')).to_have_text("300 × 300")
    await ask(page, "format", "webp")
    await expect(page.locator('[data-fact="format"]')).to_have_text("WebP")
    await expect(page.locator("#url")).to_contain_text("size=thumbnail&format=webp")
    await page.locator('#dpr label:has([value="1.5"])').click()
    await expect(page.locator('[data-fact="pixels"]')).to_have_text("450 × 450")
    await page.locator('#dpr label:has([value="1"])').click()
    await page.select_option("#size", "")
    await page.select_option("#width", "384")
    await expect(page.locator('[data-fact="pixels"]')).to_have_text("384 × 256")
    await expect(page.locator("#url")).to_contain_text("?w=384&")


async def test_an_image_keeps_its_shape_in_a_small_window(visit: Visit) -> None:
    await visit.page.set_viewport_size({"width": 1000, "height": 420})
    page = await visit.inspect("logo.png")
    await settled(page)
    box = await page.locator("#image").bounding_box()
    assert box is not None
    assert box["height"] < 300
    fit = await page.evaluate("getComputedStyle(document.querySelector('#image')).objectFit")
    assert fit == "contain"


async def test_jpeg_is_disabled_while_the_background_is_removed(visit: Visit) -> None:
    page = await visit.inspect("logo.png")
    await ask(page, "format", "jpeg")
    await ask(page, "bg", "removed")
    await expect(page.locator("#url")).to_contain_text("bg=removed")
    assert "format=jpeg" not in await page.locator("#url").inner_text()
    assert await page.locator('#format [value="jpeg"]').is_disabled()
    await expect(page.locator("#frame")).to_have_class(re.compile("transparent"))


async def test_a_visible_draft_is_replaced_by_its_final(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    # Recorded in the page: between two looks from here the final may have replaced the draft.
    await page.evaluate(
        """() => {
          const [stage, image] = ["#stage", "#image"].map((one) => document.querySelector(one));
          window.shown = {};
          new MutationObserver(() => {
            window.shown[stage.textContent.trim()] ??= image.getAttribute("src");
          }).observe(stage, { childList: true, characterData: true, subtree: true });
        }"""
    )
    # This requests the selected width. To select that width again would request it twice, and the
    # second response may be the final of the draft that the first one showed.
    await page.select_option("#size", "")
    await settled(page)
    # Only widths that no other test requests, because their finals must not exist yet. If the
    # server sends the nearest stored size, as on a busy machine, or a final, the next one is tried.
    offered = (
        '[...document.querySelectorAll("#width option:not(:checked)")].map((one) => one.value)'
    )
    for width in [*reversed(await page.evaluate(offered))]:
        if width in ("384", "640"):
            continue
        await page.evaluate("window.shown = {}")
        await page.select_option("#width", width)
        shown = '["Draft", "Fallback", "Final"].some((one) => one in window.shown)'
        await until(page, shown, timeout_ms=FINAL_MS)
        if await page.evaluate('"Draft" in window.shown'):
            break
    await expect(page.locator("#stage")).to_have_text("Final", timeout=FINAL_MS)
    await expect(page.locator("#stage-note")).to_have_text(re.compile("Ready after .* instead of"))
    draft = await page.evaluate("window.shown.Draft")
    assert await page.get_attribute("#image", "src") != draft
    await expect(page.locator("#announcement")).to_have_text(re.compile("The final is ready"))


async def test_all_formats_are_listed_with_their_file_sizes(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await expect(page.locator("#bars li")).to_have_count(3)
    await expect(page.locator("#bars li.best")).to_have_count(1, timeout=PATIENCE_MS)
    await expect(page.locator("#bars .bytes", has_text="kB")).to_have_count(3, timeout=PATIENCE_MS)
    await expect(page.locator("#bars li").first).to_contain_text("% smaller", timeout=PATIENCE_MS)


async def test_two_formats_are_compared_pixel_by_pixel(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await until(page, "document.querySelector('#over').naturalWidth === 768")
    assert await page.input_value("#left") == "jpeg"
    assert await page.input_value("#right") == "avif"
    await page.select_option("#zoom", "4")
    across = "document.querySelector('#under').getBoundingClientRect().width"
    assert await page.evaluate(across) == 768 * 4
    seam = "document.querySelector('.seam').getBoundingClientRect().left"
    before = await page.evaluate(seam)
    await page.evaluate("document.querySelector('#pair').scrollLeft = 900")
    await until(page, f"Math.abs({seam} - {before}) < 1")
    await page.focus("#split")
    await page.keyboard.press("ArrowRight")
    assert await page.input_value("#split") == "51"
    assert await page.evaluate(seam) > before


async def test_the_accept_header_of_this_browser_is_explained(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await page.get_by_text("Why this format?").click()
    await expect(page.locator("#why-text")).to_contain_text("AVIF")
    accept = await page.locator("#why-accept").inner_text()
    assert "image/avif" in accept
    assert "does not report" not in accept
    await expect(page.locator("#why-formats .chosen")).to_contain_text("sent")


async def test_the_accept_header_is_known_on_a_page_that_has_been_open_for_long(
    visit: Visit,
) -> None:
    """The browser's list of resources is full by then, because the page polls the metrics."""
    page = await visit.home()
    await page.evaluate(
        "performance.setResourceTimingBufferSize(performance.getEntriesByType('resource').length)"
    )
    await page.get_by_role("button", name="Inspect kodak-03.jpg").click()
    await page.get_by_text("Why this format?").click()
    await expect(page.locator("#why-accept")).to_contain_text("image/avif")
    await expect(page.locator("#why-accept")).not_to_contain_text("does not report")


async def test_the_explanation_is_about_the_image_that_is_shown(
    browser: Browser, drawn: str
) -> None:
    async with tab(browser, drawn) as visit:
        page = await visit.inspect("photo.jpg")
        await page.get_by_text("Why this format?").click()
        formats = page.locator("#why-formats b")
        await expect(formats).to_have_text(["AVIF", "WebP", "JPEG"])
        await page.keyboard.press("Escape")
        await page.get_by_role("button", name="Inspect moving.gif").click()
        await expect(formats).to_have_text(["AVIF", "WebP", "GIF"])
        await expect(page.locator("#why-formats .chosen b")).to_have_text("WebP")
        await expect(page.locator("#why-formats")).to_contain_text("not used for animations")
        await page.keyboard.press("Escape")
        await page.get_by_role("button", name="Inspect white.png").click()
        await expect(formats).to_have_text(["AVIF", "WebP", "PNG"])


async def test_a_format_that_was_requested_by_name_is_not_explained_by_the_header(
    visit: Visit,
) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await page.get_by_text("Why this format?").click()
    await ask(page, "format", "webp")
    await expect(page.locator("#why-text")).to_have_text(
        "WebP was requested by name, so the Accept header does not count."
    )
    await expect(page.locator("#why-accept")).to_be_hidden()


async def test_a_final_in_another_format_than_the_header_prefers_is_explained(
    visit: Visit,
) -> None:
    page = await visit.home()
    headers = {"Content-Type": "image/webp", "Cache-Status": "smartserve; hit; detail=disk"}
    webp = await page.request.get(f"{visit.base}/serve/2?size=thumbnail&format=webp")
    body = await webp.body()
    await intercept(
        page, "**/serve/2?size=detail*", lambda route: route.fulfill(headers=headers, body=body)
    )
    await page.get_by_role("button", name="Inspect kodak-03.jpg").click()
    await page.get_by_text("Why this format?").click()
    await expect(page.locator("#why-text")).to_contain_text(
        "This final is WebP, because its file is smaller than that of AVIF"
    )
    await expect(page.locator("#why-formats .chosen b")).to_have_text("WebP")
    await expect(page.locator("#why-formats li").first).to_contain_text("not sent this time")


async def test_the_analysis_is_shown(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await page.get_by_text("Analysis", exact=True).click()
    await expect(page.locator("#analysis")).to_contain_text("photo")
    assert await page.locator("#colours span").count() >= 3


async def test_what_providers_found_is_shown(visit: Visit) -> None:
    async def answer(route: Route) -> None:
        response = await route.fetch()
        found = await response.json()
        found["analysis"] |= {
            "medium": "oil",
            "labels": [{"name": "Macaw"}, {"name": "Bird"}],
            "detected_logos": [{"name": "Kodak"}, {"name": "Kodak"}],
            "detected_text": "<b>FREE",
            "safe_search": {"adult": "VERY_UNLIKELY", "racy": "VERY_LIKELY", "spoof": "POSSIBLE"},
            "site_context": {"content_class": {"name": "banner"}},
        }
        await route.fulfill(response=response, json=found)

    await visit.page.route("**/info/*", answer)
    page = await visit.inspect("kodak-03.jpg")
    await page.get_by_text("Analysis", exact=True).click()
    shown = page.locator("#analysis")
    for text in ("oil", "Macaw, Bird", "Kodak", "<b>FREE", "racy: very likely, spoof: possible"):
        await expect(shown.get_by_text(text, exact=True)).to_be_visible()
    await expect(shown.get_by_text("banner")).to_be_visible()
    await expect(shown.get_by_text("Objects")).to_have_count(0)


async def test_snippets_work_as_written(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    for kind in ("img", "picture"):
        await page.locator(f'#snippet-kind label:has([value="{kind}"])').click()
        html = await page.locator("#snippet").inner_text()
        assert "kodak" not in html
        width = await page.evaluate(
            """async (html) => {
              const holder = document.createElement("div");
              holder.innerHTML = html;
              document.querySelector("main").append(holder);
              const image = holder.querySelector("img");
              image.loading = "eager";
              await image.decode();
              holder.remove();
              return image.naturalWidth;
            }""",
            html,
        )
        assert width > 0
    for kind, part in (("react", "SmartImage"), ("next", "loaderFile"), ("css", "image-set(")):
        await page.locator(f'#snippet-kind label:has([value="{kind}"])').click()
        await expect(page.locator("#snippet")).to_contain_text(part)


async def snippet(page: Page, kind: str) -> str:
    await page.locator(f'#snippet-kind label:has([value="{kind}"])').click()
    return await page.locator("#snippet").inner_text()


_LOADED = """async (html) => {
  const holder = document.createElement("div");
  holder.innerHTML = html;
  document.querySelector("main").append(holder);
  const image = holder.querySelector("img");
  image.loading = "eager";
  await image.decode();
  const { currentSrc, width, height } = image;
  holder.remove();
  return { currentSrc, width, height };
}"""
"""Show the HTML of a snippet; return which image the browser selected, and its size."""


async def choose(page: Page, size: str, **radios: str) -> None:
    for name, value in radios.items():
        await page.locator(f'#{name} label:has([value="{value}"])').click()
    await page.select_option("#size", size)


async def test_snippets_have_the_chosen_size_background_format_and_density(
    browser: Browser, base: str
) -> None:
    async with tab(browser, base, device_scale_factor=2) as visit:
        page = await visit.inspect("logo.png")
        await choose(page, "small", format="webp", bg="removed", dpr="2")
        await expect(page.locator("#url")).to_contain_text(
            "?size=small&dpr=2&format=webp&bg=removed"
        )
        shown = visit.base + await page.locator("#url").inner_text()
        for kind in ("img", "picture"):
            loaded = await page.evaluate(_LOADED, await snippet(page, kind))
            assert loaded["currentSrc"] == shown
        assert f'url("{shown}") 2x type("image/webp")' in await snippet(page, "css")
        for kind in ("component", "react"):
            text = await snippet(page, kind)
            assert 'size="small"' in text
            assert 'background="removed"' in text
            assert re.search(r'(preferred-formats|preferredFormats)="webp"', text)
        assert re.search(r"/serve/3\?format=webp&bg=removed&v=", await snippet(page, "next"))
        assert "avif" not in await snippet(page, "img")


async def test_a_snippet_of_a_cropped_size_offers_densities_up_to_the_chosen_one(
    visit: Visit,
) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await choose(page, "thumbnail", dpr="2")
    text = await snippet(page, "img")
    assert re.findall(r" ([\d.]+x)\b", text) == ["1x", "1.5x", "2x"]
    assert 'width="300" height="300"' in text
    loaded = await page.evaluate(_LOADED, text)
    assert (loaded["width"], loaded["height"]) == (300, 300)
    assert "size=thumbnail" in await snippet(page, "next")
    assert "w=" not in await snippet(page, "img")


async def test_a_snippet_of_a_custom_width_has_no_wider_version(visit: Visit) -> None:
    page = await visit.inspect("kodak-03.jpg")
    await choose(page, "")
    await page.select_option("#width", "384")
    text = await snippet(page, "img")
    assert max(map(int, re.findall(r" (\d+)w\b", text))) == 384
    assert 'width="384" height="256"' in text
    await page.locator('#dpr label:has([value="1.5"])').click()
    assert max(map(int, re.findall(r" (\d+)w\b", await snippet(page, "img")))) == 640


@pytest.mark.parametrize(
    "alt",
    [
        'The sign says "Open"',
        "AT&amp;T & <b>sons</b> </script>",
        "a\\b\\",
        "two\nlines",
        'x" onLoad={() => evil()} /> // ',
        "{{ secret }} {% raw %} {x}",
        "",
    ],
)
async def test_an_alternative_text_stays_a_text_in_every_snippet(visit: Visit, alt: str) -> None:
    async def answer(route: Route) -> None:
        response = await route.fetch()
        await route.fulfill(response=response, json={**await response.json(), "alt": alt})

    await visit.page.route("**/info/*", answer)
    page = await visit.inspect("kodak-03.jpg")
    await expect(page.locator("#snippet")).to_contain_text("srcset")
    for kind, tag in (("img", "img"), ("picture", "img"), ("component", "smart-image")):
        found = await page.evaluate(
            """([html, tag]) => {
              const { body } = new DOMParser().parseFromString(html, "text/html");
              const element = body.querySelector(tag);
              return [element.getAttribute("alt"), body.querySelectorAll("*").length];
            }""",
            # The policy of the page excludes attributes with styles.
            [html := re.sub(r' style="[^"]*"', "", await snippet(page, kind)), tag],
        )
        # DOMParser moves a script before the body into the head.
        assert found == [alt, html.count("<source") + (2 if kind == "picture" else 1)]
        assert not set("{}") & set(html.partition(" alt=")[2].partition("\n")[0])
    for kind, size in (("react", "detail"), ("next", "detail"), ("next", "thumbnail")):
        await page.select_option("#size", size)
        after = (await snippet(page, kind)).partition(" alt={")[2]
        value, end = json.JSONDecoder().raw_decode(after)
        assert (value, after[end]) == (alt, "}")


async def test_a_snippet_is_copied(visit: Visit) -> None:
    await visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = await visit.inspect("kodak-03.jpg")
    await settled(page)
    await page.locator('[data-copy="url"]').click()
    await expect(page.locator('[data-copy="url"]')).to_have_text("Copied")
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied == visit.base + await page.locator("#url").inner_text()


async def test_an_image_has_its_own_url(visit: Visit) -> None:
    await visit.page.goto(f"{visit.base}/#2")
    await visit.page.wait_for_selector("#image.there")
    await expect(visit.page.locator("#inspector-title")).to_have_text("kodak-03.jpg")
    await visit.page.keyboard.press("Escape")
    await until(visit.page, "location.hash === ''")


async def test_an_error_shows_the_detail_of_the_problem(visit: Visit) -> None:
    await visit.page.goto(f"{visit.base}/#99")
    await expect(visit.page.locator("#error")).to_have_text("there is no image with this id")
    assert "404" in visit.complaints.pop()
