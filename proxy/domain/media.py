"""Media: a row of the media database, and the facts about its source that rendering depends on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

from proxy.domain.formats import SOURCE_MEDIA_TYPES

MAX_MEDIA_ID = 2**63 - 1
"""Largest BIGINT. No row has a larger id, although it may have 19 digits too."""


_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAX_NUMBER = 2**53
MAX_LANGUAGE = 35
"""Characters of a language tag: what RFC 5646, 4.4.1 recommends as a limit."""
MIN_CROP = 0.01
"""Shortest side of a crop that a person sets, as a fraction of the image's side."""
_ROUNDING = 1e-9
EPOCH = datetime.fromtimestamp(0, UTC)


class DataType(StrEnum):
    """Purpose of an image, with the names of the requirements document."""

    PRODUCT = "product"
    PROFILE = "profile"
    EVENT = "event"
    LOGO = "logo"
    SITES = "sites"


class MediaStatus(StrEnum):
    """Processing state of a media row."""

    DOWNLOADING = "downloading"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Focus:
    """Point of interest of an image, as fractions 0 to 1 of width and height."""

    x: float
    y: float


class Background(StrEnum):
    """Values of ``bg`` in addresses, and of a medium's default."""

    REMOVED = "removed"
    ORIGINAL = "original"


class Visibility(StrEnum):
    """Who may see a medium."""

    PUBLIC = "public"
    PRIVATE = "private"


class CropBox(NamedTuple):
    """The region of an image that a crop keeps, as fractions 0 to 1 of the upright image."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class MediaChoices:
    """What people decided about a medium. A value that is None is decided automatically."""

    focus: Focus | None = None
    """Takes the place of `ProbeResult.focus`."""
    crops: tuple[tuple[str, CropBox], ...] = ()
    """The regions that named sizes keep, sorted by name."""
    background: Background | None = None
    """The value of ``bg`` for addresses without one."""
    visibility: Visibility | None = None
    """None: the default of the medium's data type."""
    changed_at: datetime | None = field(default=None, compare=False)
    """When a value was last set or deleted; None: no value is set."""

    def crop(self, size: str) -> CropBox | None:
        """Return the region that a size keeps, or None."""
        # A dictionary could not be hashed, and an image has few crops.
        return next((box for name, box in self.crops if name == size), None)


NO_CHOICES = MediaChoices()

FACE_MODEL = "blazeface-full-range-1"
"""Version of the model, and of what selects its detections. Faces of another one are not used."""


@dataclass(frozen=True, slots=True)
class Face:
    """A face: its box in fractions 0 to 1 of the upright image."""

    left: float
    top: float
    width: float
    height: float
    """From the eyebrows to the chin: without hair."""
    score: float
    """Of the detector, 0 to 1."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Facts that a worker reads from the bytes of a source.

    Width and height are those of one page after EXIF orientation. ``has_alpha`` is true if at least
    1 in 2000 of the area is transparent, or any pixel of an animation. ``flat_background`` is true
    if the background can be removed, or is transparent already.
    """

    content_hash: str
    """SHA-256 of the source in 64 hexadecimal digits; the version in every key."""
    byte_size: int
    source_type: str
    """As returned by `proxy.domain.formats.sniff`."""
    width: int
    height: int
    has_alpha: bool
    pages: int
    flat_background: bool
    focus: Focus | None


@dataclass(frozen=True)
class MediaFacts(ProbeResult):
    """Facts of a source and the row that they belong to."""

    source_path: str
    """The path that the facts were read from. If the row has another path, they are stale."""
    row_version: str = ""
    """`Media.row_version` when the facts were read. If the row has another version, they are stale.
    Empty for facts that do not belong to a row."""
    faces: tuple[Face, ...] | None = None
    """Detected faces; None: they have not been looked for."""

    @cached_property
    def animated(self) -> bool:
        """Whether the image has several pages."""
        return self.pages > 1


@dataclass(frozen=True)
class Media:
    """A row of ``media_files``, with the facts about its source if they are known.

    The row cache keeps it, so what each request needs is computed once per row.
    """

    id: int
    user_id: int
    data_type: str
    original_name: str | None
    mime_type: str | None
    file_size: int | None
    bulk_path: str | None
    library_path: str | None
    status: str | None
    updated_at: datetime
    """Timezone-aware, in UTC."""
    facts: MediaFacts | None = None
    fallbacks: tuple[MediaFacts, ...] = ()
    """Smaller files of the same image, made by another system. If the source is not available, the
    image is rendered from one of them. Unordered."""
    choices: MediaChoices = NO_CHOICES
    """What people decided; not a part of the facts, which may be read again."""

    @cached_property
    def source_path(self) -> str | None:
        """Path of the original, or else of the processed file, relative to the storage root."""
        return self.bulk_path or self.library_path or None

    @property
    def source_paths(self) -> tuple[str, ...]:
        """Paths that may exist; the first that does is the source."""
        return tuple(path for path in (self.bulk_path, self.library_path) if path)

    @cached_property
    def changed_at(self) -> datetime:
        """When the row or the choices were last changed, in whole seconds.

        An image with choices never has the date of its row: a client that knows that date has the
        automatic version.
        """
        chosen = self.choices.changed_at
        if chosen is None:
            return self.updated_at
        return max(self.updated_at + timedelta(seconds=1), chosen.replace(microsecond=0))

    @cached_property
    def completed(self) -> bool:
        """Whether processing is complete, so that responses may be cached for a year."""
        return self.status == MediaStatus.COMPLETED

    @property
    def in_progress(self) -> bool:
        """Whether processing has started and not ended."""
        return self.status in (MediaStatus.DOWNLOADING, MediaStatus.PROCESSING)

    @cached_property
    def servable(self) -> bool:
        """Whether the image can be served: completed, or in progress with its original stored."""
        if self.completed:
            return self.source_path is not None
        # The processed file of an image in progress is not finished; only the original is served.
        return self.in_progress and bool(self.bulk_path)

    @cached_property
    def row_version(self) -> str:
        """Text that changes with every change of the row."""
        # updated_at has a resolution of one second. The status tells apart an original that was
        # served while it was written, and the complete one.
        return f"{self.status} {self.updated_at.isoformat()}"

    def with_source(self, facts: MediaFacts) -> Media:
        """Return the media row with one of its fallbacks as the source."""
        return replace(self, bulk_path=facts.source_path, library_path=None, facts=facts)

    @cached_property
    def known_facts(self) -> MediaFacts | None:
        """The facts, or None if the row names another file now or was changed since."""
        facts = self.facts
        # A change within the same second keeps the version, but may have changed the path.
        if facts is None or facts.source_path != self.source_path:
            return None
        return facts if facts.row_version in ("", self.row_version) else None


def stored_text(value: object) -> str | None:
    """Return text from a database, or None for NULL; SQLite stores any type in any column.

    Raises:
        ValueError: it is a number, or not UTF-8.
    """
    if isinstance(value, bytes):
        return value.decode()
    if value is not None and not isinstance(value, str):
        raise ValueError("is not text")
    # Text that is not UTF-8 arrives with lone surrogates, which no query accepts.
    if value is not None and not value.isascii():
        value.encode()
    return value


def readable_text(value: object) -> str | None:
    """Return text for people: what is not UTF-8 is replaced, and None stands for a number."""
    if isinstance(value, str):
        # Fast for the usual case, as this runs for each row.
        return (
            value
            if value.isascii()
            else value.encode(errors="surrogateescape").decode(errors="replace")
        )
    return value.decode(errors="replace") if isinstance(value, bytes) else None


def utc_timestamp(moment: object) -> datetime:
    """Return a stored timestamp, which is in UTC; the epoch for what is not one.

    MySQL's zero date arrives as text. In SQLite a timestamp is text, and another program may have
    stored the seconds since 1970, or anything else.
    """
    try:
        if isinstance(moment, str):
            moment = datetime.fromisoformat(moment)
        if isinstance(moment, (int, float)):
            return datetime.fromtimestamp(moment, UTC)
        if isinstance(moment, datetime):
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return EPOCH


def stored_facts(values: Mapping[str, Any]) -> MediaFacts:
    """Return the facts in a row of a database; ``focus_x`` and ``focus_y`` are the focus.

    Raises:
        ValueError: a value is not one that `proxy.serving.source_facts` could have stored; the
            message names the column.
    """
    for name in ("width", "height", "pages", "byte_size"):
        # A bool is an int.
        if type(values[name]) is not int or not 0 < values[name] < _MAX_NUMBER:
            raise ValueError(name)
    for name in ("has_alpha", "flat_background"):
        if values[name] not in (0, 1):
            raise ValueError(name)
    # The hash is a part of the keys and paths of renditions.
    if not isinstance(values["content_hash"], str) or not _HASH.fullmatch(values["content_hash"]):
        raise ValueError("content_hash")
    if values["source_type"] not in SOURCE_MEDIA_TYPES:
        raise ValueError("source_type")
    if not isinstance(values["source_path"], str) or not values["source_path"]:
        raise ValueError("source_path")
    x, y = values["focus_x"], values["focus_y"]
    # Also false for NaN.
    within = all(isinstance(one, (int, float)) and 0 <= one <= 1 for one in (x, y))
    if not within and not (x is None or y is None):
        raise ValueError("focus_x")
    return MediaFacts(
        content_hash=values["content_hash"],
        byte_size=values["byte_size"],
        source_type=values["source_type"],
        width=values["width"],
        height=values["height"],
        has_alpha=bool(values["has_alpha"]),
        pages=values["pages"],
        flat_background=bool(values["flat_background"]),
        focus=Focus(x, y) if within else None,
        source_path=values["source_path"],
        row_version=stored_text(values.get("row_version")) or "",
    )


def stored_faces(value: object) -> tuple[Face, ...]:
    """Return the faces of a row of ``media_faces``: JSON text or a list.

    Raises:
        ValueError: it is something else.
    """
    try:
        found = json.loads(value) if isinstance(value, (str, bytes)) else value
        faces = tuple(Face(*one) for one in found)  # type: ignore[union-attr]
    except (TypeError, RecursionError) as error:
        raise ValueError("faces") from error
    if not all(is_fraction(value) for face in faces for value in astuple(face)):
        raise ValueError("faces")
    return faces


def stored_choices(values: Mapping[str, Any], report: Callable[[str], object]) -> MediaChoices:
    """Return the choices in a row of ``media_choices``; ``crops`` is JSON text or an object.

    A bad value counts as not set, and ``report`` gets its column. Only a bad visibility is private:
    it may be one that a newer version has stored.
    """
    x, y, focus = values["focus_x"], values["focus_y"], None
    if is_fraction(x) and is_fraction(y):
        focus = Focus(x, y)
    elif x is not None or y is not None:
        report("focus_x")
    background = visibility = None
    if values["background"] is not None:
        try:
            background = Background(values["background"])
        except ValueError:
            report("background")
    if values["visibility"] is not None:
        try:
            visibility = Visibility(values["visibility"])
        except ValueError:
            report("visibility")
            visibility = Visibility.PRIVATE
    crops, changed_at = _crops(values["crops"], report), utc_timestamp(values["updated_at"])
    return MediaChoices(focus, crops, background, visibility, changed_at)


def _crops(value: object, report: Callable[[str], object]) -> tuple[tuple[str, CropBox], ...]:
    if value is None:
        return ()
    try:
        found = json.loads(value) if isinstance(value, (str, bytes)) else value
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        report("crops")
        return ()
    crops: list[tuple[str, CropBox]] = []
    for name, sides in sorted(found.items()):
        if isinstance(sides, list) and is_crop(sides):
            crops.append((name, CropBox(*sides)))
        else:
            report("crops")
    return tuple(crops)


def is_crop(sides: Sequence[Any]) -> bool:
    """Return whether the values are a region within the image; see `MIN_CROP`."""
    if len(sides) != len(CropBox._fields) or not all(map(is_fraction, sides)):
        return False
    left, top, width, height = sides
    # Sums may exceed 1 by the rounding of floating-point numbers.
    inside = max(left + width, top + height) <= 1 + _ROUNDING
    return inside and bool(min(width, height) >= MIN_CROP)


def is_fraction(value: object) -> bool:
    """Return whether a value is a number from 0 to 1."""
    # False for NaN, too; a bool is an int.
    return type(value) in (int, float) and 0 <= value <= 1  # type: ignore[operator]
