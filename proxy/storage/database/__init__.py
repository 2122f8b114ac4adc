"""The media database: rows in, rows out; SQLite embedded, MariaDB or MySQL beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.domain.media import DataType, Media, MediaFacts, MediaStatus


@dataclass(frozen=True, slots=True)
class NewMedia:
    """A row to be added to ``media_files``."""

    user_id: int
    data_type: DataType
    original_name: str
    mime_type: str
    file_size: int
    bulk_path: str | None
    """Below the storage root; None where there is no original."""
    status: MediaStatus
    main_api_id: int = 0
    """Id in the main database's ``pending_images``; 0 for what was never there."""
    library_path: str | None = None
    """Below the storage root: a processed file of the same picture."""


@dataclass(frozen=True, slots=True)
class MediaPaths:
    """Where the files of a row are said to be, as its writer wrote it."""

    media_id: int
    bulk_path: str | None
    library_path: str | None


class MediaDatabase(Protocol):
    """What serving a picture asks of the database.

    Every method raises `proxy.domain.errors.DatabaseUnavailable` where the database cannot be
    asked in time; none leaves a connection behind when cancelled.
    """

    async def find(self, media_id: int) -> Media | None:
        """The row with its facts, or None."""

    async def save_facts(self, media_id: int, facts: MediaFacts) -> None:
        """Keep what was learned about a source, in place of what was known before."""

    async def forget_facts(self, media_id: int) -> None:
        """Drop what was learned about a source, so that it is learned again."""

    async def ping(self) -> None:
        """Return when the database answers a query."""


class MediaCatalogue(MediaDatabase, Protocol):
    """What filling and listing ask of the database besides."""

    async def add(self, new: NewMedia, facts: MediaFacts) -> int:
        """Add a row and its facts in one transaction; gives the new id."""

    async def find_by_hash(self, content_hash: str) -> Media | None:
        """The oldest servable row whose source has this content hash, or None."""

    async def ids_of(self, user_id: int, *, after: int = 0, limit: int = 1000) -> Sequence[int]:
        """Ids of a user's rows above ``after``, ascending, whatever their status."""

    async def ids(self, *, after: int = 0, limit: int = 1000) -> Sequence[int]:
        """Ids of servable rows above ``after``, ascending, for paging through all of them."""


class MediaListing(Protocol):
    """What showing the newest pictures asks of the database."""

    async def newest(self, *, before: int, limit: int) -> Sequence[Media]:
        """Servable rows with ids below ``before``, descending, with their facts."""


class AdoptionCatalogue(MediaCatalogue, Protocol):
    """What taking over files that another system made asks of the database besides."""

    async def paths(self, *, after: int = 0, limit: int = 1000) -> Sequence[MediaPaths]:
        """Rows above ``after`` by ascending id, whatever their status, with their paths."""

    async def add_stand_in(self, media_id: int, facts: MediaFacts) -> None:
        """Keep a file that may stand in for the source of a medium; equal content is kept once."""
