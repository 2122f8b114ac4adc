"""Source facts: checks new files, and reads what is unknown of stored sources when needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import fields

from proxy.domain.errors import DecoderMissing, SourceTooLarge, UnsupportedSource
from proxy.domain.formats import SNIFF_BYTES, SOURCE_TRAITS, sniff
from proxy.domain.media import Media, MediaFacts, ProbeResult
from proxy.domain.worker_protocol import Limits, ProbeJob
from proxy.runtime.single_flight import SharedResults
from proxy.runtime.thread_pool import in_daemon_thread
from proxy.serving.job_dispatch import JobDispatcher
from proxy.storage.database.row_cache import CachedMediaRepository

_CHUNK_BYTES = 1024 * 1024


def to_facts(result: ProbeResult, source_path: str, *, row_version: str = "") -> MediaFacts:
    """Return the result of a probe in the form that the database stores."""
    # Not `asdict`, which would make a dict of the focus, too.
    facts = {field.name: getattr(result, field.name) for field in fields(result)}
    return MediaFacts(**facts, source_path=source_path, row_version=row_version)


class SourceFactsService:
    """Reads the facts of sources in a worker and stores them in the database."""

    def __init__(
        self, *, database: CachedMediaRepository, dispatcher: JobDispatcher, limits: Limits
    ) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._limits = limits
        self._shared: SharedResults[MediaFacts] = SharedResults()

    async def facts(self, media: Media) -> MediaFacts:
        """Return the known facts, else read them as `learn` does."""
        return media.known_facts or await self.learn(media)

    async def learn(self, media: Media) -> MediaFacts:
        """Read and store the facts, also if they are known; simultaneous calls share one read.

        Raises:
            RenderError: the image cannot be decoded, or exceeds a limit.
            SourceError: its file cannot be read.
            CapacityError: no worker became free in time.
        """
        # After a purge the file may be another one: a read that began before it is neither joined
        # by later calls nor stored.
        began_at = self._database.last_invalidation(media.id)
        key = f"{media.id} {began_at}"
        return await self._shared.result(key, lambda: self._learn(media, began_at))

    async def _learn(self, media: Media, began_at: int) -> MediaFacts:
        since = await self._database.now()
        done = await self._dispatcher.run(media, ProbeJob(self._limits))
        # With the path and version of the row that was probed. If the row changed during the probe,
        # `Media.known_facts` ignores these facts.
        facts = to_facts(done.result, media.source_path or "", row_version=media.row_version)
        if self._database.last_invalidation(media.id) == began_at:
            await self._database.save_facts(media.id, facts, since=since)
        return facts

    async def aclose(self) -> None:
        """Cancel the running reads."""
        await self._shared.aclose()


class SourceChecker:
    """Checks uploaded and imported files; the admission of the dispatcher limits concurrency."""

    def __init__(
        self,
        *,
        dispatcher: JobDispatcher,
        limits: Limits,
        accepted: Collection[str],
        max_bytes: int,
    ) -> None:
        """``limits`` has the types that the workers can decode, ``accepted`` those of the settings.

        ``max_bytes`` is the size limit of an original.
        """
        self._dispatcher = dispatcher
        self._limits = limits
        self._accepted = accepted
        self._max_bytes = max_bytes

    async def check(self, descriptor: int) -> ProbeResult:
        """Decode every pixel of an open file, which remains the caller's; return its facts.

        Raises:
            SourceTooLarge, UndecodableSource, UnsupportedSource: the file is not accepted.
            DecoderMissing: it may be sound, but its decoder or fonts are not installed here.
            CapacityError: no worker became free in time.
        """
        # The file is read before admission: a storage that hangs must not occupy a worker's place.
        await in_daemon_thread(lambda: self._check_head(descriptor))
        return (
            await self._dispatcher.run_on(descriptor, ProbeJob(self._limits, strict=True))
        ).result

    async def digest(self, descriptor: int) -> str:
        """Return the content hash of a file, equal to that of `ProbeResult`, without a worker."""
        return await in_daemon_thread(lambda: _sha256(descriptor))

    def _check_head(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if size > self._max_bytes:
            # Checked here, so that such a file occupies no worker.
            raise SourceTooLarge(f"has {size} bytes, {self._max_bytes} are allowed")
        found = sniff(os.pread(descriptor, SNIFF_BYTES, 0))
        if found not in self._limits.source_types:
            if found is not None and found in self._accepted:
                # Not a fault of the file: another machine may decode it, or this one after the
                # installation. An upload must not be deleted for it.
                decoder = SOURCE_TRAITS[found].decoder
                raise DecoderMissing(f"is {found}; its decoder ({decoder}) is not installed here")
            accepted = ", ".join(self._limits.source_types)
            raise UnsupportedSource(f"is {found or 'not an image'}; accepted are {accepted}")


def _sha256(descriptor: int) -> str:
    digest, position = hashlib.sha256(), 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, position):
        digest.update(chunk)
        position += len(chunk)
    return digest.hexdigest()
