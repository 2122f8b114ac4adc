"""Renditions in a bucket that several servers share: the third tier, behind memory and disk.

::

    <prefix>/3f/12345/<digest>.avif    renditions: shard, medium, variant

An object has the content of the file on disk: the body and its trailer, by which a truncated,
damaged or foreign object is recognised. Writes are conditional: the first of several servers that
render a variant stores it, and the bytes of an ETag never change. Nothing is evicted; a lifecycle
rule of the bucket does that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import structlog

from proxy.domain.errors import BucketPurgePending
from proxy.domain.variant import Shapes, Variant, has_shape
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor, cancel
from proxy.storage.bucket import Bucket, BucketError, ObjectExists, ObjectMissing
from proxy.storage.renditions.disk_state import NO_OBJECT_TIER, shard_of
from proxy.storage.renditions.rendition_file import WriteTicket, file_content, verified

_MAX_READS = 64
"""Concurrent reads. Above it a rendition counts as missing: renders have a queue already."""
_WRITERS = 4
_RETRY_PURGES_S = 5.0
_DELETE_AT_ONCE = 1000
"""Objects of one DeleteObjects request, the limit of S3."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Write:
    """A rendition to store, or one to delete if ``body`` is None."""

    ticket: WriteTicket
    body: bytes | None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class _Purge:
    """A purge that has not been done. Each call makes a new one."""

    shapes: Shapes
    failed: bool
    """Whether the deletion, or that of an earlier purge which this one includes, has failed."""


class ObjectTier:
    """Stores renditions in a bucket; use it with ``async with`` on the event loop.

    Storage that fails is a miss or a dropped write, counted, never an error. Only a purge raises,
    because its caller must know whether it was done.
    """

    def __init__(
        self,
        *,
        reads: Bucket,
        writes: Bucket,
        prefix: str,
        max_bytes: int,
        max_queued_bytes: int,
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> None:
        """``reads`` and ``writes`` are clients of the same bucket, each with its own breaker.

        ``prefix`` is empty or ends with a slash. ``max_bytes`` limits a rendition.
        """
        self._reads = reads
        self._writes = writes
        self._prefix = prefix
        self._max_bytes = max_bytes
        self._max_queued_bytes = max_queued_bytes
        self._supervisor = supervisor
        self._reading = 0
        self._queue: deque[_Write] = deque()
        self._queued_bytes = 0
        self._filled = asyncio.Event()
        self._running: set[_Write] = set()
        self._unpurged: dict[int, _Purge] = {}
        """Media whose purge has not been done: their renditions here must not be served."""
        # asyncio keeps only weak references to tasks.
        self._purges: set[asyncio.Task[int]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._counts: dict[str, float] = dict(NO_OBJECT_TIER)

    async def __aenter__(self) -> Self:
        """Start the background tasks."""
        start = self._supervisor.start
        self._tasks = [start(BackgroundTask.OBJECT_WRITES, self._write) for _ in range(_WRITERS)]
        retry = partial(
            start, BackgroundTask.OBJECT_PURGES, self._retry_purges, every_s=_RETRY_PURGES_S
        )
        self._tasks.append(retry(first_after_s=_RETRY_PURGES_S))
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Store what waits, within the time limit of one request, and end the tasks."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._writes.timeout_s):
                for one in (*self._running, *self._queue):
                    await one.ended.wait()
        await cancel(*self._tasks, *self._purges)
        self._counts["dropped_shutdown"] += sum(one.body is not None for one in self._queue)

    async def first(self, variants: Sequence[Variant]) -> tuple[int, bytes] | None:
        """Return the position and body of the first of several variants of a medium, verified.

        All are requested at the same time.
        """
        skipped = self._reads.breaker.open or self._reading >= _MAX_READS
        if skipped or variants[0].media_id in self._unpurged:
            self._counts["reads_skipped"] += 1
            return None
        self._reading += 1
        try:
            bodies = await asyncio.gather(*map(self._read, variants))
        finally:
            self._reading -= 1
        # Purged while it was read.
        purged = variants[0].media_id in self._unpurged
        for position, body in enumerate(bodies):
            if body is not None and not purged:
                self._counts["reads_hit"] += 1
                return position, body
        self._counts["reads_miss"] += 1
        return None

    async def _read(self, variant: Variant) -> bytes | None:
        key = self._key(variant)
        try:
            content = await self._reads.read(key, max_bytes=self._max_bytes + 4096)
        except ObjectMissing:
            return None
        except BucketError as error:
            self._failed(error)
            return None
        body = None if content is None else verified(content, bytes.fromhex(variant.digest))
        if body is None:
            self._counts["failures_corrupt"] += 1
            log.warning("object_corrupt", key=key)
            # The next server that renders it can store it then.
            self.delete(variant)
        return body

    def put(self, ticket: WriteTicket, body: bytes) -> None:
        """Store a rendition in the background, unless the ticket is void by then."""
        if self._queued_bytes + len(body) > self._max_queued_bytes:
            self._counts["dropped_queue_full"] += 1
            return
        self._queued_bytes += len(body)
        self._queue.append(_Write(ticket, body))
        self._filled.set()

    def delete(self, variant: Variant) -> None:
        """Delete one rendition in the background, which another one has replaced."""
        for one in self._queue:
            if one.ticket.variant.digest == variant.digest:
                one.ticket.void = True
        self._queue.append(_Write(WriteTicket(variant), None))
        self._filled.set()

    def begin_purge(self, media_id: int, shapes: Shapes = None) -> asyncio.Task[int]:
        """Delete a medium's renditions, in these shapes or in all; return a task of their number.

        The caller has voided the tickets of writes that have begun. Until it is done nothing of the
        medium is read from the bucket. Await it with a shield: a cancellation would stop it.

        The task raises:
            BucketPurgePending: some may still be there; it is repeated in the background.
        """
        before = self._unpurged.get(media_id)
        shapes = shapes if before is None else _united(before.shapes, shapes)
        self._unpurged[media_id] = _Purge(shapes, failed=before is not None and before.failed)
        task = asyncio.create_task(self._purge(media_id))
        self._purges.add(task)
        task.add_done_callback(self._purge_ended)
        return task

    def _purge_ended(self, task: asyncio.Task[int]) -> None:
        self._purges.discard(task)
        # The caller may have been cancelled: mark the error as retrieved, or asyncio logs it.
        if not task.cancelled():
            task.exception()

    async def _purge(self, media_id: int) -> int:
        purge = self._unpurged.get(media_id)
        if purge is None:
            # A later one that began before this task has done both.
            return 0
        # A write that found its ticket valid may still be under way.
        for one in tuple(self._running):
            if one.ticket.variant.media_id == media_id:
                await one.ended.wait()
        try:
            found = await self._writes.keys(self._folder(media_id))
            keys = [key for key in found if has_shape(key.rpartition("/")[2], purge.shapes)]
            for start in range(0, len(keys), _DELETE_AT_ONCE):
                await self._writes.delete(keys[start : start + _DELETE_AT_ONCE])
        except BucketError as error:
            self._failed(error)
            purge.failed = True
            cause = "renditions could not be deleted from the bucket"
            raise BucketPurgePending(cause) from error
        # Another purge of the medium may have begun meanwhile.
        if self._unpurged.get(media_id) is purge:
            del self._unpurged[media_id]
        return len(keys)

    async def _retry_purges(self) -> None:
        for media_id in tuple(self._unpurged):
            if self._writes.breaker.open:
                return
            if media_id in self._unpurged:
                with suppress(BucketPurgePending):
                    await self._purge(media_id)

    @property
    def purges_failed(self) -> bool:
        """Whether deletions have failed, and have not been repeated successfully."""
        return any(purge.failed for purge in self._unpurged.values())

    async def _write(self) -> None:
        """Store and delete what is queued, until cancelled."""
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            one = self._queue.popleft()
            self._queued_bytes -= len(one.body or b"")
            self._running.add(one)
            try:
                await self._store(one)
            finally:
                self._running.discard(one)
                one.ended.set()

    async def _store(self, one: _Write) -> None:
        variant, body = one.ticket.variant, one.body
        if one.ticket.void:
            return
        try:
            if body is None:
                await self._writes.delete([self._key(variant)])
                return
            content = file_content(body, bytes.fromhex(variant.digest))
            await self._writes.create(self._key(variant), content)
        except ObjectExists:
            self._counts["writes_exists"] += 1
        except BucketError as error:
            self._failed(error)
            # A draft that is not deleted is never sent, because its final is found first.
            self._counts["dropped_failed"] += body is not None
        else:
            self._counts["writes_stored"] += 1

    def statistics(self) -> Mapping[str, float]:
        """Return counts by name, the bytes that wait, and the purges that have not been done."""
        waiting = {"queued_bytes": self._queued_bytes, "pending_purges": len(self._unpurged)}
        return {**self._counts, **waiting}

    def _failed(self, error: BucketError) -> None:
        self._counts[f"failures_{error.kind}"] += 1

    def _folder(self, media_id: int) -> str:
        return f"{self._prefix}{shard_of(media_id):02x}/{media_id}/"

    def _key(self, variant: Variant) -> str:
        return f"{self._folder(variant.media_id)}{variant.file_name}"


def _united(before: Shapes, shapes: Shapes) -> Shapes:
    """Return what two purges of a medium delete together; None: all shapes."""
    return None if before is None or shapes is None else frozenset((*before, *shapes))
