"""From a query to what is asked for, checked and closed; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote_plus

from proxy.domain.errors import BadParameter
from proxy.domain.formats import NAMES, Format
from proxy.domain.geometry import SizeSpec

DEFAULT_SIZE = "detail"
DPRS: Mapping[str, float] = {"1": 1.0, "1.5": 1.5, "2": 2.0, "3": 3.0}
WIDTHS = (16, 32, 48, 64, 96, 128, 256, 384, 640, 750, 828, 1080, 1200, 1920, 2048, 3840)
"""The ladder that ``w`` snaps up to: the image and device sizes that Next.js asks for."""

_T = TypeVar("_T")

_SEPARATORS = re.compile(r"[&?]|%3[Ff]")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class VariantRequest:
    """What a client asked for, checked and closed: a box, a format or auto, a background."""

    box: SizeSpec
    label: str
    """The name of the size as it stands in cache tags and metrics: ``detail``, ``w640``."""
    format: Format | None = None
    """None asks for negotiation."""
    remove_background: bool = False
    version: str | None = None
    """The ``v`` token; only its presence counts."""

    @property
    def negotiated(self) -> bool:
        """Whether the answer depends on the Accept header."""
        return self.format is None


def last_values(raw_query: str) -> dict[str, str]:
    """Split a raw query; the last value wins, and a ``?`` counts as ``&``, encoded or not.

    Frontends append ``?size=thumbnail`` to URLs that already end in ``?size=detail``, and some
    encode what they have put together once more. The order of
    the result is that of the last mention, so that ``size`` and ``w`` can be told apart by it too.
    """
    values: dict[str, str] = {}
    for pair in _SEPARATORS.split(raw_query):
        name, _, value = unquote_plus(pair).partition("=")
        values.pop(name, None)
        values[name] = value
    return values


def parse_request(
    raw_query: str,
    *,
    sizes: Mapping[str, SizeSpec],
    extension: str | None = None,
) -> VariantRequest:
    """Read a raw query string, and the extension of the path, into a checked request.

    An empty value counts as not given; unknown parameters are ignored. Of ``size`` and ``w`` the
    one named last wins, and ``format`` in the query wins over the extension.

    Raises:
        BadParameter: a value is not allowed; it says which are.
    """
    values = {name: value for name, value in last_values(raw_query).items() if value}
    dpr = _choice("dpr", values.get("dpr", "1"), DPRS)
    size = _choice("size", values.get("size", DEFAULT_SIZE), sizes)
    box, label = size.scaled(dpr), size.name
    if "w" in values:
        width = snap(_width(values["w"]) * dpr)
        if [name for name in values if name in ("size", "w")][-1] == "w":
            box, label = SizeSpec(f"w{width}", width, None), f"w{width}"
    extension_format = None if extension is None else _choice("extension", extension.lower(), NAMES)
    fmt = _format(values["format"]) if "format" in values else extension_format
    removed = _choice("bg", values.get("bg", "original"), {"original": False, "removed": True})
    if removed and fmt is Format.JPEG:
        raise BadParameter(
            "format", "avif, webp, png or auto with bg=removed: JPEG has no transparency"
        )
    return VariantRequest(box, label, fmt, removed, values.get("v"))


def parse_boxes(raw_query: str, *, sizes: Mapping[str, SizeSpec]) -> tuple[SizeSpec, ...]:
    """Read which sizes a purge names into boxes: named ones at every dpr, rungs of widths; or none.

    Each that is named counts, and nothing is passed over, as a request for a picture does: what is
    not understood would purge more than was meant.

    Raises:
        BadParameter: a parameter or its value is not allowed; it says which are.
    """
    pairs = (unquote_plus(pair).partition("=") for pair in _SEPARATORS.split(raw_query) if pair)
    return tuple(box for name, _, value in pairs for box in _boxes(name, value, sizes))


def _boxes(name: str, value: str, sizes: Mapping[str, SizeSpec]) -> tuple[SizeSpec, ...]:
    if name == "size":
        return named_boxes(value, sizes)
    if name != "w":
        raise BadParameter("query", "empty, or made of size= and w= alone")
    width = snap(_width(value))
    return (SizeSpec(f"w{width}", width, None),)


def named_boxes(name: str, sizes: Mapping[str, SizeSpec]) -> tuple[SizeSpec, ...]:
    """The boxes that a named size has, one for each dpr.

    Raises:
        BadParameter: there is no such size; it says which there are.
    """
    size = _choice("size", name, sizes)
    return tuple(size.scaled(dpr) for dpr in DPRS.values())


def _choice(parameter: str, value: str, allowed: Mapping[str, _T]) -> _T:
    try:
        return allowed[value]
    except KeyError:
        raise BadParameter(parameter, "one of " + ", ".join(allowed)) from None


def _format(value: str) -> Format | None:
    return _choice("format", value.lower(), {"auto": None, **NAMES})


def _width(value: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(value) or not 1 <= int(value) <= WIDTHS[-1]:
        raise BadParameter("w", f"a whole number from 1 to {WIDTHS[-1]}")
    return int(value)


def snap(width: float) -> int:
    """The smallest width of the ladder that is not below ``width``; its top for all beyond."""
    return next((rung for rung in WIDTHS if rung >= width), WIDTHS[-1])
