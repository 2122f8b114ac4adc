"""Infotext: prompt, negative prompt and a line of settings, as AUTOMATIC1111 writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

_STEPS_LINE = re.compile(r"(?:^|\n)[ \t]*(?=Steps:[ \t]*\d)")
_STEPS = re.compile(r"(?=\bSteps:[ \t]*\d+[ \t]*,)")
_OTHERS = re.compile(r"(?=\b(?:Version|Model|Model hash|Seed|Sampler|CFG scale|Size): )")
_NEGATIVE = re.compile(r"(?:^|\n)[ \t]*Negative prompt:")
_KEY = re.compile(r"[ \t]*([A-Za-z][^:,\n\"{}\[\]]{0,80}):[ \t]*")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_END = re.compile(r"[ \t]*(?:[,\n]|$)")
_PLAIN = re.compile(r"[^,\n]*")
_KNOWN = frozenset(
    {
        *("steps", "sampler", "seed", "model", "cfg scale", "size", "model hash", "version"),
        *("schedule type", "scheduler", "guidance scale", "clip skip", "vae", "module 1"),
        "denoising strength",
    }
)
_ENOUGH = 2
_MAX_PAIRS = 2000


@dataclass(frozen=True, slots=True)
class Infotext:
    """The parts of an infotext; keys of settings are as written."""

    prompt: str
    negative: str
    settings: dict[str, str]

    def get(self, *names: str) -> str | None:
        """Return the first of some settings, in lower case, that has a value."""
        lower = {key.lower(): value for key, value in self.settings.items()}
        return next((lower[name] for name in names if lower.get(name)), None)


def parse(text: str) -> Infotext | None:
    """Return the parts of an infotext, or None if the text has no settings."""
    text = text.strip().replace("\r\n", "\n")
    for start in _starts(text):
        settings: dict[str, str] = {}
        for key, value in pairs(text[start:]):
            settings.setdefault(key, value)
        if len(_KNOWN & {key.lower() for key in settings}) >= _ENOUGH:
            prompt, negative = _prompts(text[:start])
            return Infotext(prompt, negative, settings)
    return None


def _starts(text: str) -> Iterator[int]:
    """Yield where settings may start: the last line of steps, or the first known key."""
    lines = [match.end() for match in _STEPS_LINE.finditer(text)]
    if lines:
        yield lines[-1]
    # Draw Things writes no line feed before the settings, and Flux has none of the usual ones.
    for pattern in (_STEPS, _OTHERS):
        if match := pattern.search(text):
            yield match.start()


def _prompts(text: str) -> tuple[str, str]:
    match = _NEGATIVE.search(text)
    if match is None:
        return text.strip(), ""
    return text[: match.start()].strip(), text[match.end() :].strip()


def pairs(text: str) -> Iterator[tuple[str, str]]:
    """Yield keys and values. Commas in quotes and in brackets do not end a value."""
    at, count = 0, 0
    closed = {'"': True, "[": True, "{": True}
    while at < len(text) and count < _MAX_PAIRS:
        match = _KEY.match(text, at)
        if match is None:
            at = _after(text, at)
            continue
        value, at = _value(text, match.end(), closed)
        count += 1
        yield match[1].strip(), value


def _after(text: str, at: int) -> int:
    """Return the position behind the next separator."""
    plain = _PLAIN.match(text, at)
    return (plain.end() if plain else at) + 1


def _value(text: str, at: int, closed: dict[str, bool]) -> tuple[str, int]:
    """Return a value and the position behind its separator.

    ``closed`` remembers what is never closed, so that the rest is not scanned again.
    """
    first = text[at : at + 1]
    end = None
    if closed.get(first):
        end = _quoted(text, at) if first == '"' else _balanced(text, at)
        closed[first] = end is not None
    if end is not None and (separator := _END.match(text, end)):
        raw = text[at:end]
        return (_unquoted(raw) if first == '"' else raw), separator.end()
    plain = _PLAIN.match(text, at)
    stop = plain.end() if plain else at
    return text[at:stop].strip(), stop + 1


def _quoted(text: str, at: int) -> int | None:
    match = _QUOTED.match(text, at)
    return match.end() if match else None


def _unquoted(raw: str) -> str:
    try:
        value = json.loads(raw, strict=False)
    except ValueError:
        return raw[1:-1]
    return value if isinstance(value, str) else raw


def _balanced(text: str, at: int) -> int | None:
    """Return the position behind the bracket that closes the one at a position."""
    depth, position = 0, at
    while position < len(text):
        character = text[position]
        if character == '"':
            match = _QUOTED.match(text, position)
            if match is None:
                return None
            position = match.end()
            continue
        depth += (character in "[{") - (character in "]}")
        position += 1
        if depth == 0:
            return position
    return None
