"""The installation under examination, and the ways to reach each of its parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.doctor.probe import HttpProbe, ImageResponses
from proxy.domain.media import Media
from proxy.domain.upload import QueueReport
from proxy.ingest.main_api import MainApi
from proxy.metadata.service import MetadataService
from proxy.rendering.pool.pool import WorkerPool
from proxy.runtime.redis import RedisCheck
from proxy.settings import Settings
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.schema import DatabaseSchema
from proxy.storage.originals import Originals

if TYPE_CHECKING:
    from proxy.storage.originals.http_store import HttpOriginals


@dataclass(slots=True)
class Installation:
    """What is examined. Opening a part, such as ``rows``, is left to the check that needs it."""

    settings: Settings
    config: Path | None
    startup_faults: Callable[[Settings], list[str]]
    """The checks that the server makes before it starts; may block on name resolution."""
    bucket_faults: Callable[[], Awaitable[Sequence[tuple[str, str, str, bool]]]]
    """Checks the buckets of `[s3]`: setting, address, reason, whether the storage refused."""
    redis: Callable[[], Awaitable[RedisCheck]] | None
    """Sends the commands that servers need; None if `cluster.redis_url` is not set."""
    schemas: Sequence[tuple[str, DatabaseSchema]]
    """Database URLs and the schema required in each."""
    rows: Callable[[], AbstractAsyncContextManager[SqlMediaRepository]]
    """Raises DatabaseUnavailable rather than create an SQLite file."""
    sources: Originals
    worker: Callable[[], AbstractAsyncContextManager[WorkerPool]]
    """Starts one worker process and stops it at the end of the block."""
    face_worker: Callable[[], AbstractAsyncContextManager[WorkerPool]]
    """As ``worker``, for the process that detects faces."""
    metadata: Callable[[], AbstractAsyncContextManager[MetadataService]]
    """Starts the processes that extract metadata, one of each kind; stops them after the block."""
    main_api: Callable[[], AbstractAsyncContextManager[MainApi]]
    queue: Callable[[], Awaitable[QueueReport]] | None
    """None if this installation does not process uploads."""
    server: HttpProbe
    """Sends requests to the server itself."""
    public: HttpProbe | None
    """Sends requests through the reverse proxy; None if there is none."""
    http_originals: HttpOriginals | None = None
    """None if `http.hosts` is empty."""
    media_id: int | None = None
    """An image that is not displayed, named by the operator."""
    media: Media | None = None
    """The image to request; set by the checks of the originals, or of ``media_id``."""
    responses: ImageResponses | None = None
    """The server's own responses for ``media``, set by the checks of the served image."""
