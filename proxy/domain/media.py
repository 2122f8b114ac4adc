"""Media: a row of the media database, and the facts about its source that decide rendering."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

MAX_MEDIA_ID = 2**63 - 1
"""The largest BIGINT; a larger id of 19 digits names no row."""


class DataType(StrEnum):
    """What a picture is for, as the requirements document has it."""

    PRODUCT = "product"
    PROFILE = "profile"
    EVENT = "event"
    LOGO = "logo"
    SITES = "sites"


class MediaStatus(StrEnum):
    """How far a medium has come."""

    DOWNLOADING = "downloading"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Focus:
    """The point of interest of a picture, as fractions 0 to 1 of its width and height."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class MediaFacts:
    """What the proxy learned from the bytes of a source.

    Width and height are those of one page after EXIF orientation. ``has_alpha`` is true only where
    some pixel really is not opaque. ``flat_background`` tells whether a matte can be cut out of
    it, or whether it has one already.
    """

    content_hash: str
    """SHA-256 of the source, 64 hexadecimal digits: the version in every key."""
    byte_size: int
    source_type: str
    """As `proxy.domain.formats.sniff` names it."""
    width: int
    height: int
    has_alpha: bool
    pages: int
    flat_background: bool
    focus: Focus | None
    source_path: str
    """The path these facts were read from; another path in the row makes them stale."""
    row_version: str = ""
    """`Media.row_version` when they were read: a row that has moved on makes them stale. Empty for
    facts that were read apart from any row."""

    @property
    def animated(self) -> bool:
        """Whether the picture moves."""
        return self.pages > 1


@dataclass(frozen=True, slots=True)
class Media:
    """A row of ``media_files``, with the facts about its source where they are known."""

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
    """Always aware, in UTC."""
    facts: MediaFacts | None = None
    fallbacks: tuple[MediaFacts, ...] = ()
    """Lesser files of the same picture, made elsewhere, from which it is rendered when its own
    source cannot be had; in no order."""

    @property
    def source_path(self) -> str | None:
        """The original where there is one, else the processed file; below the storage root."""
        return self.bulk_path or self.library_path or None

    @property
    def source_paths(self) -> tuple[str, ...]:
        """Where its bytes may be, the first that is there counts."""
        return tuple(path for path in (self.bulk_path, self.library_path) if path)

    @property
    def completed(self) -> bool:
        """Whether processing is complete, so that answers may live for a year."""
        return self.status == MediaStatus.COMPLETED

    @property
    def in_progress(self) -> bool:
        """Whether the medium is on its way."""
        return self.status in (MediaStatus.DOWNLOADING, MediaStatus.PROCESSING)

    @property
    def servable(self) -> bool:
        """Whether there is something to serve: settled, or under way with its original there."""
        if self.completed:
            return self.source_path is not None
        return self.in_progress and bool(self.bulk_path)

    @property
    def row_version(self) -> str:
        """What changes whenever somebody changes the row; with the status within a second too.

        An original that was served while it came in is looked at again when it is there.
        """
        return f"{self.status} {self.updated_at.isoformat()}"

    def with_source(self, facts: MediaFacts) -> Media:
        """The medium as if one of its stand-ins were its source."""
        return replace(self, bulk_path=facts.source_path, library_path=None, facts=facts)

    @property
    def known_facts(self) -> MediaFacts | None:
        """The facts, unless the row names another file now or was changed since."""
        facts = self.facts
        if facts is None or facts.source_path != self.source_path:
            return None
        return facts if facts.row_version in ("", self.row_version) else None
