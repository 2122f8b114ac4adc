"""Builds the doctor's view of an installation; each part is opened by the check that needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

from proxy.app.ingest import has_worker, open_main_api
from proxy.app.object_storage import bucket_faults
from proxy.app.originals import build_originals, on_web_servers
from proxy.app.startup_checks import installation_faults
from proxy.app.storage import redis_link, schemas
from proxy.app.workers import face_worker, one_worker
from proxy.doctor.installation import Installation
from proxy.doctor.probe import HttpProbe
from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.upload import QueueReport
from proxy.metadata.start import open_metadata
from proxy.rendering.pool.admission import PATIENCE
from proxy.runtime.redis import RedisCheck
from proxy.runtime.supervised_task import UNCOUNTED
from proxy.settings import Settings
from proxy.storage.database.engine import sqlite_file
from proxy.storage.database.ingest_report import queue_report
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.originals.local_store import LocalOriginals

_MARGIN_S = 5.0


@asynccontextmanager
async def open_installation(
    settings: Settings,
    config: Path | None,
    *,
    url: str,
    public: str,
    media_id: int | None = None,
) -> AsyncIterator[Installation]:
    """Build an installation from its settings; the connections are closed at the end of the block.

    ``url`` is the server's own address, ``public`` that of the reverse proxy, empty if there is
    none, and ``media_id`` an image that is not displayed.
    """
    # Longer than any render may take: the server then responds first, with the reason.
    queue_s = PATIENCE * settings.workers.max_queue_wait_s
    render_s = settings.workers.deadline_s * settings.workers.wall_clock_factor
    timeout_s = queue_s + render_s + _MARGIN_S
    local = LocalOriginals(settings.storage_root, settings.storage)
    async with aclosing(build_originals(settings, local)) as sources:
        yield Installation(
            settings=settings,
            config=config,
            # Functions rather than results: each check opens what it needs and reports its error.
            startup_faults=installation_faults,
            bucket_faults=partial(bucket_faults, settings),
            redis=partial(_check_redis, settings) if settings.cluster.redis_url else None,
            schemas=schemas(settings),
            rows=partial(_open_rows, settings),
            sources=sources,
            http_originals=on_web_servers(sources),
            worker=partial(one_worker, settings),
            face_worker=partial(face_worker, settings, UNCOUNTED),
            metadata=partial(
                open_metadata,
                settings.metadata.model_copy(update={"engines": 1}),
                settings.workers,
            ),
            main_api=partial(open_main_api, settings, settings.ingest.main_api_url.rstrip("/")),
            queue=partial(_queue_report, settings) if has_worker(settings) else None,
            server=HttpProbe(url, timeout_s=timeout_s),
            public=HttpProbe(public, timeout_s=timeout_s) if public else None,
            media_id=media_id,
        )


async def _check_redis(settings: Settings) -> RedisCheck:
    async with aclosing(redis_link(settings.cluster)) as link:
        return await link.check()


def _open_rows(settings: Settings) -> SqlMediaRepository:
    _require_file(settings)
    return SqlMediaRepository(settings.database_url, settings.database)


async def _queue_report(settings: Settings) -> QueueReport:
    _require_file(settings)
    lease_s = settings.ingest.lease_s
    writer = LeasedWriter(settings.database_url, settings.database, lease_s=lease_s)
    async with aclosing(writer):
        return await queue_report(writer)


def _require_file(settings: Settings) -> None:
    """Raise DatabaseUnavailable if an SQLite file is missing: opening the database creates it."""
    file = sqlite_file(settings.database_url)
    if file is not None and not file.is_file():
        raise DatabaseUnavailable(f"there is no file {file}")
