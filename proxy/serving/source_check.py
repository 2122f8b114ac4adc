"""Checking: whether a file is a picture that is served, to its last pixel."""

from __future__ import annotations

import hashlib
import os

from proxy.domain.errors import SourceTooLarge, UnsupportedSource
from proxy.domain.formats import SNIFF_BYTES, sniff
from proxy.domain.worker_protocol import Limits, ProbeJob, ProbeResult
from proxy.rendering.pool.admission import Admission
from proxy.rendering.pool.pool import WorkerPool
from proxy.rendering.pool.usage import WorkerUsage
from proxy.runtime.daemon_thread import aside

_PIECE_BYTES = 1024 * 1024


class SourceChecker:
    """Checks files, as many at a time as there are workers."""

    def __init__(
        self,
        *,
        pool: WorkerPool,
        admission: Admission,
        occupancy: WorkerUsage,
        limits: Limits,
        max_bytes: int,
    ) -> None:
        """The rooms it works with; ``max_bytes`` bounds an original."""
        self._pool = pool
        self._admission = admission
        self._occupancy = occupancy
        self._limits = limits
        self._max_bytes = max_bytes

    async def check(self, descriptor: int) -> ProbeResult:
        """The facts of the file behind a descriptor, which stays the caller's.

        Raises:
            SourceTooLarge, UndecodableSource, UnsupportedSource: it is none, or a damaged one.
            CapacityError: no worker is free in time.
        """
        # Before a place is taken, which visitors wait for: a storage may hang.
        await aside(lambda: self._look(descriptor))
        async with self._admission.enter():
            with self._occupancy.job() as taken:
                job = ProbeJob(self._limits, strict=True)
                return await self._pool.run(job, descriptor, begun=taken)

    async def digest(self, descriptor: int) -> str:
        """The content hash of a file, as `ProbeResult` has it, without a worker."""
        return await aside(lambda: _digest(descriptor))

    def _look(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if size > self._max_bytes:
            raise SourceTooLarge(f"has {size} bytes, {self._max_bytes} are allowed")
        found = sniff(os.pread(descriptor, SNIFF_BYTES, 0))
        if found not in self._limits.source_types:
            kinds = ", ".join(self._limits.source_types)
            raise UnsupportedSource(f"is {found or 'no picture'}; served are {kinds}")


def _digest(descriptor: int) -> str:
    digest, at = hashlib.sha256(), 0
    while piece := os.pread(descriptor, _PIECE_BYTES, at):
        digest.update(piece)
        at += len(piece)
    return digest.hexdigest()
