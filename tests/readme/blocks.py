"""The fenced blocks of a page, and what is to be typed and seen in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """What stands between two fences."""

    kind: str
    """The word behind the fence; empty where there is none."""
    text: str
    line: int
    """Of the first line in it, counted from 1."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and what the page shows of its output; nothing where it shows none."""

    command: str
    shown: tuple[str, ...]
    line: int


def blocks(page: str) -> list[Block]:
    """All fenced blocks, in order; those in a list without its indentation."""
    found = []
    for match in _FENCE.finditer(page):
        text = re.sub(f"^{match[1]}", "", match[3], flags=re.MULTILINE)
        found.append(Block(match[2], text, page[: match.start(3)].count("\n") + 1))
    return found


def steps(page: str) -> Iterator[Step]:
    """All that is to be typed, in order."""
    for block in blocks(page):
        if block.kind == "sh":
            for number, line in enumerate(block.text.splitlines()):
                yield Step(line, (), block.line + number)
        elif block.kind == "console":
            yield from _dialogue(block)


def _dialogue(block: Block) -> Iterator[Step]:
    """The commands of a console, each with what stands below it."""
    command, line = "", 0
    shown: list[str] = []
    for number, text in enumerate(block.text.splitlines()):
        if text.startswith("$ "):
            if command:
                yield Step(command, tuple(shown), line)
            command, shown, line = text.removeprefix("$ "), [], block.line + number
        else:
            assert command, f"line {block.line + number} answers no command"
            shown.append(text)
    yield Step(command, tuple(shown), line)


def without_blocks(page: str) -> str:
    """The prose alone."""
    return _FENCE.sub("", page)


def inline(page: str) -> list[str]:
    """All that stands as code in the prose, without line ends."""
    return [" ".join(text.split()) for text in _INLINE.findall(without_blocks(page))]


def headings(page: str) -> list[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", without_blocks(page), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def links(page: Path) -> list[str]:
    """What a page links to or shows that is not elsewhere on the web."""
    text = without_blocks(page.read_text())
    found: list[str] = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link for link in found if not re.match(r"[a-z]+:", link)]
