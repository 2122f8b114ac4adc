"""Extracts metadata for routes, jobs, sockets and the ingest step, with a cache, limits and tiers.

The engines start with the first file: until then they cost neither start time nor memory.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import structlog

from proxy.domain.errors import (
    BodyTooLarge,
    ConfigurationError,
    CreditsInsufficient,
    EmptyFile,
    EngineStartFailed,
    ExtractionQueueFull,
    ExtractionTimeout,
    QueueFull,
    ShuttingDown,
)
from proxy.metadata.extraction import (
    IDLE_STATISTICS,
    PROGRESS,
    Extraction,
    ExtractOptions,
    Progress,
    Tier,
)
from proxy.metadata.formats import DETECT_BYTES
from proxy.metadata.tiers import TierLimits, check_allowed, limits_of, too_large, withhold
from proxy.runtime.single_flight import SharedResults
from proxy.settings import MetadataSettings

if TYPE_CHECKING:
    from proxy.metadata.service import MetadataService
    from proxy.metadata.temp_folder import ReceivedFile

_RETRY_AFTER_S = 5
_RESTART_S = 5.0
"""After the engines did not start, further files are refused for this time."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What an extraction depends on."""

    sha256: str
    """Of the file, in hexadecimal digits."""
    variant: str
    """Hash of all else: versions of the engines, schema, settings and options."""

    @property
    def name(self) -> str:
        """The name of the file's entry; an entry of another `variant` is outdated."""
        return f"metadata:{self.sha256}"


class ExtractionCache(Protocol):
    """Stores complete extractions. A failure of the cache is never one of the extraction."""

    async def get(self, key: CacheKey) -> Extraction | None:
        """Return the extraction that was stored with this key, if it is still valid."""

    async def put(self, key: CacheKey, extraction: Extraction) -> None:
        """Store an extraction."""


class Credits(Protocol):
    """Pays for extractions."""

    async def charge(self, user: int | None, operation: str) -> bool:
        """Charge a user for an operation; return False if that is impossible.

        ``user`` is None for MEDIA_API_KEY and for requests without a token.
        """


class FreeCredits:
    """Every operation is free."""

    async def charge(self, user: int | None, operation: str) -> bool:
        """Return True."""
        del user, operation
        return True


class Extractor:
    """Extracts metadata. `aclose` ends the engines."""

    def __init__(
        self,
        settings: MetadataSettings,
        open_service: Callable[[], AbstractAsyncContextManager[MetadataService]],
        *,
        processes: int,
        cache: ExtractionCache | None = None,
        credits: Credits | None = None,  # noqa: A002 - the name in the requirements
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``processes`` is the number of files that are read at the same time."""
        self._settings = settings
        self._open = open_service
        self._cache = cache
        self.credits: Credits = credits or FreeCredits()
        self._clock = clock
        self.limits: Mapping[Tier, TierLimits] = limits_of(settings)
        self.processes = processes
        """Number of files that are read at the same time."""
        self.uses_exiftool = settings.engine == "exiftool"
        """Whether the settings demand exiftool; otherwise Pillow is the chosen engine."""
        self.service: MetadataService | None = None
        """The engines, once they have started."""
        self._starting: SharedResults[MetadataService] = SharedResults()
        self._stack = AsyncExitStack()
        self._not_before = -math.inf
        # As many uploads as may wait in the queue may also arrive or wait for a place in it. So a
        # burst of twice the queue is accepted, and the use of the disk is bounded.
        self._max_uploads = processes + 2 * settings.queue
        self._places = asyncio.Semaphore(processes + settings.queue)
        self._uploads = 0
        self._draining = False
        self._counts: Counter[str] = Counter()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count an upload while the block runs. Enter it before the body is read.

        Raises:
            ExtractionQueueFull: too many uploads arrive or wait.
            ShuttingDown: the server is stopping.
        """
        if self._draining:
            self._counts["rejected_shutdown"] += 1
            raise ShuttingDown("The server is stopping. Retry.", retry_after_s=_RETRY_AFTER_S)
        if self._uploads >= self._max_uploads:
            raise self._queue_full()
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    def _queue_full(self) -> ExtractionQueueFull:
        self._counts["rejected_queue_full"] += 1
        return ExtractionQueueFull(
            "Too many files wait for their extraction. Retry later.", retry_after_s=_RETRY_AFTER_S
        )

    def drain(self) -> None:
        """Admit no further uploads; those that arrive or wait are still extracted."""
        self._draining = True

    @asynccontextmanager
    async def receive(
        self,
        chunks: AsyncIterator[bytes],
        *,
        tier: Tier = Tier.ENTERPRISE,
        expected_bytes: int = 0,
    ) -> AsyncIterator[ReceivedFile]:
        """Store a file while it arrives; it is deleted after the block.

        ``expected_bytes`` is the size that the client has announced, or 0. The error for a file
        above the limit of its tier names a tier that allows this size.

        Raises:
            EmptyFile: it has no bytes.
            UnknownImageFormat: it is of no supported format; the rest is not read.
            TierInsufficient: its size or format needs a higher tier.
            FileTooLarge: it exceeds the limits of all tiers.
            EngineStartFailed: the engines cannot be started.
            UploadStorageError: the disk is full or failed.
        """
        service = await self.started()
        with service.new_file(max_bytes=self.limits[tier].max_bytes) as file:
            checked = False
            async for chunk in chunks:
                try:
                    await file.write(chunk)
                except BodyTooLarge:
                    # A higher tier would not help a file of no format.
                    check_allowed(tier, self.limits, byte_size=0, head=file.head)
                    raise too_large(self.limits, max(expected_bytes, file.byte_size)) from None
                if not checked and file.byte_size >= DETECT_BYTES:
                    checked = True
                    check_allowed(tier, self.limits, byte_size=0, head=file.head)
            await file.finish()
            self.check(file, ExtractOptions(tier=tier))
            yield file

    def check(self, file: ReceivedFile, options: ExtractOptions) -> None:
        """Check that the tier of the options allows the extraction of a received file.

        Raises:
            EmptyFile: it has no bytes.
            SmartserveError: see `check_allowed`.
        """
        if not file.byte_size:
            raise EmptyFile("The file is empty.")
        check_allowed(
            options.tier,
            self.limits,
            byte_size=file.byte_size,
            head=file.head,
            advanced=options.advanced,
        )

    async def started(self) -> MetadataService:
        """Return the service; start it if it does not run.

        Raises:
            EngineStartFailed: it cannot be started, or could not a moment ago.
        """
        return self.service or await self._starting.result("", self._start)

    async def _start(self) -> MetadataService:
        if self._clock() < self._not_before:
            raise EngineStartFailed(_NOT_STARTED, retry_after_s=_RETRY_AFTER_S)
        # The engines outlive the request that starts them: their log lines must not have its id.
        structlog.contextvars.clear_contextvars()
        async with AsyncExitStack() as stack:
            try:
                service = await stack.enter_async_context(self._open())
            except ConfigurationError as error:
                self._not_before = self._clock() + _RESTART_S
                self._counts["failed_starts"] += 1
                log.warning("metadata_start_failed", category="spawn", reasons=error.faults)
                raise EngineStartFailed(_NOT_STARTED, retry_after_s=_RETRY_AFTER_S) from error
            self._stack, self.service = stack.pop_all(), service
        return service

    async def charge(self, user: int | None, operation: str) -> None:
        """Charge a user for an operation.

        Raises:
            CreditsInsufficient: that is impossible.
        """
        if not await self.credits.charge(user, operation):
            self._counts["rejected_credits"] += 1
            raise CreditsInsufficient("Your credits do not suffice for this operation.")

    async def extract(
        self,
        file: ReceivedFile,
        options: ExtractOptions = ExtractOptions(),  # noqa: B008 - it is frozen
        *,
        progress: Progress = lambda _percent, _stage: None,
    ) -> Extraction:
        """Extract the metadata of a received file, and withhold what the tier may not see.

        Raises:
            TierInsufficient: the file or the analysis needs a higher tier.
            SmartserveError: see `MetadataService.extract`; the queue's errors have other classes.
        """
        # Routes have checked it already; jobs, sockets and steps have not.
        self.check(file, options)
        service = await self.started()
        key = CacheKey(file.sha256, service.variant(options))
        found = None if self._cache is None else await self._cache.get(key)
        if found is None:
            found = await self._extract(service, file, options, progress)
            # If exiftool timed out or died, the result of the fallback is not stored: the next
            # extraction may return more.
            lasting = service.missing or not found.processing_insights["fallback_extraction"]
            if self._cache is not None and lasting:
                await self._cache.put(key, found)
            self._counts["extracted"] += 1
        else:
            self._counts["cached"] += 1
            insights = {**found.processing_insights, "cached": True, "queued_ms": 0.0}
            found = replace(found, processing_insights=insights)
            progress(PROGRESS["complete"], "complete")
        return withhold(found, options.tier)

    async def _extract(
        self,
        service: MetadataService,
        file: ReceivedFile,
        options: ExtractOptions,
        progress: Progress,
    ) -> Extraction:
        try:
            # Includes the wait for a place here and the wait in the queue.
            async with asyncio.timeout(self._settings.timeout_s), self._places:
                return await service.extract(file, options, progress=progress)
        except TimeoutError:
            # The limit of the service began later, so this one ends first.
            service.count_timeout(file)
            limit = f"{self._settings.timeout_s:g} s"
            raise ExtractionTimeout(
                f"The extraction took longer than {limit}. Retry later."
            ) from None
        except QueueFull as error:
            raise self._queue_full() from error

    def statistics(self) -> Mapping[str, float]:
        """Return uploads under way, results by origin, rejections, and the engines' figures."""
        engines = IDLE_STATISTICS if self.service is None else self.service.statistics()
        counts = {name: self._counts[name] for name in COUNTS}
        return {"uploads": self._uploads, **counts, **engines}

    async def aclose(self) -> None:
        """End the engines; files that are being extracted fail."""
        self._draining = True
        await self._starting.aclose()
        self.service = None
        await self._stack.aclose()


COUNTS = (
    *("extracted", "cached", "failed_starts"),
    *("rejected_queue_full", "rejected_shutdown", "rejected_credits"),
)
"""Counters of `Extractor.statistics`."""
_NOT_STARTED = "The engines cannot be started; the log of the server has the reason."
