"""The doctor's round: from the settings inwards to the machine, then out to what is in front."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from proxy.doctor import (
    CheckBlocked,
    CheckResult,
    database,
    front,
    installation,
    judged,
    looked,
    machine,
    originals,
    picture,
    renditions,
    running,
    serving,
    skipped,
    table,
    uploads,
    workers,
)
from proxy.doctor.http_client import HttpProbe
from proxy.doctor.originals import OriginalsFacts
from proxy.doctor.picture import ImageFacts
from proxy.doctor.serving import ImageProbe
from proxy.doctor.uploads import OpenMainApi, UploadsFacts
from proxy.doctor.workers import Started
from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.ingest_item import QueueReport
from proxy.domain.media import Media
from proxy.settings import Settings
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.schema import DatabaseSchema
from proxy.storage.originals import SourceStore

OpenRows = Callable[[], AbstractAsyncContextManager[SqlMediaRepository]]
Queue = Callable[[], Awaitable[QueueReport]]


@dataclass(frozen=True, slots=True)
class Installation:
    """What is examined, and the ways to reach it."""

    settings: Settings
    config: Path | None
    startup_faults: installation.StartupFaults
    port: int | None
    """The server's, where it runs on this machine."""
    schemas: Sequence[tuple[str, DatabaseSchema]]
    rows: OpenRows
    sources: SourceStore
    worker: Started
    main_api: OpenMainApi
    queue: Queue | None
    """None where nobody works on uploads."""
    server: HttpProbe
    public: HttpProbe | None
    """Through what stands in front."""
    media_id: int | None = None
    """A picture that somebody misses."""


async def examine(one: Installation) -> AsyncIterator[tuple[CheckResult, ...]]:
    """Make all checks; gives the results of an area when it was looked at.

    One area after the other, so that none seems slow for another's sake.
    """
    settings = one.settings
    installed = await looked(installation.look(settings, one.config, one.startup_faults))
    yield tuple(judged(table.INSTALLATION, installed))
    yield tuple(judged(table.MACHINE, await looked(machine.look(settings, one.port))))
    ingest = one.queue is not None
    rows = await looked(database.look(settings, one.schemas, ingest=ingest))
    yield tuple(judged(table.DATABASE, rows))
    reached = not isinstance(rows, CheckBlocked)
    files = await looked(_originals(one, reached=reached))
    yield tuple(judged(table.ORIGINALS, files))
    yield tuple(judged(table.RENDITIONS, await looked(renditions.look(settings))))
    yield tuple(judged(table.WORKERS, await looked(workers.look(settings, one.worker))))
    yield tuple(judged(table.UPLOADS, await looked(_uploads(one, reached=reached))))
    media = files.there[0] if not isinstance(files, CheckBlocked) and files.there else None
    if one.media_id is not None:
        row = await looked(_row(one, one.media_id, reached=reached))
        yield tuple(judged(table.ROW, row))
        media = None if isinstance(row, CheckBlocked) else row.media
    async for results in _outside(one, media):
        yield results


async def _outside(
    one: Installation, media: Media | None
) -> AsyncIterator[tuple[CheckResult, ...]]:
    """The running server, and what is in front of it; ``media`` is the picture to ask for."""
    mark = secrets.token_hex(4)
    health = await looked(serving.look(one.server))
    figures = await looked(running.look(one.server))
    if not isinstance(health, CheckBlocked) and not isinstance(figures, CheckBlocked):
        health = replace(health, version=running.version_of(figures))
    yield tuple(judged(table.SERVER, health))
    yield tuple(judged(table.RUNNING, figures))
    if isinstance(health, CheckBlocked):
        tour: ImageProbe | CheckBlocked = CheckBlocked(skipped("the server does not answer"))
    else:
        tour = await looked(serving.look_at_picture(one.server, one.settings, media, mark))
    yield tuple(judged(table.PICTURE, tour))
    through = front.look(one.public, one.server, tour, one.settings, mark)
    yield tuple(judged(table.FRONT, await looked(through)))


async def _originals(one: Installation, *, reached: bool) -> OriginalsFacts:
    """A database that is not there is not opened: SQLite would make it."""
    if not reached:
        return await originals.look(one.settings, one.sources, None)
    async with one.rows() as rows:
        return await originals.look(one.settings, one.sources, rows)


async def _row(one: Installation, media_id: int, *, reached: bool) -> ImageFacts:
    if not reached:
        return await picture.look(one.settings, media_id, None, one.sources, one.worker)
    async with one.rows() as rows:
        return await picture.look(one.settings, media_id, rows, one.sources, one.worker)


async def _uploads(one: Installation, *, reached: bool) -> UploadsFacts:
    queue = one.queue if reached or one.queue is None else _out_of_reach
    return await uploads.look(one.settings, main_api=one.main_api, queue=queue)


async def _out_of_reach() -> QueueReport:
    raise DatabaseUnavailable("the database cannot be asked")
