"""Checks whether a file is an image that can be served."""

from __future__ import annotations

import hashlib
import os

from proxy.domain.errors import SourceTooLarge, UnsupportedSource
from proxy.domain.formats import SNIFF_BYTES, sniff
from proxy.domain.media import ProbeResult
from proxy.domain.worker_protocol import Limits, ProbeJob
from proxy.runtime.thread_pool import in_daemon_thread
from proxy.serving.job_dispatch import JobDispatcher

_CHUNK_BYTES = 1024 * 1024


class SourceChecker:
    """Checks uploaded and imported files; the admission of the dispatcher limits concurrency."""

    def __init__(self, *, dispatcher: JobDispatcher, limits: Limits, max_bytes: int) -> None:
        """``max_bytes`` is the size limit of an original."""
        self._dispatcher = dispatcher
        self._limits = limits
        self._max_bytes = max_bytes

    async def check(self, descriptor: int) -> ProbeResult:
        """Decode every pixel of an open file, which remains the caller's; return its facts.

        Raises:
            SourceTooLarge, UndecodableSource, UnsupportedSource: the file is not accepted.
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
            accepted = ", ".join(self._limits.source_types)
            raise UnsupportedSource(f"is {found or 'not an image'}; accepted are {accepted}")


def _sha256(descriptor: int) -> str:
    digest, position = hashlib.sha256(), 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, position):
        digest.update(chunk)
        position += len(chunk)
    return digest.hexdigest()
