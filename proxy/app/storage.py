"""Builds the storage subsystem and brings the database schema up to date."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from proxy.app.object_storage import build_object_tier, check_object_storage
from proxy.app.originals import build_originals, on_web_servers
from proxy.domain.errors import ConfigurationError, DatabaseUnavailable
from proxy.domain.render_plan import PurgeEpochs
from proxy.runtime.redis import RedisLink
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.serving.purge import PurgeService
from proxy.serving.purge_feed import PurgeFeed
from proxy.serving.wake_up import WakeUp
from proxy.settings import ClusterSettings, Settings
from proxy.storage.database.choices import AltTextRepository, ChoicesRepository
from proxy.storage.database.driver_errors import driver_error
from proxy.storage.database.embeddings import EmbeddingRepository
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import AnalysisRepository, SqlMediaRepository
from proxy.storage.database.metadata_store import MetadataStore
from proxy.storage.database.purge_table import PurgeTable
from proxy.storage.database.row_cache import CachedMediaRepository
from proxy.storage.database.schema import (
    MEDIA,
    DatabaseSchema,
    inspect_version,
    main_schema,
    upgrade,
)
from proxy.storage.originals import Originals
from proxy.storage.originals.local_store import LocalOriginals
from proxy.storage.originals.sweep import sweeping
from proxy.storage.renditions.purge_journal import PurgeJournal
from proxy.storage.renditions.tiered_store import TieredStore

if TYPE_CHECKING:
    # Imports obstore, which a server without buckets does not need.
    from proxy.storage.originals.http_store import HttpOriginals
    from proxy.storage.renditions.object_tier import ObjectTier

_DELETE_ORPHANS_EVERY_S = 3600.0
_PREPARE_AGAIN_S = 1.0
"""Interval for retrying a database that was unavailable at the start."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StorageServices:
    """The database, the originals and the renditions."""

    repository: SqlMediaRepository
    database: CachedMediaRepository
    """`repository` behind the row cache."""
    originals: Originals
    """Of all rows."""
    local_originals: LocalOriginals
    """Of uploads and imports: it can be written."""
    http_originals: HttpOriginals | None
    """Of other web servers; None if `http.hosts` is empty."""
    renditions: TieredStore
    invalidators: list[Callable[[int], None]]
    """Called with a media id after its row, source or renditions changed, on any server."""
    changed: Callable[[int], None]
    """Calls all of them with a media id, here and soon on other servers; for whoever has written
    a row."""
    epochs: PurgeEpochs
    """For the planner: purges of all media, and of those of users."""
    purger: PurgeService
    purge_feed: PurgeFeed
    writer: LeasedWriter
    """For the tables that only the holder of a lease may write."""
    analyses: AnalysisRepository
    embeddings: EmbeddingRepository
    metadata: MetadataStore
    choices: ChoicesRepository
    alt_texts: AltTextRepository
    redis: RedisLink | None
    """None if `cluster.redis_url` is not set. Subscribe to it before the process serves."""


def _values_of_answers(columns: Mapping[str, Any]) -> dict[str, Any]:
    # Imports the HTTP client, which short commands do not need.
    from proxy.analysis.providers.factory import values_of_answers  # noqa: PLC0415

    return values_of_answers(columns)


@asynccontextmanager
async def open_storage(
    settings: Settings,
    supervisor: TaskSupervisor = UNCOUNTED,
    *,
    on_change: Callable[[], None] | None = None,
) -> AsyncIterator[StorageServices]:
    """Open the database, the originals and the renditions; close them after the block.

    ``on_change`` is called after a purge or a change of a row was committed here.
    """
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(_make_directories, settings)
        # Before the first query: the tables may not exist yet.
        await stack.enter_async_context(database_prepared(settings, supervisor))
        repository = await stack.enter_async_context(
            SqlMediaRepository(
                settings.database_url, settings.database, faces=settings.faces.enabled
            )
        )
        database = CachedMediaRepository(repository, settings.database)
        stack.push_async_callback(database.aclose)
        local_originals = LocalOriginals(settings.storage_root, settings.storage)
        if settings.s3.enabled:
            await check_object_storage(settings)
        originals = build_originals(settings, local_originals)
        stack.push_async_callback(originals.aclose)
        http_originals = on_web_servers(originals)
        if http_originals is not None:
            database.invalidators.append(partial(_expire_original, database, http_originals))
        await stack.enter_async_context(sweeping(str(settings.storage_root), supervisor))
        renditions = await stack.enter_async_context(_open_renditions(settings, supervisor))
        # A connection for each concurrent upload, one for leases, and one for reports.
        size = min(settings.database.pool_size, settings.ingest.concurrency + 2)
        section = settings.database.model_copy(update={"pool_size": size})
        writer = LeasedWriter(settings.database_url, section, lease_s=settings.ingest.lease_s)
        stack.push_async_callback(writer.aclose)
        table = PurgeTable(
            reader=repository, writer=writer, retention_days=settings.database.purge_retention_days
        )
        journal = PurgeJournal(str(settings.rendition_directory))
        redis = redis_link(settings.cluster) if settings.cluster.redis_url else None
        wake_up: WakeUp | None = None
        if redis is not None:
            stack.push_async_callback(redis.aclose)
            wake_up = WakeUp(redis, server=table.server)
            stack.push_async_callback(wake_up.aclose)
        epochs = PurgeEpochs()

        on_commit: list[Callable[[], object]] = [] if on_change is None else [on_change]
        if wake_up is not None:
            on_commit.append(wake_up.send)
        purger = PurgeService(
            rows=database,
            catalogue=repository,
            table=table,
            journal=journal,
            store=renditions,
            epochs=epochs,
            on_commit=on_commit,
        )
        stack.push_async_callback(purger.aclose)
        feed = PurgeFeed(
            table=table,
            purger=purger,
            rows=database,
            journal=journal,
            store=renditions,
            query_timeout_s=settings.database.query_timeout_s,
        )
        stack.push_async_callback(feed.aclose)
        metadata = MetadataStore(reader=repository, writer=writer)
        await stack.enter_async_context(
            supervisor.running(
                BackgroundTask.METADATA_ORPHANS,
                partial(_delete_orphans, metadata),
                every_s=_DELETE_ORPHANS_EVERY_S,
                first_after_s=_DELETE_ORPHANS_EVERY_S,
            )
        )
        # Before anything is served: purges may have been missed.
        await feed.sync()
        if wake_up is not None:
            wake_up.on_message(feed.wake)
        await stack.enter_async_context(supervisor.running(BackgroundTask.PURGE_SYNC, feed.run))

        yield StorageServices(
            repository=repository,
            database=database,
            originals=originals,
            local_originals=local_originals,
            http_originals=http_originals,
            renditions=renditions,
            invalidators=database.invalidators,
            # Without other servers, one module less is crossed.
            changed=partial(_change, database.changed, on_commit)
            if on_commit
            else database.changed,
            epochs=epochs,
            purger=purger,
            purge_feed=feed,
            writer=writer,
            analyses=AnalysisRepository(writer, _values_of_answers),
            embeddings=EmbeddingRepository(writer),
            metadata=metadata,
            choices=ChoicesRepository(writer, server=table.server),
            alt_texts=AltTextRepository(reader=repository, writer=writer, server=table.server),
            redis=redis,
        )


def _change(
    changed: Callable[[int], None], on_commit: Sequence[Callable[[], object]], media_id: int
) -> None:
    changed(media_id)
    for call in on_commit:
        call()


def redis_link(section: ClusterSettings) -> RedisLink:
    """Return a link to the Redis of `cluster.redis_url`, which connects when it is used."""
    return RedisLink(
        section.redis_url, prefix=section.redis_prefix, timeout_s=section.redis_timeout_s
    )


def _expire_original(rows: CachedMediaRepository, originals: HttpOriginals, media_id: int) -> None:
    # Who purges an image whose original has changed must not get it from the kept copy.
    media = rows.cached_row(media_id)
    for path in () if media is None else media.source_paths:
        originals.expire(path)


@asynccontextmanager
async def _open_renditions(
    settings: Settings, supervisor: TaskSupervisor
) -> AsyncIterator[TieredStore]:
    async with AsyncExitStack() as stack:
        objects: ObjectTier | None = None
        if settings.s3.renditions:
            objects = build_object_tier(settings, supervisor)
            await stack.enter_async_context(objects)
        renditions = TieredStore(
            settings.rendition_directory,
            settings.renditions,
            supervisor=supervisor,
            objects=objects,
        )
        yield await stack.enter_async_context(renditions)


async def _delete_orphans(metadata: MetadataStore) -> None:
    # The next run deletes what this one could not.
    with suppress(DatabaseUnavailable):
        await metadata.delete_orphans()


def _make_directories(settings: Settings) -> None:
    """Create the directories below the data directory; configured ones must already exist."""
    for own, path in (
        (not settings.database.url, settings.data_path),
        (not settings.storage.root, settings.storage_root),
        (not settings.renditions.directory, settings.rendition_directory),
    ):
        if own:
            # A failure is reported by the first use, which says what was needed and why.
            with suppress(OSError):
                path.mkdir(parents=True, exist_ok=True)


@asynccontextmanager
async def database_prepared(
    settings: Settings, supervisor: TaskSupervisor = UNCOUNTED
) -> AsyncIterator[None]:
    """Bring the schema up to date before the block, or refuse to start.

    If the database cannot be reached, the block runs anyway, and a background task upgrades the
    schema as soon as the database is back. Images are served from then on.

    Raises:
        ConfigurationError: the schema is old, and `upgrade_on_start` is off or not permitted.
    """
    retrying: AbstractAsyncContextManager[object] = nullcontext()
    try:
        await _prepare_database(settings)
    except DatabaseUnavailable as error:
        log.warning("database_unavailable_at_start", cause=error.reason)
        retry = partial(_prepare_later, settings)
        retrying = supervisor.running(BackgroundTask.SCHEMA_UPGRADE, retry)
    async with retrying:
        yield


async def _prepare_later(settings: Settings) -> None:
    """Retry until the schema is current; each reason that prevents it is logged once."""
    logged: tuple[str, ...] = ()
    while True:
        await asyncio.sleep(_PREPARE_AGAIN_S)
        try:
            await _prepare_database(settings)
        except DatabaseUnavailable:
            continue
        except ConfigurationError as error:
            # Not fatal any more: the server runs, and an operator may upgrade the schema meanwhile.
            if error.faults != logged:
                log.warning("database_not_prepared", faults=error.faults)
            logged = error.faults
        else:
            return


def schemas(settings: Settings) -> list[tuple[str, DatabaseSchema]]:
    """Return the required schemas with the URL of their database."""
    main = (settings.main_url, main_schema(own=not settings.main.url))
    return [(settings.database_url, MEDIA), *([main] if settings.main.enabled else [])]


async def _prepare_database(settings: Settings) -> None:
    """As `database_prepared`, but raise DatabaseUnavailable if a database cannot be reached."""
    section = settings.database
    advice = "run 'smartserve db upgrade' with an account that may change the schema"
    for url, schema in schemas(settings):
        _, outdated = await inspect_version(url, section, schema=schema)
        if not outdated:
            continue
        if not section.upgrade_on_start:
            raise ConfigurationError([f"database: the schema is not up to date; {advice}"])
        try:
            await upgrade(url, section, schema=schema)
        except DatabaseUnavailable as error:
            # Slow, or another process is upgrading it: retried while the server runs.
            if isinstance(driver_error(error), TimeoutError):
                raise
            # The database is reachable, its version has been read: the upgrade itself failed.
            fault = f"database: the schema cannot be upgraded ({error.reason}); {advice}"
            raise ConfigurationError([fault]) from error
