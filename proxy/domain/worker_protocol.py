"""Messages between the server and its worker processes, with their JSON encoding.

The server sends one datagram with a job and up to two descriptors (source, target). The worker
writes the encoded bytes to the target and replies with a result or a `JobFailure`, in as many
datagrams as it takes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, is_dataclass
from enum import StrEnum
from functools import cache, partial
from types import UnionType
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from proxy.domain.analysis import AnalysisResult
from proxy.domain.errors import (
    DecoderMissing,
    ExtractionFailed,
    MetadataTooLarge,
    RenderFault,
    SmartserveError,
    SourceTooLarge,
    SourceUnavailable,
    UndecodableSource,
    UnknownImageFormat,
    UnsupportedSource,
)
from proxy.domain.media import Face, ProbeResult
from proxy.domain.variant import EncoderProfile, EncodingStage, Geometry, QualitySearch, streams

MAX_DATAGRAM = 64 * 1024
"""Size limit of a datagram in bytes. Typical messages have a few hundred bytes for each output."""
MAX_REPLY = 4 * 1024 * 1024
"""Size limit of a reply in bytes."""
FRAME_HEADER = struct.Struct(">IQ")
"""Header of a frame: the index of the output (4 bytes) and the length of the rendition that follows
(8 bytes), big-endian."""
_MORE, _LAST = b"+", b"."
"""First byte of a fragment; a message that fits into one datagram is JSON and begins with ``[``."""

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
    "no_decoder": DecoderMissing,
    "undecodable": UndecodableSource,
    "too_large": SourceTooLarge,
    "unreadable": SourceUnavailable,
    "fault": RenderFault,
    "other_decoder": UnsupportedSource,
    "unknown_format": UnknownImageFormat,
    "metadata_too_large": MetadataTooLarge,
    "unread": ExtractionFailed,
}

FAILURE_KINDS = tuple(_ERRORS)
"""Not an accepted type; without a decoder or fonts on this machine; corrupt; over a limit; the
descriptor failed; a fault of this server; a worker with other decoders is needed. Then, of
metadata: not a format with metadata; over a limit; no engine could read the file."""


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Reply of a worker that could not do a job; ``kind`` is one of `FAILURE_KINDS`."""

    kind: str
    detail: str
    """A sentence that is safe to show to clients."""
    traceback: str = ""
    """For the log, if the cause is an exception that the code does not expect."""

    def to_error(self) -> SmartserveError:
        """Return the exception that the server raises for this failure."""
        # A worker that decoded a hostile file may send any kind.
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
class FacesFound:
    """Reply to a `FaceJob`, the highest score first."""

    faces: tuple[Face, ...]


@dataclass(frozen=True, slots=True)
class FaceJob(Job[FacesFound]):
    """Find the faces on the first page of a source; only a process with the model can."""

    limits: Limits


class MetadataStep(StrEnum):
    """The parts of an extraction that parse a file, each with a process that may die for it."""

    WALK = "walk"
    """Walk the container and check its limits."""
    CREDENTIALS = "credentials"
    """Validate Content Credentials. The target receives their description as JSON."""
    DESCRIBE = "describe"
    """Build the metadata object. The attachment is a `METADATA_PARTS` header, what exiftool printed
    (nothing: the fallback reads the file), the description of the credentials, then what exiftool
    printed for ``-validate``. The target receives the object and its facts as JSON."""


METADATA_PARTS = struct.Struct(">QQQ")
"""Header of an attachment: the lengths of its three parts, 8 bytes each, big-endian."""


@dataclass(frozen=True, slots=True)
class MetadataRead:
    """Reply to a `MetadataJob`."""

    format: str
    """A name of `proxy.metadata.formats.FORMATS`, by the content."""
    has_credentials: bool
    """Whether the file contains Content Credentials, or refers to some."""
    fallback: bool = False
    """Whether the fallback read the file, because exiftool's answer was unusable or missing."""


@dataclass(frozen=True, slots=True)
class MetadataJob(Job[MetadataRead]):
    """A step of the extraction of metadata from the source."""

    step: MetadataStep
    file_name: str = ""
    """As the client declared it; for the extension, and as evidence."""
    advanced: bool = False
    """Also build the facts for examiners."""
    media_type: str = ""
    """As the client declared it; empty if it declared none."""


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
        # A search and an alternative compare complete files.
        return streams(self.profile) and self.search is None and self.alternative is None


@dataclass(frozen=True, slots=True)
class RenditionSet(Job[RenditionSetResult]):
    """Render one or more outputs of a source; outputs with the same base share its decode.

    If ``framed``, the target receives one frame for each output in their order: a `FRAME_HEADER`,
    then the bytes; a failed output has length 0. Otherwise there is exactly one output and the
    target receives its bytes as they leave the encoder.
    """

    limits: Limits
    outputs: tuple[RenderOutput, ...]
    copyright: str | None = None
    """Written into each rendition; all other metadata is removed."""
    framed: bool = False

    @property
    def streams(self) -> bool:
        """Return whether bytes of the target are useful before the reply arrives."""
        # A frame is complete before the next output is rendered.
        return self.framed or self.outputs[0].streams


@dataclass(frozen=True, slots=True)
class KeptRange:
    """A range of a source that stays, after bytes that are new."""

    start: int
    stop: int
    before: str = ""
    """Hexadecimal digits."""

    @property
    def new(self) -> bytes:
        """The new bytes."""
        return bytes.fromhex(self.before)


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """A source without its metadata: its ranges in ascending order."""

    kept: tuple[KeptRange, ...]

    def check(self, byte_size: int) -> None:
        """Return if the plan can be carried out with a source of this size.

        Raises:
            ValueError: it cannot. A worker that read a hostile file may send anything.
        """
        at = 0
        for one in self.kept:
            if not at <= one.start <= one.stop <= byte_size:
                raise ValueError("not a range of the source")
            at = one.stop
            bytes.fromhex(one.before)

    @property
    def length(self) -> int:
        """Number of bytes of the result."""
        return sum(one.stop - one.start + len(one.before) // 2 for one in self.kept)


@dataclass(frozen=True, slots=True)
class RemovalJob(Job[RemovalPlan]):
    """List the parts of a source that remain without its metadata; no pixel is decoded."""


class FrameDecoder:
    """Splits the byte stream of a framed `RenditionSet` into renditions."""

    def __init__(self, on_rendition: Callable[[int, bytes], None], *, outputs: int) -> None:
        """``on_rendition`` receives the index of an output and its bytes (empty if it failed)."""
        self._on_rendition = on_rendition
        self._outputs = outputs
        self._pending = bytearray()
        self._lengths: list[int] = []

    def restart(self) -> None:
        """Expect the first frame again: another worker repeats the job."""
        self._pending.clear()
        self._lengths.clear()

    def __call__(self, chunk: bytes) -> None:
        """Append bytes and deliver every frame that is complete.

        Raises:
            ValueError: a frame is not that of the next output.
        """
        self._pending += chunk
        while len(self._pending) >= FRAME_HEADER.size:
            index, length = FRAME_HEADER.unpack_from(self._pending)
            # Without the index, a frame that a worker left out would shift all renditions behind it
            # to the keys of other outputs.
            if index != len(self._lengths) or index >= self._outputs:
                raise ValueError(f"frame {index} instead of {len(self._lengths)}")
            end = FRAME_HEADER.size + length
            # The rest of the frame has not arrived.
            if len(self._pending) < end:
                return
            self._lengths.append(length)
            self._on_rendition(index, bytes(self._pending[FRAME_HEADER.size : end]))
            del self._pending[:end]

    def matches(self, results: Sequence[object]) -> bool:
        """Return whether there was a frame for each result, empty for each failure."""
        empty = [isinstance(result, JobFailure) for result in results]
        return not self._pending and [not length for length in self._lengths] == empty


_JOBS = (Ping, ProbeJob, AnalyseJob, RenditionSet, MetadataJob, FaceJob, RemovalJob)
_REPLY_TYPES: Mapping[type[Job[Any]], type] = {
    Ping: WorkerInfo,
    ProbeJob: ProbeResult,
    AnalyseJob: AnalysisResult,
    MetadataJob: MetadataRead,
    FaceJob: FacesFound,
    RemovalJob: RemovalPlan,
}
_REPLIES = (
    *(WorkerInfo, ProbeResult, AnalysisResult, RenderResult, RenditionSetResult, MetadataRead),
    *(FacesFound, RemovalPlan, JobFailure),
)
_MESSAGES: Mapping[str, Any] = {kind.__name__: kind for kind in (*_JOBS, *_REPLIES)}


def encode(message: Any) -> bytes:
    """Encode a message as one datagram."""
    return json.dumps([type(message).__name__, message], default=_fields).encode()


def fragments(message: Any) -> list[bytes]:
    """Encode a message as the datagrams that `MessageReader` joins.

    Raises:
        ValueError: it is longer than `MAX_REPLY`.
    """
    encoded = encode(message)
    if len(encoded) <= MAX_DATAGRAM:
        return [encoded]
    if len(encoded) > MAX_REPLY:
        raise ValueError(f"a message of {len(encoded)} bytes exceeds {MAX_REPLY}")
    step = MAX_DATAGRAM - 1
    pieces = [encoded[at : at + step] for at in range(0, len(encoded), step)]
    return [*(_MORE + piece for piece in pieces[:-1]), _LAST + pieces[-1]]


class MessageReader:
    """Joins the datagrams of messages."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def feed(self, datagram: bytes, job: Job[Any] | None = None) -> Any:
        """Return the message that a datagram completes, or None.

        Raises:
            ValueError: the datagrams are not a message of this protocol, or not a reply to ``job``.
        """
        kind, piece = datagram[:1], datagram[1:]
        if kind not in (_MORE, _LAST):
            piece = datagram
        self._begun += piece
        if len(self._begun) > MAX_REPLY:
            raise ValueError("the message is too long")
        if kind == _MORE:
            return None
        message, self._begun = decode(bytes(self._begun)), bytearray()
        if job is not None and not is_reply(job, message):
            raise ValueError("not a reply to this job")
        return message


def is_reply(job: Job[Any], reply: object) -> bool:
    """Return whether a message has the type of a reply to a job, for each of its outputs."""
    if isinstance(reply, JobFailure):
        return True
    if isinstance(job, RenditionSet):
        return isinstance(reply, RenditionSetResult) and len(reply.results) == len(job.outputs)
    return type(reply) is _REPLY_TYPES[type(job)]


def _fields(value: Any) -> dict[str, Any]:
    """Return the fields of a value; JSON calls this again for nested values."""
    # `dataclasses.asdict` would copy the whole tree, which takes longer than the encoding.
    return {field: getattr(value, field) for field in value.__slots__}


# What conversion raises for hostile input; a RecursionError comes from deeply nested brackets.
_NO_MESSAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


def decode(datagram: bytes) -> Any:
    """Decode a datagram; the reverse of `encode`.

    Raises:
        ValueError: the datagram is not a message of this protocol.
    """
    try:
        name, fields = json.loads(datagram)
        return _reader(_MESSAGES[name])(fields)
    except _NO_MESSAGE as error:
        raise ValueError("not a message between server and worker") from error


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """Return the function that converts a JSON value to an annotated type.

    It raises one of `_NO_MESSAGE` for a value of another type.
    """
    # Compiled once for each type: reading the annotations of each value takes three times as long.
    if isinstance(kind, type) and is_dataclass(kind):
        readers = {name: _reader(one) for name, one in get_type_hints(kind).items()}
        return lambda value: kind(**{name: readers[name](one) for name, one in value.items()})
    arguments = get_args(kind)
    parts = [_reader(one) for one in arguments if one is not Ellipsis]
    if isinstance(kind, UnionType):
        plain = tuple(one for one in arguments if not is_dataclass(one) and not get_args(one))
        return partial(_read_first, plain, parts)
    if get_origin(kind) is dict:
        return lambda value: {name: parts[1](one) for name, one in value.items()}
    if get_origin(kind) is tuple:
        return partial(_read_tuple, parts, repeated=arguments[-1] is Ellipsis)
    # JSON does not distinguish 1 from 1.0.
    plain = (int, float) if kind is float else kind
    read: Callable[[Any], Any] = kind if issubclass(kind, StrEnum) else partial(_read_plain, plain)
    return read


def _read_first(
    plain: tuple[type, ...], readers: Sequence[Callable[[Any], Any]], value: Any
) -> Any:
    # Most values are plain ones, such as None: trying the readers would raise an error for each.
    if isinstance(value, plain):
        return value
    # The results of a set are of two types without a common field, so the first that fits is right.
    for read in readers:
        with suppress(*_NO_MESSAGE):
            return read(value)
    raise TypeError(value)


def _read_tuple(readers: list[Callable[[Any], Any]], value: Any, *, repeated: bool) -> Any:
    each = readers * len(value) if repeated else readers
    return tuple(read(one) for read, one in zip(each, _read_plain(list, value), strict=True))


def _read_plain(kind: type | tuple[type, ...], value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(value)
    return value
