"""What all observations have in common, and the values of all tags one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from proxy.metadata.tags import Groups, is_of_exiftool

_MAX_DEPTH = 50
_MAX_EXCERPT = 200


def observation(what: str, where: str, means: str, *innocent_reasons: str) -> dict[str, Any]:
    """Return an observation: a fact, its place, what follows from it, and harmless causes."""
    return {
        "what": what,
        "where": where,
        "means": means,
        "innocent_reasons": list(innocent_reasons),
    }


class Leaf(NamedTuple):
    """A value of a tag; lists and structures have several."""

    group: str
    name: str
    """Of the tag, or of the field of a structure."""
    path: str
    """As exiftool writes it: ``IFD0:Make``, ``XMP-xmpMM:History[0].When``."""
    value: Any


def leaves(groups: Groups) -> Iterator[Leaf]:
    """Yield the values of all tags, except of those about our temporary file and exiftool."""
    for group, tags in groups.items():
        if group in ("", "System", "File") or is_of_exiftool(group):
            continue
        for key, value in tags.items():
            name = key.rpartition(":")[2]
            yield from _values(Leaf(group, name, f"{group}:{key}", value), 0)


def _values(leaf: Leaf, depth: int) -> Iterator[Leaf]:
    if depth > _MAX_DEPTH:
        return
    match leaf.value:
        case Mapping() as fields:
            for name, value in fields.items():
                inner = Leaf(leaf.group, str(name), f"{leaf.path}.{name}", value)
                yield from _values(inner, depth + 1)
        case list() as items:
            for index, value in enumerate(items):
                inner = Leaf(leaf.group, leaf.name, f"{leaf.path}[{index}]", value)
                yield from _values(inner, depth + 1)
        case _:
            yield leaf


def excerpt(value: Any) -> str:
    """Return the beginning of a value as text; the whole value is among the groups."""
    text = str(value)
    return text if len(text) <= _MAX_EXCERPT else text[: _MAX_EXCERPT - 1] + "…"
