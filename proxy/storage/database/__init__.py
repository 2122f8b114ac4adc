"""The media database: SQLite in the same process, or a MariaDB or MySQL server."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.domain.media import DataType, Media, MediaFacts, MediaStatus


def _import_engines() -> None:
    """Import the engines of sqlalchemy.ext.asyncio, but not its sessions.

    The sessions import the ORM, which nothing here uses: 80 ms and 8 MB. They are imported if
    another program in this process uses them.
    """
    name = "sqlalchemy.ext.asyncio"
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    loader, package = spec.loader, importlib.util.module_from_spec(spec)

    def load(missing: str) -> Any:
        # PEP 562: called for a name that the package has not got yet.
        del package.__getattr__
        loader.exec_module(package)
        return getattr(package, missing)

    sys.modules[name] = package
    engine = importlib.import_module(f"{name}.engine")
    for one in ("AsyncConnection", "AsyncEngine", "create_async_engine"):
        setattr(package, one, getattr(engine, one))
    package.__getattr__ = load  # type: ignore[method-assign]
    sys.modules["sqlalchemy.ext"].asyncio = package  # type: ignore[attr-defined]


_import_engines()


@dataclass(frozen=True, slots=True)
class NewMedia:
    """A row to insert into ``media_files``; its size and type are those of its facts."""

    user_id: int
    data_type: DataType
    original_name: str
    bulk_path: str | None
    """Path of the original below the storage root, or None."""
    status: MediaStatus = MediaStatus.COMPLETED
    library_path: str | None = None
    """Path of a processed file below the storage root, or None."""


@dataclass(frozen=True, slots=True)
class MediaPaths:
    """The paths that a row stores, unchecked."""

    media_id: int
    bulk_path: str | None
    library_path: str | None


class MediaRepository(Protocol):
    """What serving an image needs of the database.

    Each method raises `proxy.domain.errors.DatabaseUnavailable` if the database does not answer in
    time. A cancelled call returns its connection to the pool.
    """

    async def find(self, media_id: int) -> Media | None:
        """Return the row with its facts and fallbacks, or None."""

    async def find_many(self, media_ids: Collection[int]) -> Mapping[int, Media]:
        """Return the rows with these ids that exist, by id."""

    async def now(self) -> float:
        """Return the time on the database's clock, in seconds since 1970."""

    async def save_facts(self, media_id: int, facts: MediaFacts, *, since: float) -> bool:
        """Store the facts of a source and replace older ones; return whether they are stored.

        ``since`` is the result of `now` before the source was opened. If all renditions of the
        medium were purged since then, by any server, the source may be another one, and nothing is
        stored.
        """
