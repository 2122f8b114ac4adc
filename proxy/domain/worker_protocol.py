"""Orders to a worker process and what comes back, as plain values with a JSON text.

A worker gets one datagram with an order and up to two descriptors (source, target), writes the
encoded bytes to the target, and answers with one datagram: a result or a failure.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.domain.formats import EncoderProfile, EncodingStage, Format, QualitySearch
from proxy.domain.geometry import Geometry
from proxy.domain.image_analysis import Colour, Kind, Quality
from proxy.domain.media import Focus

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
    """Types by their bytes, as `proxy.domain.formats.sniff` names them."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask a worker to say hello again; it comes without descriptors."""


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """Learn the facts of a source; ``strict`` also decodes every pixel and takes no damage."""

    limits: Limits
    strict: bool = False


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
class RenderOutput:
    """One rendition of several: what `RenderJob` says of a single one."""

    geometry: Geometry
    profile: EncoderProfile
    remove_background: bool = False
    animated: bool = False
    search: QualitySearch | None = None
    rival: EncodingStage | None = None
    """Encoded as well, and taken where it is smaller."""
    base: tuple[int, int] | None = None
    """The size, of the whole picture, whose pixels this output is made of; None: the source's."""


@dataclass(frozen=True, slots=True)
class RenderSetJob:
    """Make several renditions of one source; those of one base share its decode.

    The target gets one frame for each output, in their order: the length in `FRAME_LENGTH`, then
    that many bytes. An output that fails is a frame of length 0.
    """

    limits: Limits
    outputs: tuple[RenderOutput, ...]
    copyright: str | None = None


FRAME_LENGTH = struct.Struct(">Q")
"""The head of a frame: how many bytes follow, 8 bytes big-endian."""


@dataclass(frozen=True, slots=True)
class AnalyseJob:
    """Find out about a source what its pixels tell without a model."""

    limits: Limits


Job = ProbeJob | RenderJob | RenderSetJob | AnalyseJob


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The facts of a source, as `proxy.domain.media.MediaFacts` has them."""

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
    cpu_s: float = 0.0
    """What it cost the processor, whatever else that did meanwhile."""
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


@dataclass(frozen=True, slots=True)
class AnalysisResult:
    """What the pixels of a source tell, of its first page; width and height are upright."""

    width: int
    height: int
    dominant_colours: tuple[Colour, ...]
    """The most frequent first."""
    brand_colours: tuple[Colour, ...]
    """Those that a logo is told by; greys only where there is nothing else."""
    quality: Quality
    mood_keywords: tuple[str, ...]
    """Of the colours alone."""
    kind: Kind
    thumbhash: str
    """In base 64."""
    blurhash: str
    phash: str
    """64 bits as 16 hexadecimal digits; see `proxy.domain.analysis.distance`."""
    focus: Focus | None
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of processor time by measure."""


Result = ProbeResult | RenderResult | RenderSetResult | AnalysisResult | JobFailure


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """The first datagram of a worker: what it can do. One that is unfit sends a `JobFailure`."""

    libvips: str
    """Version of libvips, a part of every key."""
    source_types: tuple[str, ...]
    """Types that its loaders open."""
    codecs: dict[str, str] = field(default_factory=dict)
    """Versions of pyvips and of the codecs inside libvips, by name; some are ``unknown``."""
    sandbox: dict[str, str] = field(default_factory=dict)
    """What locks the process in, by feature: `HOLDS`, or the reason why it does not."""


HOLDS = "on"
"""What a `WorkerInfo` says of a feature of the sandbox that holds."""

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Ping,
        ProbeJob,
        RenderJob,
        RenderSetJob,
        AnalyseJob,
        ProbeResult,
        RenderResult,
        RenderSetResult,
        AnalysisResult,
        JobFailure,
        WorkerInfo,
    )
}


def encode(message: Ping | Job | Result | WorkerInfo) -> bytes:
    """One datagram's bytes."""
    named = [type(message).__name__, _fields(message)]
    return json.dumps(named, default=_shallow).encode()


def _fields(message: Ping | Job | Result | WorkerInfo) -> dict[str, Any]:
    """The fields; results of a set keep the names of their kinds."""
    if isinstance(message, RenderSetResult):
        return {"results": [[type(one).__name__, _shallow(one)] for one in message.results]}
    return _shallow(message)


def _shallow(value: Any) -> dict[str, Any]:
    """The fields of a value, whose own values JSON's encoder asks for in turn.

    `dataclasses.asdict` copies all of them first, which takes longer than the text.
    """
    return {field: getattr(value, field) for field in value.__slots__}


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


def _revive(name: str, value: Any) -> Any:
    """Turn the JSON of a nested field back into its value."""
    revive = _NESTED.get((name, type(value)))
    return value if revive is None else revive(value)


def _revive_profile(fields: dict[str, Any]) -> EncoderProfile:
    options = tuple((name, option) for name, option in fields["options"])
    return EncoderProfile(Format(fields["format"]), options)


def _revive_colours(colours: list[dict[str, Any]]) -> tuple[Colour, ...]:
    return tuple(Colour(**fields) for fields in colours)


_NESTED: Mapping[tuple[str, type], Callable[[Any], Any]] = {
    ("limits", dict): lambda fields: Limits(**_revived(fields)),
    ("geometry", dict): lambda fields: Geometry(**fields),
    ("focus", dict): lambda fields: Focus(**fields),
    ("profile", dict): _revive_profile,
    ("source_types", list): tuple,
    ("search", dict): lambda fields: QualitySearch(**fields),
    ("rival", dict): lambda fields: EncodingStage(**_revived(fields)),
    ("base", list): tuple,
    ("outputs", list): lambda outputs: tuple(RenderOutput(**_revived(one)) for one in outputs),
    ("results", list): lambda results: tuple(_revive_result(*one) for one in results),
    ("dominant_colours", list): _revive_colours,
    ("brand_colours", list): _revive_colours,
    ("quality", dict): lambda fields: Quality(**fields),
    ("mood_keywords", list): tuple,
    ("kind", dict): lambda fields: Kind(**fields),
}
"""By the name of a field and the type that its JSON has."""
