"""Builds the main API: the upload routes, the queue of uploads, and its background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import structlog

from proxy.domain.errors import SmartserveError
from proxy.domain.urls import images_base
from proxy.ingest.uploads.preview import UploadPreviews
from proxy.ingest.uploads.tempfile_sweep import TempfileSweeper
from proxy.ingest.uploads.upload_queue import Uploader, UploadQueue
from proxy.ingest.uploads.url_replacement import UrlReplacer
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.settings import NO_KEY_ADVICE, Settings, TokenKey, media_api_key, token_key
from proxy.storage.database.upload_repository import (
    UploadLimits,
    UploadQuota,
    UploadRepository,
    UploadResults,
)
from proxy.storage.upload_files import UploadFiles
from proxy.telemetry.metrics import Metrics
from proxy.web.auth import AuthFailure, FailureLimit, KeyGuard, TokenVerifier
from proxy.web.handlers.media_api import MediaApiHandler
from proxy.web.handlers.uploads import QUOTA, REASONS, UploadHandler
from proxy.web.server.response_cache import ParseQuery

_SWEEP_EVERY_S = 600.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UploadServices:
    """The services of the main API."""

    settings: Settings
    queue: UploadQueue
    results: UploadResults
    quota: UploadQuota
    replacer: UrlReplacer
    sweeper: TempfileSweeper
    media_key: str = field(repr=False)
    token_key: TokenKey
    on_upload: Callable[[], None]
    """Called after new uploads were added to the queue."""

    def uploads(self, metrics: Metrics, source_types: Collection[str]) -> UploadHandler:
        """Return the handler of uploads, which accepts files of these types."""
        section = self.settings.main
        uploader = Uploader(
            queue=self.queue,
            quota=self.quota,
            source_types=source_types,
            max_file_bytes=section.max_file_bytes,
            metrics=metrics,
            on_upload=self.on_upload,
        )
        users = TokenVerifier(
            key=self.token_key,
            section=self.settings.users,
            limit=failure_limit(self.settings),
            on_refusal=metrics.refusals(AuthFailure),
        )
        return UploadHandler(
            users=users,
            uploader=uploader,
            replacer=self.replacer,
            timeout_s=section.upload_timeout_s,
            stall_s=section.upload_stall_s,
            # Several errors have the same reason.
            on_refusal=metrics.upload_refusals(sorted({*REASONS.values(), QUOTA})),
        )

    def media_api(
        self, metrics: Metrics, previews: UploadPreviews, parse_query: ParseQuery
    ) -> MediaApiHandler:
        """Return the handler of the routes for ingest workers."""
        return MediaApiHandler(
            guard=new_guard(self.settings, metrics, self.media_key),
            queue=self.queue,
            replacer=self.replacer,
            previews=previews,
            parse_query=parse_query,
            preview_s=self.settings.lifetimes.processing_s,
            stall_s=self.settings.main.upload_stall_s,
        )

    @asynccontextmanager
    async def running(
        self, base_url: str, metrics: Metrics, supervisor: TaskSupervisor = UNCOUNTED
    ) -> AsyncIterator[None]:
        """Replace URLs and sweep temporary files, now and periodically, while the block runs.

        ``base_url`` is the server's own address, with the port it listens on.
        """
        # Only now: with port 0 the system chose the port when the server began to listen.
        self.replacer.base_url = images_base(self.settings.main.smart_media_base_url, base_url)

        fault = self.settings.unreachable_fault(self.replacer.base_url)
        self.replacer.reachable = not fault
        if fault:
            # An address in a profile stays there for ever, so a wrong one is worse than none.
            log.warning("addresses_not_replaced", reason=fault)

        async def replace() -> None:
            if not fault:
                await self.replacer.run()
            metrics.pending_images(await self.queue.database.count_by_status())

        async def sweep() -> None:
            try:
                await self.sweeper.run()
            finally:
                metrics.lost_uploads(await self.queue.files.count_set_aside())

        replacing = supervisor.running(
            BackgroundTask.URL_REPLACEMENT,
            partial(_try_round, "replacement", replace),
            every_s=self.settings.main.replace_interval_s,
        )
        sweeping = supervisor.running(
            BackgroundTask.UPLOAD_SWEEP,
            partial(_try_round, "sweep", sweep),
            every_s=_SWEEP_EVERY_S,
        )
        # Two tasks: a sweep of a slow directory must not delay the addresses of users' images.
        async with replacing, sweeping:
            yield


async def _try_round(name: str, work: Callable[[], Awaitable[object]]) -> None:
    """Run one round. An expected error is logged, and the next round tries again."""
    try:
        await work()
    except SmartserveError as error:
        log.warning("round_failed", what=name, detail=error.detail, cause=error.reason)


@asynccontextmanager
async def open_uploads(
    settings: Settings, *, on_upload: Callable[[], None] = lambda: None
) -> AsyncIterator[UploadServices | None]:
    """Open the upload queue and its files, or yield None if the main API is disabled.

    `open_storage` must have brought the schema up to date.

    Raises:
        ConfigurationError: the URL of the database is invalid, or a key cannot be read.
    """
    section = settings.main
    if not section.enabled:
        yield None
        return
    async with AsyncExitStack() as stack:
        # In threads, because both read files.
        media_key = await asyncio.to_thread(media_api_key, section, settings.key_directory)
        users_key = await asyncio.to_thread(token_key, settings.users, settings.key_directory)
        if not section.temp_root:
            make = partial(settings.temp_root.mkdir, parents=True, exist_ok=True)
            # If this fails, uploads are rejected with the reason; images are served anyway.
            with suppress(OSError):
                await asyncio.to_thread(make)
        database = await stack.enter_async_context(
            UploadRepository(settings.main_url, settings.database, own=not section.url)
        )
        # In the media database: tables are added there, but not to the database of another program.
        limits = UploadLimits(section.max_uploads_per_day, section.max_bytes_per_day)
        quota = await stack.enter_async_context(
            UploadQuota(settings.database_url, settings.database, limits)
        )
        files = UploadFiles(settings.temp_root, timeout_s=section.upload_stall_s)
        stack.push_async_callback(files.aclose)
        results = await stack.enter_async_context(
            UploadResults(settings.database_url, settings.database)
        )
        queue = UploadQueue(database, files, results)
        yield UploadServices(
            settings=settings,
            queue=queue,
            results=results,
            quota=quota,
            # `running` sets the address again, with the port on which the server listens.
            replacer=UrlReplacer(queue, settings.images_base()),
            sweeper=TempfileSweeper(queue=queue),
            media_key=media_key,
            token_key=users_key,
            on_upload=on_upload,
        )


def failure_limit(settings: Settings) -> FailureLimit:
    """Return a limit of failed attempts per client address."""
    section = settings.admin
    return FailureLimit(max_failures=section.max_failures, window_s=section.failure_window_s)


def new_guard(settings: Settings, metrics: Metrics, key: str) -> KeyGuard:
    """Return a guard for a key."""
    return KeyGuard(
        key=key,
        # Only the admin key may be empty. A key of the media API is generated if none is set.
        advice=f"no key is set: {NO_KEY_ADVICE}",
        limit=failure_limit(settings),
        on_refusal=metrics.refusals(AuthFailure),
    )
