"""Each step of the README works as written, in a fresh copy and in a browser."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from PIL import Image, ImageOps
from playwright.sync_api import sync_playwright

from tests.page.conftest import PATIENCE_MS, QUIET, chromium
from tests.readme.blocks import Step, blocks, steps
from tests.readme.clone import Terminal
from tests.support.server import ROOT, SAMPLES

PAGE = (ROOT / "README.md").read_text()
GO_ON: Mapping[str, str] = {
    "make run": "http://127.0.0.1:8080/readyz",
    "python3 -m http.server 8000 --bind 127.0.0.1": "http://127.0.0.1:8000/",
}
"""Commands that run until they are stopped, and a URL that answers when they are ready."""
MEASURED = frozenset({"etag", "content-length", "server-timing"})
"""Headers whose figures differ between runs."""
KINDS = frozenset({"sh", "console", "html"})
"""The kinds of blocks: commands, commands with output, and a page for the browser."""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A user at home, with one picture."""
    made = Terminal(tmp_path)
    pictures = made.home / "Pictures"
    pictures.mkdir()
    with Image.open(SAMPLES / "kodak-05.jpg") as sample:
        ImageOps.mirror(sample).save(pictures / "harbour.jpg")
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_step_works_as_written(terminal: Terminal) -> None:
    (snippet,) = (block for block in blocks(PAGE) if block.kind == "html")
    (terminal.copy / "mine.html").write_text(terminal.here(snippet.text))
    for step in steps(PAGE):
        take(terminal, step)
    # Last: without Chromium the test is called skipped here.
    look(terminal.here("http://127.0.0.1:8000/mine.html"))


@pytest.mark.drill
@pytest.mark.timeout(600)
def test_the_draft_that_is_shown_becomes_the_final_that_is_promised(terminal: Terminal) -> None:
    # A drill: finals are made when the machine has nothing else to do.
    (size, lifetime) = re.findall(r"the body has (\d+) bytes and\s+the response has `(.+?)`", PAGE)[
        0
    ]
    ask = next(step.command for step in steps(PAGE) if step.command.startswith("curl -sD-"))
    terminal.serve("make run", GO_ON["make run"])
    deadline = time.monotonic() + 300
    while lifetime not in (output := terminal.type(ask)):
        assert time.monotonic() < deadline, output
        time.sleep(1)
    assert is_in(output, f"Cache-Control: public, {lifetime}"), output
    assert f"Content-Length: {size}" in output.splitlines(), output


def take(terminal: Terminal, step: Step) -> None:
    """Type a step, and hold what comes out against what is shown."""
    if step.command in GO_ON:
        terminal.serve(step.command, GO_ON[step.command])
        return
    output = terminal.type(step.command)
    missing = [line for line in step.shown if not is_in(output, line)]
    assert missing == [], f"line {step.line}: {step.command}\n{output}"


def is_in(output: str, line: str) -> bool:
    """Whether a line that is shown came out, but for figures that are measured; … is anything."""
    if line.partition(":")[0].lower() in MEASURED:
        return figures_aside(line) in map(figures_aside, output.splitlines())
    pattern = ".*".join(map(re.escape, line.split("…")))
    return any(re.fullmatch(pattern, one) for one in output.splitlines())


def figures_aside(line: str) -> str:
    return re.sub(r"[0-9a-f]{32}|[\d.]+", "#", line)


def look(url: str) -> None:
    """A page of another origin shows all its pictures, and nobody complains."""
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(QUIET))
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        for component in page.locator("smart-image").all():
            component.scroll_into_view_if_needed()
        page.wait_for_selector("smart-image[state=draft], smart-image[state=final]")
        shown = page.evaluate("[...document.images].map(one => one.complete && one.naturalWidth)")
        browser.close()
    # A browser asks each site for an icon, and this one has none.
    assert [text for text in complaints if "404" not in text] == []
    assert shown == [300]


def test_every_block_is_of_a_kind_that_is_tried() -> None:
    assert {block.kind for block in blocks(PAGE)} <= KINDS


def test_commands_that_go_on_are_on_the_page() -> None:
    assert set(GO_ON) <= {step.command for step in steps(PAGE)}


@pytest.mark.parametrize(
    ("line", "there"),
    [
        ("Vary: Accept", True),
        ("Vary: accept", False),
        ("Cache-Control: public, max-age=61", False),
        ('ETag: "00000000000000000000000000000000"', True),
        ("ETag: none", False),
        ("7\t…/harbour.jpg", True),
        ("8\t…/harbour.jpg", False),
    ],
)
def test_what_is_shown_is_held_against_what_came_out(line: str, *, there: bool) -> None:
    output = (
        "HTTP/1.1 200 OK\nVary: Accept\nCache-Control: public, max-age=60\n"
        'ETag: "d16c8f56ce1ee2586abb53cb70a29488"\n7\t/home/you/harbour.jpg\n'
    )
    assert is_in(output, line) is there
