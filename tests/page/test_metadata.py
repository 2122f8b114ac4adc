"""The field for reading metadata, in a real browser; many answers are recorded or hostile."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.async_api import Browser, Page, Route, WebSocketRoute, expect

from tests.page.conftest import FINAL_MS, Visit, intercept, tab, until
from tests.page.test_reach import CONTRASTS, ColorScheme, axe
from tests.support.server import SAMPLES

HOSTILE = '<img src=x onerror="window.attacked=1"><script>window.attacked=1</script>'
OVERRIDE = "\u202e"
SAMPLE = SAMPLES / "logo.png"
ROUTE = "**/api/images_mvp/extract"
SOCKET = "**/api/images_mvp/progress/*"

_FOLLOW = """async () => {
  const { follow, newSession } = await import("/static/metadata-progress.js");
  const session = newSession();
  const followed = follow(session);
  const { token } = await (await fetch("/api/page/token")).json();
  const form = new FormData();
  form.append("sessionId", session);
  form.append("file", await (await fetch("/static/icon.svg")).blob(), "icon.svg");
  await fetch("/api/images_mvp/extract",
    { method: "POST", body: form, headers: { Authorization: `Bearer ${token}` } });
  return followed;
}"""
"""Follows the progress of a file that the page sends, until it is complete."""

_WIDE = """(width) => [...document.querySelectorAll("#metadata *")]
  .filter((one) => one.getBoundingClientRect().right > width && !one.closest(".hidden"))
  .map((one) => one.outerHTML.slice(0, 80))"""
"""Elements that are wider than the window."""


def generation(**known: Any) -> dict[str, Any]:
    unknown: dict[str, Any] = {
        "source": "unknown", "generator": None, "involvement": "none_found", "prompt": None,
        "loras": [], "rawParameters": {}, "confidence": 0, "evidence": [],
    }  # fmt: skip
    return unknown | known


def answer(**metadata: Any) -> dict[str, Any]:
    """Return an answer of the server for a small PNG."""
    known = {
        "schema": 1, "format": "png", "mime_type": "image/png", "extension_matches": True,
        "sha256": "ab" * 32, "width": 64, "height": 48, "exif": {}, "gps": None, "text": [],
        "groups": {"PNG": {"ImageWidth": 64, "ImageHeight": 48}}, "c2pa": None, "warnings": [],
        "truncated": [], "withheld": None, "reasons": {}, "ai_generation": generation(),
    }  # fmt: skip
    return {
        "success": True,
        "filename": "logo.png",
        "filesize": 1234,
        "metadata": known | metadata,
        "quality_metrics": {
            "confidence_score": 0.7,
            "confidence_basis": [{"deduction": 0.3, "reason": "the fallback engine read the file"}],
            "extraction_completeness": None,
            "processing_efficiency": 0.5,
            "format_support_level": "comprehensive",
            "recommended_actions": ["Install exiftool."],
        },
        "processing_insights": {"total_fields_extracted": 2, "fallback_extraction": True},
    }


def hostile() -> dict[str, Any]:
    """Return an answer in which every text of the file is an attack."""
    ai = generation(
        source="stable_diffusion", generator=HOSTILE, involvement="generated", confidence=0.9,
        prompt=HOSTILE, rawParameters={HOSTILE: HOSTILE}, loras=[{"name": HOSTILE, "weight": 1}],
        evidence=[{"class": "generator_block", "where": HOSTILE, "key": HOSTILE, "says": HOSTILE}],
    )  # fmt: skip
    found = answer(
        ai_generation=ai,
        groups={HOSTILE: {HOSTILE: HOSTILE, "long": HOSTILE * 50}},
        text=[{"keyword": HOSTILE, "where": HOSTILE, "language": None, "text": HOSTILE * 50}],
        warnings=[HOSTILE],
        exif={"camera": HOSTILE},
        c2pa={"state": "valid", "trust": "untrusted", "issuer": HOSTILE, "actions": []},
        reasons={HOSTILE: HOSTILE},
        withheld={"groups": [HOSTILE], "fields": [], "needs": HOSTILE},
    )
    return found | {"filename": f"a{OVERRIDE}gnp.{HOSTILE}.png"}


async def opened(
    visit: Visit, found: dict[str, Any] | None = None, *, status: int = 200, token: bool = True
) -> Page:
    """Open the page of a server that gives one answer to each file, and no progress."""

    async def describe(route: Route) -> None:
        described = await route.fetch()
        document = await described.json()
        document["paths"].setdefault("/api/images_mvp/extract", {})
        if not token:
            for path in [one for one in document["paths"] if one.startswith("/api/page/token")]:
                del document["paths"][path]
        await route.fulfill(response=described, json=document)

    async def reply(route: Route) -> None:
        await route.fulfill(json=found, status=status)

    await visit.page.route("**/openapi.json", describe)
    if found is not None:
        await visit.page.route(ROUTE, reply)
        await visit.page.route_web_socket(SOCKET, lambda _: None)
    await visit.page.goto(visit.base)
    await visit.page.wait_for_selector("#metadata:not([hidden])")
    return visit.page


async def read(page: Page, path: Path = SAMPLE) -> None:
    await page.set_input_files("#metadata-file", path)
    await page.wait_for_selector("#metadata-result dl")


async def test_text_of_a_hostile_file_is_shown_and_never_becomes_html(visit: Visit) -> None:
    page = await opened(visit, hostile())
    await read(page)
    await page.get_by_text("All fields").click()
    await page.locator("#metadata summary").nth(1).click()
    buttons = page.get_by_role("button", name="Show all")
    while await buttons.count():
        await buttons.first.click()
    panel = page.locator("#metadata-result")
    await expect(panel.locator("dd", has_text=HOSTILE).first).to_be_visible()
    assert await panel.locator("img, script, iframe, a").count() == 0
    assert await page.evaluate("window.attacked") is None
    assert OVERRIDE not in await panel.inner_text()
    await expect(page.locator("#metadata-name")).to_contain_text("[U+202E]")


async def test_the_file_name_of_a_client_never_becomes_html(visit: Visit, tmp_path: Path) -> None:
    path = tmp_path / "<img src=x onerror=window.attacked=1>.png"
    path.write_bytes(SAMPLE.read_bytes())
    page = await opened(visit, answer())
    await read(page, path)
    assert await page.locator("#metadata img").count() == 0
    assert await page.evaluate("window.attacked") is None


async def test_an_untrusted_issuer_is_quoted_as_a_claim(visit: Visit) -> None:
    credentials = {"state": "valid", "trust": "untrusted", "issuer": "OpenAI", "actions": []}
    page = await opened(visit, answer(c2pa=credentials))
    await read(page)
    await expect(page.get_by_text("“OpenAI”: a claim of the file, not verified")).to_be_visible()
    credentials["trust"] = "trusted"
    await read(page)
    await expect(page.locator("dd", has_text="OpenAI")).to_have_text("OpenAI")


@pytest.mark.parametrize(
    ("ai", "title"),
    [
        (generation(), "AI generation: unknown"),
        (generation(involvement="composite"), "Parts are declared as AI-generated"),
        (
            generation(source="comfyui", generator="ComfyUI", confidence=0.9),
            "AI-generated: ComfyUI",
        ),
        (generation(source="other", confidence=0.7), "Declared as AI-generated"),
        (
            generation(source="dall-e", generator="GPT-4o", confidence=0.6),
            "Declared as AI-generated: GPT-4o",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_the_verdict_says_no_more_than_the_evidence(
    ai: dict[str, Any], title: str, visit: Visit
) -> None:
    page = await opened(visit, answer(ai_generation=ai))
    await read(page)
    await expect(page.locator(".verdict strong")).to_have_text(title)
    assert "not AI" not in await page.locator("#metadata-result").inner_text()


async def test_quality_shows_deductions_the_fallback_and_what_was_not_measured(
    visit: Visit,
) -> None:
    page = await opened(visit, answer())
    await read(page)
    tones = await page.locator(".score").evaluate_all(
        "all => all.map((one) => [one.dataset.tone, one.querySelector('strong').textContent])"
    )
    assert tones == [["yellow", "70 %"], ["none", "not measured"], ["red", "50 %"]]
    for text in ("−0.3: the fallback engine", "Install exiftool.", "only basic metadata"):
        await expect(page.get_by_text(text)).to_be_visible()


async def test_fields_are_filtered_by_name_and_value(visit: Visit) -> None:
    many = {f"Tag{number}": f"value {number}" for number in range(1000)}
    page = await opened(visit, answer(groups={"Canon": many, "IPTC": {"City": "Oslo"}}))
    await read(page)
    assert await page.locator("dt", has_text="Tag").count() == 0, "made when it is opened"
    await page.get_by_text("All fields (1001)").click()
    await page.get_by_label("Filter by name or value").fill("oslo")
    await expect(page.locator(".found dt")).to_have_text(["City"])
    await page.get_by_label("Filter by name or value").fill("tag")
    await expect(page.locator(".found dt")).to_have_count(200)
    await expect(page.get_by_text("1000 found; the first 200 are shown")).to_be_visible()


async def test_progress_is_shown_until_the_result_is(visit: Visit) -> None:
    page = await opened(visit)
    answered = asyncio.Event()
    sockets: list[WebSocketRoute] = []

    async def reply(route: Route) -> None:
        await answered.wait()
        await route.fulfill(json=answer())

    await intercept(page, ROUTE, reply)
    await page.route_web_socket(SOCKET, lambda one: sockets.append(one))  # noqa: PLW0108 - playwright rejects built-in methods
    await page.set_input_files("#metadata-file", SAMPLE)
    await expect(page.locator("#metadata-state")).to_have_text("Connected")
    for percentage, done in ((10, 1), (50, 3)):
        sockets[0].send(json.dumps({"type": "progress", "percentage": percentage, "stage": ""}))
        await expect(page.locator("#metadata-stages [data-state=done]")).to_have_count(done)
        await expect(page.locator("#metadata-bar")).to_have_js_property("value", percentage)
    answered.set()
    await page.wait_for_selector("#metadata-result dl")
    await expect(page.locator("#metadata-progress")).to_be_hidden()
    await expect(page.locator("#metadata-name")).to_be_focused()


async def test_a_second_file_cancels_the_first(visit: Visit) -> None:
    page = await opened(visit)
    names: list[str] = []

    async def reply(route: Route) -> None:
        names.append("first" if not names else "second")
        if len(names) == 1:
            return  # never answered
        await route.fulfill(json=answer() | {"filename": "second.png"})

    await intercept(page, ROUTE, reply)
    await page.route_web_socket(SOCKET, lambda _: None)
    async with page.expect_request(ROUTE) as first:
        await page.set_input_files("#metadata-file", SAMPLE)
    cancelled = await first.value
    async with page.expect_event("requestfailed", lambda one: one == cancelled):
        await read(page)
    await expect(page.locator("#metadata-name")).to_have_text("second.png")
    await expect(page.locator("#metadata-error")).to_be_hidden()


async def test_an_error_is_shown_as_the_server_says_it(visit: Visit) -> None:
    page = await opened(visit, {"detail": "The file is a metadata bomb."}, status=422)
    await page.set_input_files("#metadata-file", SAMPLE)
    await expect(page.locator("#metadata-error")).to_have_text("The file is a metadata bomb.")
    await expect(page.locator("#metadata-progress")).to_be_hidden()
    visit.complaints.clear()  # of the request that failed


async def test_fields_and_sections_are_copied(browser: Browser, base: str) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    async with tab(browser, base, permissions=permissions) as visit:
        page = await opened(visit, answer())
        await read(page)
        await page.get_by_role("button", name="Copy Image").click()
        await expect(page.get_by_text("Copied", exact=True)).to_be_visible()
        copied = "navigator.clipboard.readText()"
        assert "Dimensions: 64 × 48" in await page.evaluate(copied)
        await page.get_by_role("button", name="Copy all as JSON").click()
        await until(page, f"{copied}.then((text) => text.startsWith('{{'))")
        assert json.loads(await page.evaluate(copied)) == answer()["metadata"]


async def test_metadata_is_read_and_cleared_by_keyboard(visit: Visit) -> None:
    page = await opened(visit, answer())
    await page.locator("#file").focus()
    await page.keyboard.press("Tab")
    await expect(page.locator("#metadata-file")).to_be_focused()
    await read(page)
    await expect(page.locator("#metadata-name")).to_be_focused()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("#metadata-result dl")).to_have_count(0)
    await expect(page.locator("#metadata-file")).to_be_focused()


async def test_a_file_is_dropped(visit: Visit) -> None:
    page = await opened(visit, answer())
    await page.evaluate(
        """() => {
          const dropped = new DataTransfer();
          dropped.items.add(new File(["x"], "a.png", { type: "image/png" }));
          document.querySelector("#metadata-drop")
            .dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true }));
        }"""
    )
    await page.wait_for_selector("#metadata-result dl")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
async def test_axe_finds_no_violations_and_nothing_is_wider_than_the_window(
    scheme: ColorScheme, width: int, browser: Browser, base: str, tmp_path: Path
) -> None:
    """The screenshot remains in the test's folder."""
    options = {"viewport": {"width": width, "height": 900}, "reduced_motion": "reduce"}
    async with tab(browser, base, color_scheme=scheme, **options) as visit:
        page = await opened(visit, hostile())
        await read(page)
        await page.get_by_text("All fields").click()
        await page.locator("#metadata summary").nth(1).click()
        assert await axe(page) == []
        assert await page.evaluate(CONTRASTS) == []
        assert await page.evaluate(_WIDE, width) == []
        await page.locator("#metadata").screenshot(path=tmp_path / "metadata.png")


async def test_without_a_token_the_file_is_analyzed_anonymously(visit: Visit) -> None:
    page = await opened(visit, answer(), token=False)
    forms: list[bytes] = []

    async def reply(route: Route) -> None:
        assert "authorization" not in await route.request.all_headers()
        forms.append(route.request.post_data_buffer or b"")
        known = answer()["metadata"]
        await route.fulfill(
            json={"filename": "logo.png", "filesize": 7, "complete_metadata": known}
        )

    await intercept(page, "**/api/standalone-metadata/analyze", reply)
    await read(page)
    assert b'name="image"; filename="logo.png"' in forms[0]
    await expect(page.locator("#metadata-name")).to_have_text("logo.png")
    await page.get_by_label("Bearer token").fill("a.b.c")
    async with page.expect_request(ROUTE) as sent:
        await page.set_input_files("#metadata-file", SAMPLE)
    assert (await (await sent.value).all_headers())["authorization"] == "Bearer a.b.c"


async def test_the_server_reads_a_file_and_reports_its_progress(
    visit: Visit, tmp_path: Path
) -> None:
    prompt = f"a red fox {HOSTILE}\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Model: m"
    chunks = PngInfo()
    chunks.add_text("parameters", prompt)
    path = tmp_path / "fox <b>.png"
    Image.new("RGB", (64, 48)).save(path, pnginfo=chunks)
    page = await opened(visit)
    await page.set_input_files("#metadata-file", path)
    # The engines start with the first file.
    await page.wait_for_selector("#metadata-result dl", timeout=FINAL_MS)
    await expect(page.locator(".verdict strong")).to_have_text("AI-generated: Stable Diffusion")
    await expect(page.locator("#metadata-name")).to_have_text("fox <b>.png")
    await expect(page.get_by_text(f"a red fox {HOSTILE}", exact=True)).to_be_visible()
    assert await page.locator("#metadata-result img").count() == 0
    assert await page.evaluate("window.attacked") is None
    await expect(page.locator(".score")).to_have_count(3)
    last = await page.evaluate(_FOLLOW)
    assert (last["status"], last["percentage"]) == ("complete", 100)
    assert last["quality"]["confidence_score"] <= 1
    assert await axe(page) == []
    await page.locator("#metadata").screenshot(path=tmp_path / "read.png")
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    await page.set_input_files("#metadata-file", text)
    await expect(page.locator("#metadata-error")).to_contain_text("20+ formats")
    visit.complaints.clear()  # of the file that was refused
