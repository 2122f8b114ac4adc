"""Orders to a worker process and what comes back, as plain values with a JSON text.

A worker gets one datagram with an order and up to two descriptors (source, target), writes the
encoded bytes to the target, and answers with one datagram: a result or a failure.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from typing import Any

from proxy.formats import EncoderProfile, Format
from proxy.media import Focus
from proxy.variant import Geometry

MAX_DATAGRAM = 64 * 1024
"""Longest order or answer in bytes; both are a few hundred, those of a set as much an output."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a source may be, checked on its header before a pixel is decoded."""

    max_pixels: int
    """Of one page."""
    max_side: int
    max_raw_bytes: int
    """Width x height x bands x bytes of a band, of one page."""
    max_bands: int
    max_pages: int
    max_animation_pixels: int
    """Width x height x pages."""
    source_types: tuple[str, ...]
    """Types by their bytes, as `proxy.formats.sniff` names them."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask a worker to say hello again; it comes without descriptors."""


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """Learn the facts of a source; ``strict`` also decodes every pixel and takes no damage."""

    limits: Limits
    strict: bool = False


@dataclass(frozen=True, slots=True)
class QualitySearch:
    """Find the smallest quality of an encoder that reaches a target of perceived quality.

    It replaces the ``Q`` of a profile, from which the search starts. Pictures that are animated
    and formats without a lossy quality are encoded as their profile says.
    """

    target: float
    """In points of SSIMULACRA2, as `proxy.imaging.quality` estimates them: 100 is identical."""
    low: int
    high: int
    """Bounds of ``Q``, both allowed."""
    max_encodes: int = 4


@dataclass(frozen=True, slots=True)
class RenderJob:
    """Make one rendition of a source."""

    limits: Limits
    geometry: Geometry
    profile: EncoderProfile
    remove_background: bool = False
    animated: bool = False
    copyright: str | None = None
    """Written into the rendition; everything else of the metadata is stripped."""
    search: QualitySearch | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One rendition of several: what `RenderJob` says of a single one."""

    geometry: Geometry
    profile: EncoderProfile
    remove_background: bool = False
    animated: bool = False
    search: QualitySearch | None = None


@dataclass(frozen=True, slots=True)
class RenderSetJob:
    """Make several renditions of one source, which is decoded once.

    The target gets one frame for each output, in their order: the length in `FRAME_LENGTH`, then
    that many bytes. An output that fails is a frame of length 0.
    """

    limits: Limits
    outputs: tuple[Output, ...]
    copyright: str | None = None


FRAME_LENGTH = struct.Struct(">Q")
"""The head of a frame: how many bytes follow, 8 bytes big-endian."""

Job = ProbeJob | RenderJob | RenderSetJob


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The facts of a source, as `proxy.media.MediaFacts` has them."""

    content_hash: str
    byte_size: int
    source_type: str
    width: int
    height: int
    has_alpha: bool
    pages: int
    flat_background: bool
    focus: Focus | None


@dataclass(frozen=True, slots=True)
class RenderResult:
    """What became of a render: its pixels and where the time went, in seconds.

    libvips works demand-driven, so decode covers opening, decoding and shrinking where the
    encoder wants the whole picture anyway; a streamed JPEG counts all of it as encode.
    """

    width: int
    height: int
    pages: int
    stages: dict[str, float] = field(default_factory=dict)
    """``decode``, ``transform``, ``encode``."""
    quality: int | None = None
    """The ``Q`` that a search chose; None where none was made."""
    score: float | None = None
    """The estimate of SSIMULACRA2 at that quality."""
    target_missed: bool = False
    """Whether even the highest quality tried scores below the target, or rings on flat ground."""


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why a worker could not do its job; ``kind`` is one of `FAILURE_KINDS`."""

    kind: str
    detail: str


FAILURE_KINDS = ("unsupported", "undecodable", "too_large", "unreadable", "fault")
"""Not of a served kind; corrupt; past a limit; the descriptor failed; our own fault."""


@dataclass(frozen=True, slots=True)
class RenderSetResult:
    """What became of each output of a set, in their order.

    A source that cannot be opened at all is a `JobFailure` in place of this, and no frames.
    """

    results: tuple[RenderResult | JobFailure, ...]


Result = ProbeResult | RenderResult | RenderSetResult | JobFailure


@dataclass(frozen=True, slots=True)
class Hello:
    """The first datagram of a worker: what it can do."""

    libvips: str
    """Version of libvips, a part of every key."""
    source_types: tuple[str, ...]
    """Types that its loaders open."""
    codecs: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries inside, where libvips tells them."""


_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Ping,
        ProbeJob,
        RenderJob,
        RenderSetJob,
        ProbeResult,
        RenderResult,
        RenderSetResult,
        JobFailure,
        Hello,
    )
}


def encode(message: Ping | Job | Result | Hello) -> bytes:
    """One datagram's bytes."""
    return json.dumps([type(message).__name__, _fields(message)]).encode()


def _fields(message: Ping | Job | Result | Hello) -> dict[str, Any]:
    """The fields as JSON takes them; results of a set keep the names of their kinds."""
    if isinstance(message, RenderSetResult):
        return {"results": [[type(one).__name__, asdict(one)] for one in message.results]}
    return asdict(message)


def decode(datagram: bytes) -> Any:
    """The message of a datagram; the reverse of `encode`.

    Raises:
        ValueError: it is no message of ours.
    """
    try:
        name, fields = json.loads(datagram)
        return _KINDS[name](**_revived(fields))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("not a message between server and worker") from error


def _revived(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _revive(name, value) for name, value in fields.items()}


def _revive_result(kind: str, fields: dict[str, Any]) -> RenderResult | JobFailure:
    kinds: dict[str, type[RenderResult | JobFailure]] = {
        one.__name__: one for one in (RenderResult, JobFailure)
    }
    return kinds[kind](**fields)


def _revive(name: str, value: Any) -> Any:  # noqa: PLR0911 - a flat table
    """Turn the JSON of a nested field back into its value."""
    match name, value:
        case "limits", dict():
            return Limits(**{**value, "source_types": tuple(value["source_types"])})
        case "geometry", dict():
            return Geometry(**value)
        case "focus", dict():
            return Focus(**value)
        case "profile", dict():
            options = tuple((name, option) for name, option in value["options"])
            return EncoderProfile(Format(value["format"]), options)
        case "source_types", list():
            return tuple(value)
        case "search", dict():
            return QualitySearch(**value)
        case "outputs", list():
            return tuple(Output(**_revived(output)) for output in value)
        case "results", list():
            return tuple(_revive_result(*result) for result in value)
        case _:
            return value
