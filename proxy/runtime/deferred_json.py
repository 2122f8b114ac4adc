"""JSON that is parsed when it is first used, and sent on as it was received.

Parsing a megabyte takes the interpreter for milliseconds, during which no request is answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import orjson


class DeferredJson:
    """A value as JSON in UTF-8. Its first use raises JSONDecodeError if it is not valid."""

    def __init__(self, json: bytes) -> None:
        self.json = json

    @cached_property
    def value(self) -> Any:
        """The parsed value."""
        return orjson.loads(self.json)


class DeferredObject(DeferredJson, Mapping[str, Any]):
    """A JSON object."""

    def __getitem__(self, name: str) -> Any:
        """Return a member."""
        return self.value[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self.value)

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.value)


class DeferredArray(DeferredJson, Sequence[Any]):  # noqa: PLW1641 - a list has no hash either
    """A JSON array."""

    def __getitem__(self, index: Any) -> Any:
        """Return an element, or a list of those in a slice."""
        return self.value[index]

    def __len__(self) -> int:
        """Return the number of elements."""
        return len(self.value)

    def __eq__(self, other: object) -> bool:
        """Compare with a list, too."""
        return isinstance(other, Sequence) and self.value == list(other)


def dumps(value: object) -> bytes:
    """Return a value as JSON, as orjson does; deferred parts are copied."""
    return orjson.dumps(value, default=as_fragment)


def as_fragment(value: object) -> orjson.Fragment:
    """Return deferred JSON as orjson prints it; raises TypeError for any other value."""
    if isinstance(value, DeferredJson):
        return orjson.Fragment(value.json)
    raise TypeError(type(value).__name__)


def parsed(value: Any) -> Any:
    """Return a value whose deferred parts are parsed."""
    match value:
        case DeferredJson():
            return value.value
        case Mapping():
            return {name: parsed(one) for name, one in value.items()}
    return value
