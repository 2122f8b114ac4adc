"""Texts of the walk among the tags of an engine, under the groups and names of exiftool."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from proxy.metadata.container.result import TextEntry, Walk
from proxy.metadata.tags import MAX_DEPTH, Copies, Groups, add_tag

_XMP_GROUPS: Mapping[str, str] = {
    "Iptc4xmpCore": "iptcCore",
    "Iptc4xmpExt": "iptcExt",
    "photomechanic": "photomech",
    "MicrosoftPhoto": "microsoft",
    "prismusagerights": "pur",
    "GettyImagesGIFT": "getty",
    "hdr_metadata": "hdr",
}
"""Prefixes for which exiftool has shorter names (its table ``%stdXlatNS``)."""
_ILLEGAL = re.compile(r"[^-\w]")

_Path = tuple[str, ...]
"""The name of a tag in lower case, then those of the fields inside a structure."""


def xmp_group(prefix: str) -> str:
    """Return exiftool's group of the properties with a prefix."""
    return f"XMP-{_XMP_GROUPS.get(prefix, prefix)}"


def add_xmp(groups: Groups, entries: Iterable[TextEntry]) -> None:
    """Add properties of the walk as tags; several values of a name are a list, as in exiftool.

    Fields of structures have joined names, and translations that of their language.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        first, *fields = entry.keyword.split("/")
        prefix, _, name = first.partition(":")
        names = (name, *(field.rpartition(":")[2] for field in fields))
        joined = "".join(one[:1].upper() + one[1:] for one in names)
        key = f"{joined}-{entry.language}" if entry.language else joined
        found.setdefault((xmp_group(prefix), key), []).append(entry.text)
    copies: Copies = Counter()
    for (group, key), texts in found.items():
        add_tag(groups, group, key, texts if len(texts) > 1 else texts[0], copies)


def with_exact_texts(groups: Groups, walk: Walk) -> Groups:
    """Replace what exiftool has converted by the strings that the walk has read.

    exiftool prints ``True`` as ``true`` and a text that looks like a number as one. It also takes
    text without a declared encoding for Windows-1252 (IPTC, PNG) or drops what is not UTF-8 (EXIF).
    """
    exact = dict(groups)
    chunks = [one for one in walk.texts if one.where.startswith("PNG ")]
    for group, entries in (
        ("PNG", chunks),
        ("IPTC", walk.iptc),
        ("File", [one for one in walk.texts if one.where == "JPEG COM"]),
        ("GIF", [one for one in walk.texts if one.where == "GIF comment"]),
    ):
        if group in exact and entries:
            exact[group] = _with_exact(exact[group], entries, _path, (_written, _truth, _ascii))
    keys = (_written, _truth, _ascii, _any_text)
    for group, entries in _grouped(walk.exif, lambda one: one.where):
        if group in exact:
            exact[group] = _with_exact(exact[group], entries, _path, keys)
    for prefix, entries in _grouped(walk.xmp, lambda one: one.keyword.partition(":")[0]):
        if (group := xmp_group(prefix)) in exact:
            exact[group] = _with_exact(exact[group], entries, _xmp_path, (_written, _truth))
    return exact


def _grouped(
    entries: Iterable[TextEntry], group_of: Callable[[TextEntry], str]
) -> Iterable[tuple[str, list[TextEntry]]]:
    groups: dict[str, list[TextEntry]] = {}
    for entry in entries:
        groups.setdefault(group_of(entry), []).append(entry)
    return groups.items()


def _path(keyword: str) -> _Path:
    return (_ILLEGAL.sub("", keyword).lower(),)


def _xmp_path(keyword: str) -> _Path:
    names = (one.partition(":")[2] for one in keyword.split("/"))
    return tuple(_ILLEGAL.sub("", one).lower() for one in names)


_Key = Callable[[Any], str | None]
"""Returns what a text and the value of a tag have in common if they belong together."""


def _with_exact(
    tags: Mapping[str, Any],
    entries: Iterable[TextEntry],
    path_of: Callable[[str], _Path],
    keys: tuple[_Key, ...],
) -> dict[str, Any]:
    """Return the tags with the texts of the walk; the first key that they share decides."""
    unused = _UnusedByPath(entries, path_of, keys)
    # A copy has a prefix.
    return {
        key: _exact(value, (key.rpartition(":")[2].lower(),), unused) for key, value in tags.items()
    }


def _exact(value: Any, path: _Path, unused: _UnusedByPath, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        return value  # it will be cut
    if isinstance(value, list):
        return [_exact(one, path, unused, depth + 1) for one in value]
    if isinstance(value, Mapping):
        return {
            key: _exact(one, (*path, key.lower()), unused, depth + 1) for key, one in value.items()
        }
    match = unused.take(value, path)
    if match is None:
        return value
    # exiftool keeps the spaces with which cameras fill their texts. (A number is not `str`.)
    return value if type(value) is str and value.strip() == match.strip() else match


class _UnusedByPath:
    """The texts of a group. Each is taken once."""

    def __init__(
        self,
        entries: Iterable[TextEntry],
        path_of: Callable[[str], _Path],
        keys: tuple[_Key, ...],
    ) -> None:
        texts: dict[_Path, list[str]] = {}
        truths: dict[str, list[str]] = {}
        for entry in entries:
            path = path_of(entry.keyword)
            texts.setdefault(path, []).append(entry.text)
            if _truth(entry.text):
                for name in {path[-1], ""}:
                    truths.setdefault(name, []).append(entry.text)
        self._texts = {path: _Unused(found, keys) for path, found in texts.items()}
        self._truths = {name: _Unused(found, (_truth,)) for name, found in truths.items()}

    def take(self, value: Any, path: _Path) -> str | None:
        """Return the text of a value, or None."""
        left = self._texts.get(path)
        if left is None and "-" in path[-1]:
            # exiftool appends the language to the name of a translation.
            left = self._texts.get((*path[:-1], path[-1].partition("-")[0]))
        if left is not None:
            return left.take(value)
        if not isinstance(value, bool):
            return None
        # A tag that exiftool calls differently, as `mwg-rs:Regions`, which is RegionInfo.
        left = self._truths.get(path[-1]) or self._truths.get("")
        return left.take(value) if left else None


class _Unused:
    """The texts of one name; each is taken once. A file may have ten thousand of them."""

    def __init__(self, texts: list[str], keys: tuple[_Key, ...]) -> None:
        self._texts = texts
        self._keys = keys
        self._taken: set[int] = set()
        self._indexes: dict[_Key, dict[str | None, deque[int]]] = {}

    def take(self, value: Any) -> str | None:
        """Return the text of a value, or None."""
        for key in self._keys:
            if (wanted := key(value)) is None or len(self._taken) == len(self._texts):
                continue
            if key not in self._indexes:
                index = self._indexes[key] = {}
                for number, text in enumerate(self._texts):
                    index.setdefault(key(text), deque()).append(number)
            numbers = self._indexes[key].get(wanted, deque())
            while numbers:
                if (number := numbers.popleft()) not in self._taken:
                    self._taken.add(number)
                    return self._texts[number]
        return None


def _written(value: Any) -> str:
    return str(value).strip()


def _truth(value: Any) -> str | None:
    """Return what exiftool makes a boolean of."""
    text = str(value).strip().lower()
    return text if text in ("true", "false") else None


def _ascii(value: Any) -> str | None:
    """Return the characters that no encoding changes; exiftool writes ``?`` for unknown ones."""
    return re.sub(r"[^\x21-\x3e\x40-\x7e]", "", value) if isinstance(value, str) else None


def _any_text(value: Any) -> str | None:
    """Let the next text replace each one: exiftool guesses some encodings differently."""
    is_text = isinstance(value, str) and not value.startswith("(Binary data ")
    return "" if is_text else None
