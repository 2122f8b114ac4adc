"""Messages between the server and its worker processes, with their JSON encoding.

The server sends one datagram with a job and up to two descriptors (source, target). The worker
writes the encoded bytes to the target and replies with one datagram: a result or a `JobFailure`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from proxy.domain.analysis import AnalysisResult, Colour, Kind, Quality
from proxy.domain.errors import (
    RenderFault,
    SmartserveError,
    SourceTooLarge,
    SourceUnavailable,
    UndecodableSource,
    UnsupportedSource,
)
from proxy.domain.formats import Format
from proxy.domain.media import Focus, ProbeResult
from proxy.domain.variant import EncoderProfile, EncodingStage, Geometry, QualitySearch, streams

MAX_DATAGRAM = 64 * 1024
"""Size limit of a message in bytes. Typical messages have a few hundred bytes for each output."""
FRAME_LENGTH = struct.Struct(">Q")
"""Header of a frame: the length of the rendition that follows, 8 bytes, big-endian."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a source, checked against its header before any pixel is decoded."""

    max_pixels: int
    """Width x height of one page."""
    max_side: int
    max_raw_bytes: int
    """Width x height x bands x bytes per band of one page."""
    max_bands: int
    max_pages: int
    max_animation_pixels: int
    """Width x height x pages."""
    source_types: tuple[str, ...]
    """Accepted types, named and detected as by `proxy.domain.formats.sniff`."""


_ERRORS: Mapping[str, Callable[[str], SmartserveError]] = {
    "unsupported": UnsupportedSource,
    "undecodable": UndecodableSource,
    "too_large": SourceTooLarge,
    "unreadable": SourceUnavailable,
    "fault": RenderFault,
}

FAILURE_KINDS = tuple(_ERRORS)
"""Not an accepted type; corrupt; over a limit; the descriptor failed; a fault of this server."""


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Reply of a worker that could not do a job; ``kind`` is one of `FAILURE_KINDS`."""

    kind: str
    detail: str
    """A sentence that is safe to show to clients."""

    def to_error(self) -> SmartserveError:
        """Return the exception that the server raises for this failure."""
        return _ERRORS.get(self.kind, RenderFault)(self.detail)


@dataclass(frozen=True, slots=True)
class RenderResult:
    """Size, timing and quality of one rendition.

    libvips works demand-driven. ``decode`` therefore covers opening, decoding and shrinking, except
    for a streamed JPEG, where all work happens during ``encode``.
    """

    width: int
    height: int
    pages: int
    stages: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds of ``decode``, ``transform`` and ``encode``."""
    quality: int | None = None
    """The ``Q`` chosen by a quality search; None without a search."""
    score: float | None = None
    """Estimated SSIMULACRA2 score at that quality."""
    cpu_s: float = 0.0
    """Processor time, including the decode that the output shares with others."""
    target_missed: bool = False
    """True if the highest quality tried is below the target score, or rings on flat areas."""


@dataclass(frozen=True, slots=True)
class RenditionSetResult:
    """Results of a `RenditionSet`, in the order of its outputs.

    If the source cannot be opened, or the only output fails, the reply is a `JobFailure` instead.
    """

    results: tuple[RenderResult | JobFailure, ...]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """First datagram of a worker: its capabilities. An unfit worker sends a `JobFailure`."""

    libvips: str
    """Version of libvips, a part of every rendition key."""
    source_types: tuple[str, ...]
    """Types that its loaders open."""
    codecs: dict[str, str] = field(default_factory=dict)
    """Versions of the packages pyvips and pyvips-binary, if installed."""
    sandbox: dict[str, str] = field(default_factory=dict)
    """State of each sandbox feature: `HOLDS`, or the reason why it is not active."""


HOLDS = "on"
"""State of an active sandbox feature in `WorkerInfo`."""


class Job(Generic[Result]):
    """Base of all jobs; the parameter is the type of the reply."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Ping(Job[WorkerInfo]):
    """Health check: the worker repeats its `WorkerInfo`. Sent without descriptors."""


@dataclass(frozen=True, slots=True)
class ProbeJob(Job[ProbeResult]):
    """Read the facts of a source; ``strict`` also decodes every pixel and rejects damage."""

    limits: Limits
    strict: bool = False


@dataclass(frozen=True, slots=True)
class AnalyseJob(Job[AnalysisResult]):
    """Analyse the pixels of a source, without a machine-learning model."""

    limits: Limits


@dataclass(frozen=True, slots=True)
class RenderOutput:
    """One rendition of a `RenditionSet`."""

    geometry: Geometry
    profile: EncoderProfile
    remove_background: bool = False
    animated: bool = False
    search: QualitySearch | None = None
    alternative: EncodingStage | None = None
    """Alternative encoding; the smaller of the two results is used."""
    base: tuple[int, int] | None = None
    """Size of the intermediate image that this output is scaled from; None: the source."""

    @property
    def streams(self) -> bool:
        """Return whether bytes leave the encoder before all pixels are decoded."""
        return streams(self.profile) and self.search is None and self.alternative is None


@dataclass(frozen=True, slots=True)
class RenditionSet(Job[RenditionSetResult]):
    """Render one or more outputs of a source; outputs with the same base share its decode.

    If ``framed``, the target receives one frame for each output in their order: the length as
    `FRAME_LENGTH`, then that many bytes; a failed output has length 0. Otherwise there is exactly
    one output and the target receives its bytes as they leave the encoder.
    """

    limits: Limits
    outputs: tuple[RenderOutput, ...]
    copyright: str | None = None
    """Written into each rendition; all other metadata is removed."""
    framed: bool = False

    @property
    def streams(self) -> bool:
        """Return whether bytes of the target are useful before the reply arrives."""
        return self.framed or self.outputs[0].streams


class FrameDecoder:
    """Splits the byte stream of a framed `RenditionSet` into renditions."""

    def __init__(self, on_rendition: Callable[[int, bytes], None]) -> None:
        """``on_rendition`` receives the index of an output and its bytes (empty if it failed)."""
        self._on_rendition = on_rendition
        self._pending = bytearray()
        self._index = 0

    def __call__(self, chunk: bytes) -> None:
        """Append bytes and deliver every frame that is complete."""
        self._pending += chunk
        while len(self._pending) >= FRAME_LENGTH.size:
            (length,) = FRAME_LENGTH.unpack_from(self._pending)
            end = FRAME_LENGTH.size + length
            # The rest of the frame has not arrived.
            if len(self._pending) < end:
                return
            self._on_rendition(self._index, bytes(self._pending[FRAME_LENGTH.size : end]))
            del self._pending[:end]
            self._index += 1


_MESSAGES: Mapping[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Ping,
        ProbeJob,
        RenditionSet,
        AnalyseJob,
        ProbeResult,
        RenderResult,
        RenditionSetResult,
        AnalysisResult,
        JobFailure,
        WorkerInfo,
    )
}


def encode(message: Any) -> bytes:
    """Encode a message as one datagram."""
    return json.dumps([type(message).__name__, _fields(message)], default=_shallow).encode()


def _fields(message: Any) -> dict[str, Any]:
    """Return the fields; the results of a set need their type names to be decoded."""
    # The only field whose values can have two types.
    if isinstance(message, RenditionSetResult):
        return {"results": [[type(one).__name__, _shallow(one)] for one in message.results]}
    return _shallow(message)


def _shallow(value: Any) -> dict[str, Any]:
    """Return the fields of a value; JSON calls this again for nested values.

    `dataclasses.asdict` would first copy the whole tree, which takes longer than the encoding.
    """
    return {field: getattr(value, field) for field in value.__slots__}


def decode(datagram: bytes) -> Any:
    """Decode a datagram; the reverse of `encode`.

    Raises:
        ValueError: the datagram is not a message of this protocol.
    """
    try:
        name, fields = json.loads(datagram)
        return _MESSAGES[name](**_revived(fields))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("not a message between server and worker") from error


def _revived(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert nested JSON values back to their types."""
    return {name: _revive(name, value) for name, value in fields.items()}


def _revive(name: str, value: Any) -> Any:
    revive = _NESTED.get((name, type(value)))
    return value if revive is None else revive(value)


def _revive_result(kind: str, fields: dict[str, Any]) -> RenderResult | JobFailure:
    kinds: dict[str, type[RenderResult | JobFailure]] = {
        one.__name__: one for one in (RenderResult, JobFailure)
    }
    return kinds[kind](**fields)


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
    ("alternative", dict): lambda fields: EncodingStage(**_revived(fields)),
    ("base", list): tuple,
    ("outputs", list): lambda outputs: tuple(RenderOutput(**_revived(one)) for one in outputs),
    ("results", list): lambda results: tuple(_revive_result(*one) for one in results),
    ("dominant_colours", list): _revive_colours,
    ("brand_colours", list): _revive_colours,
    ("quality", dict): lambda fields: Quality(**fields),
    ("mood_keywords", list): tuple,
    ("kind", dict): lambda fields: Kind(**fields),
}
"""Converters by field name and type of the JSON value."""
