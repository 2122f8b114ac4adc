"""Tags as exiftool prints them: groups of names and values, made safe for JSON.

Runs in the confined worker: the output contains text of strangers.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

Groups = dict[str, dict[str, Any]]
"""Tags by their group. The name of a repeated tag begins with ``Copy1:``, ``Copy2:`` and so on."""

MAX_STRING_BYTES = 64 * 1024
MAX_OUTPUT_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 29
"""Containers around a value of the metadata object; what is nested more deeply is cut.

MariaDB accepts 31 levels of JSON: the object is the first one, and a container inside of 29 others
is the last one.
"""
MAX_SAFE_INTEGER = 2**53
"""Larger integers are text, because JavaScript would round them."""

_FILE_GROUPS = frozenset({"File", "System", "Composite"})
_MAX_TRUNCATED, _MAX_PATH = 250, 200
_MANY_TAGS = 200
# C0 and C1 controls except tab and line feed.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# 15 digits: JSON has no larger integers.
_BINARY = re.compile(r"\(Binary data (\d{1,15}) bytes[^)]*\)", re.ASCII)
_GROUPS = "groups."
"""Beginning of the paths of tags."""


def is_of_exiftool(group: str) -> bool:
    """Return whether a group has exiftool's own messages; it numbers a second one of them."""
    return group.startswith("ExifTool")


def is_of_author(group: str) -> bool:
    """Return whether a group is metadata of the author's: not of the file, nor computed."""
    return group not in _FILE_GROUPS and not is_of_exiftool(group)


class NumberText(str):
    """A number as exiftool wrote it."""

    __slots__ = ()


def parse(output: bytes) -> Groups:
    """Parse the output of exiftool for one file.

    Raises:
        ValueError: it is not the JSON of one file.
    """
    try:
        files = json.loads(
            output.decode("utf-8", "surrogateescape"),
            parse_int=NumberText,
            parse_float=NumberText,
            parse_constant=NumberText,
            # exiftool repeats a key only if two tags have the same name, group and instance.
            object_pairs_hook=_all_pairs,
        )
    except RecursionError as error:
        raise ValueError("exiftool's answer is nested too deeply") from error
    if not (isinstance(files, list) and len(files) == 1 and isinstance(files[0], dict)):
        raise ValueError("exiftool's answer is not about one file")
    groups: Groups = {}
    copies: Copies = Counter()
    for key, value in files[0].items():
        group, _, name = key.partition(":")
        if name:
            add_tag(groups, group, name.rpartition(":")[2], value, copies)
    if not groups:
        raise ValueError("exiftool's answer has no tags")
    return groups


Copies = Counter[tuple[str, str]]
"""Number of the last copy of a tag, by group and name."""


def add_tag(groups: Groups, group: str, name: str, value: Any, copies: Copies) -> None:
    """Add a tag under its name, or under that of its next copy.

    ``copies`` is empty at first and is changed: a file may have ten thousand tags of one name.

    exiftool counts equal names of all groups together: its first copy in a group may be
    ``Copy1:XResolution``, although the group has no other.
    """
    tags = groups.setdefault(group, {})
    key, number = name, copies[group, name]
    while key in tags:
        number += 1
        key = f"Copy{number}:{name}"
    copies[group, name] = number
    tags[key] = value


def _all_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    last: dict[str, int] = {}
    for name, value in pairs:
        free, number = name, last.get(name, 1)
        while free in found:
            number += 1
            free = f"{name} ({number})"
        last[name] = number
        found[free] = value
    return found


def all_of(groups: Mapping[str, Mapping[str, Any]], group: str, name: str) -> Iterator[Any]:
    """Yield the values of a tag and of its copies."""
    for key, value in groups.get(group, {}).items():
        if key.rpartition(":")[2] == name:
            yield value


def number_of(value: Any) -> float | int | None:
    """Return the number that a tag holds; None for text, infinities and NaN."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else number


class Cleaner:
    """Makes values safe for JSON and lists what it cuts."""

    def __init__(self) -> None:
        self.truncated: list[str] = []
        """Paths of the strings that were cut, and of what was left out; the first 250."""

    def cut(self, path: str) -> None:
        """Add to `truncated`."""
        if len(self.truncated) < _MAX_TRUNCATED:
            self.truncated.append(path[:_MAX_PATH])

    def clean(self, value: Any, path: str, depth: int = 0) -> Any:
        """Return a value of JSON without control characters, NaN, or strings over the limit."""
        if depth > MAX_DEPTH:
            self.cut(path)
            return "…"
        # Text first: it is the most frequent, and checks for a mapping are slow.
        match value:
            case NumberText():
                return _number(value)
            case str():
                return self._text(value, path)
            case Mapping():
                return {
                    (name := self._name(key)): self.clean(one, f"{path}.{name}", depth + 1)
                    for key, one in value.items()
                }
            case list() | tuple():
                return [
                    self.clean(one, f"{path}[{index}]", depth + 1)
                    for index, one in enumerate(value)
                ]
        return _plain(value)

    def _name(self, key: object) -> str:
        return _printable(str(key))[:1000]

    def _text(self, text: str, path: str) -> Any:
        # Only among the tags: any other text may be that of a file.
        if path.startswith(_GROUPS) and (match := _BINARY.fullmatch(text)):
            return {"binary": int(match[1])}
        text = _printable(text)
        if len(text) * 4 <= MAX_STRING_BYTES:
            return text
        encoded = text.encode()
        if len(encoded) <= MAX_STRING_BYTES:
            return text
        self.cut(path)
        ellipsis = "…"
        kept = encoded[: MAX_STRING_BYTES - len(ellipsis.encode())]
        return kept.decode(errors="ignore") + ellipsis

    def fit(self, groups: Groups, *, max_bytes: int) -> None:
        """Remove the largest tags until the groups have at most this many bytes of JSON.

        A group of which all tags are removed is listed itself; so is each if there are many.
        """
        if json_bytes(groups) <= max_bytes:
            return
        sizes = {
            (group, name): json_bytes({name: value})
            for group, tags in groups.items()
            for name, value in tags.items()
        }
        total = sum(sizes.values()) + sum(json_bytes({group: {}}) for group in groups)
        removed: dict[str, list[str]] = {}
        for (group, name), size in sorted(sizes.items(), key=lambda item: -item[1]):
            if total <= max_bytes:
                break
            del groups[group][name]
            removed.setdefault(group, []).append(name)
            total -= size
            if not groups[group]:
                del groups[group]
                total -= json_bytes({group: {}})
        many = sum(map(len, removed.values())) > _MANY_TAGS
        for group, names in removed.items():
            if many or group not in groups:
                self.cut(f"groups.{group}")
                continue
            for name in names:
                self.cut(f"groups.{group}.{name}")


def json_bytes(value: Any) -> int:
    """Return the length of a value of `Cleaner` as JSON in UTF-8."""
    return len(orjson.dumps(value))


def _printable(text: str) -> str:
    # True of most texts, and quicker than two searches. Such a text has no character to replace.
    if text.isprintable():
        return text
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("", text))


def _plain(value: Any) -> Any:
    """Return a number, true, false or null; as text what JavaScript or JSON cannot represent."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= MAX_SAFE_INTEGER:
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


def _number(text: NumberText) -> Any:
    """Return a number if JSON shows it exactly as it is written, else its text."""
    plain = str(text)
    for kind in (int, float):
        try:
            number = kind(plain)
        except (ValueError, OverflowError):
            continue
        if str(number) == plain and abs(number) <= MAX_SAFE_INTEGER:
            return number
    return plain
