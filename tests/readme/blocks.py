"""The fenced blocks of a page, with their commands and the output that they show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """The text between two fences."""

    kind: str
    """The word after the fence, or empty."""
    text: str
    line: int
    """The number of its first line, from 1."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and the output that the page shows for it."""

    command: str
    shown: tuple[str, ...]
    line: int


def blocks(page: str) -> list[Block]:
    """Return all fenced blocks in order; blocks in a list without their indentation."""
    found = []
    for match in _FENCE.finditer(page):
        text = re.sub(f"^{match[1]}", "", match[3], flags=re.MULTILINE)
        found.append(Block(match[2], text, page[: match.start(3)].count("\n") + 1))
    return found


def steps(page: str) -> Iterator[Step]:
    """Yield all commands of a page in order."""
    for block in blocks(page):
        if block.kind == "sh":
            for number, line in enumerate(block.text.splitlines()):
                yield Step(line, (), block.line + number)
        elif block.kind == "console":
            yield from _dialogue(block)


def _dialogue(block: Block) -> Iterator[Step]:
    """Yield the commands of a console block, each with the lines below it."""
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
    """Return the prose without fenced blocks."""
    return _FENCE.sub("", page)


def inline(page: str) -> list[str]:
    """Return all inline code of the prose, each on one line."""
    return [" ".join(text.split()) for text in _INLINE.findall(without_blocks(page))]


def headings(page: str) -> list[str]:
    """Return the anchors of a page's headings, as GitHub creates them."""
    titles = re.findall(r"^#+ (.+)$", without_blocks(page), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def links(page: Path) -> list[str]:
    """Return the relative links and images of a page."""
    text = without_blocks(page.read_text())
    found: list[str] = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link for link in found if not re.match(r"[a-z]+:", link)]
