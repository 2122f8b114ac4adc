"""What keeps things, opened: database, originals, renditions; and the schema brought up to date."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import structlog

from proxy.domain.errors import ConfigurationError, DatabaseUnavailable
from proxy.domain.media import Media
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor, cancel
from proxy.serving.purge import PurgeService
from proxy.settings import DatabaseSettings, Settings
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import SqlMediaRepository, open_media_repository
from proxy.storage.database.row_cache import CachedMediaRepository
from proxy.storage.database.schema import MEDIA, DatabaseSchema, main_schema, needs_upgrade, upgrade
from proxy.storage.originals.local_store import LocalOriginals
from proxy.storage.originals.sweep import sweeping
from proxy.storage.renditions.tiered_store import TieredStore

_PREPARE_AGAIN_S = 1.0
"""How often a database that was away at the start is looked for."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StorageServices:
    """The rooms that keep things: database, originals, renditions."""

    catalogue: SqlMediaRepository
    database: CachedMediaRepository
    sources: LocalOriginals
    store: TieredStore
    forgetters: list[Callable[[int], None]]
    """Called with each medium that was purged, here or by another process."""
    purger: PurgeService
    writer: LeasedWriter
    """For the tables of the ingest worker."""

    async def purge(self, media_id: int) -> int:
        """Forget all that was made of a medium and learned about it; gives the files dropped."""
        return await self.purger.medium(media_id)

    def changed(self, media_id: int) -> None:
        """A row was written here: whatever of it is in memory is forgotten."""
        for forget in self.forgetters:
            forget(media_id)

    async def current(self, media_id: int) -> Media | None:
        """The row as it stands in the database now."""
        self.database.invalidate(media_id)
        return await self.database.find(media_id)


@asynccontextmanager
async def open_storage(
    settings: Settings, supervisor: TaskSupervisor = UNCOUNTED
) -> AsyncIterator[StorageServices]:
    """Open database, originals and renditions; close them in the end."""
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(_make_directories, settings)
        await stack.enter_async_context(database_prepared(settings, supervisor))
        catalogue = await stack.enter_async_context(
            open_media_repository(settings.database_url, settings.database)
        )
        database = CachedMediaRepository(catalogue, settings.database)
        stack.push_async_callback(database.aclose)
        sources = LocalOriginals(settings.storage_root, settings.storage)
        stack.push_async_callback(sources.aclose)
        await stack.enter_async_context(sweeping(str(settings.storage_root), supervisor))
        forgetters: list[Callable[[int], None]] = [database.invalidate]

        def forget(media_id: int) -> None:
            for one in forgetters:
                one(media_id)

        store = TieredStore(
            settings.rendition_directory,
            settings.renditions,
            on_purge=forget,
            supervisor=supervisor,
        )
        await stack.enter_async_context(store)
        purger = PurgeService(
            rows=database, catalogue=catalogue, store=store, forgetters=forgetters
        )
        writer = _writer(settings)
        stack.push_async_callback(writer.aclose)
        yield StorageServices(catalogue, database, sources, store, forgetters, purger, writer)


def _writer(settings: Settings) -> LeasedWriter:
    """Its connections: one for each upload at work, for its lease, and for a question beside."""
    size = min(settings.database.pool_size, settings.ingest.concurrency + 2)
    section = settings.database.model_copy(update={"pool_size": size})
    return LeasedWriter(settings.database_url, section, lease_s=settings.ingest.lease_s)


def _make_directories(settings: Settings) -> None:
    """What lies in the data directory is made; places of the operator's own have to be there."""
    for own, path in (
        (not settings.database.url, settings.data_path),
        (not settings.storage.root, settings.storage_root),
        (not settings.renditions.directory, settings.rendition_directory),
    ):
        if own:
            with suppress(OSError):
                path.mkdir(parents=True, exist_ok=True)


@asynccontextmanager
async def database_prepared(
    settings: Settings, supervisor: TaskSupervisor = UNCOUNTED
) -> AsyncIterator[None]:
    """Bring the schema up to date, or refuse to start with one that is not.

    A database that cannot be reached is no reason not to start: it is prepared within the block
    once it is back, and pictures are served from then on.

    Raises:
        ConfigurationError: the schema is old, and `upgrade_on_start` is off or not allowed.
    """
    later: list[asyncio.Task[None]] = []
    try:
        await _prepare_database(settings)
    except DatabaseUnavailable as error:
        log.warning("database_unavailable_at_start", cause=repr(error.__cause__))
        later.append(
            supervisor.start(BackgroundTask.SCHEMA_UPGRADE, partial(_prepare_later, settings))
        )
    try:
        yield
    finally:
        await cancel(*later)


async def _prepare_later(settings: Settings) -> None:
    """Try until it is done, by this process or by `db upgrade`; why it may not be is told once."""
    told: tuple[str, ...] = ()
    while True:
        await asyncio.sleep(_PREPARE_AGAIN_S)
        try:
            await _prepare_database(settings)
        except DatabaseUnavailable:
            continue
        except ConfigurationError as error:
            if error.faults != told:
                log.warning("database_not_prepared", faults=error.faults)
            told = error.faults
        else:
            return


def schemas(settings: Settings) -> list[tuple[str, DatabaseSchema]]:
    """Which tables are to be in which database, by its URL."""
    main = (settings.main_url, main_schema(own=not settings.main.url))
    return [(settings.database_url, MEDIA), *([main] if settings.main.enabled else [])]


async def _prepare_database(settings: Settings) -> None:
    """As `database_prepared`; raises DatabaseUnavailable where one cannot be reached."""
    for url, schema in schemas(settings):
        await _prepare(url, settings.database, schema)


async def _prepare(url: str, section: DatabaseSettings, schema: DatabaseSchema) -> None:
    if not await needs_upgrade(url, section, schema=schema):
        return
    advice = "run 'smartserve db upgrade' with an account that may change it"
    if not section.upgrade_on_start:
        raise ConfigurationError([f"database: its schema is not up to date; {advice}"])
    try:
        await upgrade(url, section, schema=schema)
    except DatabaseUnavailable as error:
        cause = error.__cause__
        raise ConfigurationError(
            [f"database: its schema cannot be brought up to date ({cause}); {advice}"]
        ) from error
