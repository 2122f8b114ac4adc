"""Bulk worker: leases parts of a plan, and runs a task for each of their images.

Any number of workers may work on a plan, on any machines. What a worker has finished is stored
every few seconds, so one that is killed costs what it has done since.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from typing import Protocol, TypeVar

import structlog

from proxy.domain.bulk import LeasedPart, PartProgress, PlanStatus
from proxy.domain.errors import CapacityError, LeaseLost, RowRejected, SmartserveError
from proxy.storage.database.bulk_plans import BulkPlanTable

_RENEW_EVERY_S = 5.0
# Other workers may end the last part in a moment or in minutes.
_FIRST_POLL_S, _POLL_S = 0.25, 5.0
_LEAVE_S = 4.0
_PAGE = 1000
_FIRST_DELAYS_S, _DELAY_S = (1.0, 3.0, 10.0), 30.0
# Images that have begun, per image under way: one that takes long does not hold up the others.
_AHEAD = 8

T = TypeVar("T")

log = structlog.get_logger(__name__)


class ImageIds(Protocol):
    """A source of ids."""

    async def ids(self, *, after: int, limit: int) -> Sequence[int]:
        """Return a page of ids above ``after``, ascending."""
        ...


class BulkWorker:
    """Processes parts until the plan has ended."""

    def __init__(
        self,
        table: BulkPlanTable,
        images: ImageIds,
        process: Callable[[int], Awaitable[object]],
        *,
        concurrency: int,
        lease_s: float,
        reason: Callable[[SmartserveError], str] = str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``process`` is called with an id, ``concurrency`` times at once.

        It raises a SmartserveError for an image that cannot be processed, and a CapacityError (but
        not RowRejected) if it is to be repeated. ``reason`` describes the former for operators.
        """
        self._table = table
        self._images = images
        self._run = process
        self._concurrency = concurrency
        self._renew_s = min(_RENEW_EVERY_S, lease_s / 4)
        self._poll_s = min(_POLL_S, lease_s / 4)
        self._reason = reason
        self._clock = clock
        self._rate: float | None = None
        self._next_at = 0.0
        self.processed = 0
        """Images that this worker has processed and counted."""

    async def run(
        self,
        plan_id: int,
        *,
        max_parts: int | None = None,
        on_progress: Callable[[], Awaitable[object]] | None = None,
    ) -> PlanStatus:
        """Process parts until the plan has ended, or ``max_parts``; return its status.

        While the plan is paused, and while other workers have its last parts, the worker waits.
        ``on_progress`` is called every few seconds; a SmartserveError of it is ignored.

        Raises:
            KeyError: there is no such plan.
        """
        parts, poll_s = 0, _FIRST_POLL_S
        while max_parts is None or parts < max_parts:
            claim = await _repeated(lambda: self._table.claim(plan_id))
            if claim.status in (PlanStatus.DONE, PlanStatus.CANCELLED):
                return claim.status
            if claim.part is None:
                await asyncio.sleep(min(poll_s, self._poll_s))
                poll_s *= 2
            else:
                parts, poll_s = parts + 1, _FIRST_POLL_S
                with suppress(LeaseLost):
                    await self._process(claim.part, on_progress)
            await _report(on_progress)
        return PlanStatus.RUNNING

    async def _process(
        self, part: LeasedPart, on_progress: Callable[[], Awaitable[object]] | None
    ) -> None:
        """Process the images of a part; give it back if the plan is paused or this is cancelled."""
        # In the order of ids: progress is a position, up to which everything is finished.
        window: deque[tuple[int, asyncio.Task[str]]] = deque()
        progress = PartProgress(part.position)
        places = asyncio.Semaphore(self._concurrency)
        ids = self._ids(part)
        complete = False
        # The first renewal is at once: it returns the rate of this worker.
        renew_at = 0.0
        try:
            while True:
                if self._clock() >= renew_at:
                    running = await self._renew(part, progress)
                    progress = PartProgress(part.position)
                    renew_at = self._clock() + self._renew_s
                    await _report(on_progress)
                    if not running:
                        return
                while not complete and len(window) < _AHEAD * self._concurrency:
                    media_id = await anext(ids, None)
                    if media_id is None:
                        complete = True
                    else:
                        window.append((media_id, asyncio.create_task(self._one(media_id, places))))
                if not window:
                    break
                wait_s = max(0.0, renew_at - self._clock())
                await asyncio.wait({window[0][1]}, timeout=wait_s)
                _collect(window, progress)
            progress.position = part.last_id
            await self._renew(part, progress)
        finally:
            for _, task in window:
                task.cancel()
            await asyncio.gather(*(task for _, task in window), return_exceptions=True)
            if self._rate is not None:
                # Without the turns of images that were cancelled before theirs.
                self._next_at = min(self._next_at, self._clock() + 1 / self._rate)
            if part.position < part.last_id:
                await self._leave(part, progress)

    async def _renew(self, part: LeasedPart, progress: PartProgress) -> bool:
        """Store the progress; return whether the plan is running."""
        turn = await _repeated(lambda: self._table.renew(part, progress))
        self.processed += progress.done + len(progress.failures)
        self._rate = turn.rate
        return turn.status is PlanStatus.RUNNING

    async def _leave(self, part: LeasedPart, progress: PartProgress) -> None:
        # If this fails, the lease expires and the next worker repeats a few images.
        with suppress(SmartserveError, TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await self._table.renew(part, progress)
                self.processed += progress.done + len(progress.failures)
                await self._table.release(part)

    async def _ids(self, part: LeasedPart) -> AsyncIterator[int]:
        after = part.position
        while after < part.last_id:
            read = partial(self._images.ids, after=after, limit=_PAGE)
            page = [one for one in await _repeated(read) if one <= part.last_id]
            if not page:
                return
            for media_id in page:
                yield media_id
            after = page[-1]

    async def _one(self, media_id: int, places: asyncio.Semaphore) -> str:
        """Process an image; return why it failed, or an empty string."""
        await self._turn()
        async with places:
            try:
                await _repeated(lambda: self._run(media_id))
            except SmartserveError as error:
                return self._reason(error)
            except Exception as error:
                # An unforeseen error with one image must not end the plan.
                log.exception("bulk_image_failed", media_id=media_id)
                return f"internal error: {error!r}"
        return ""

    async def _turn(self) -> None:
        """Wait until the limit of the rate permits another image."""
        if self._rate is None:
            return
        now = self._clock()
        turn = max(now, self._next_at)
        self._next_at = turn + 1 / self._rate
        await asyncio.sleep(turn - now)


def _collect(window: deque[tuple[int, asyncio.Task[str]]], progress: PartProgress) -> None:
    """Move what has finished, up to the first image that has not, into the progress."""
    while window and window[0][1].done():
        media_id, task = window.popleft()
        if reason := task.result():
            progress.failures[media_id] = reason
        else:
            progress.done += 1
        progress.position = media_id


async def _report(on_progress: Callable[[], Awaitable[object]] | None) -> None:
    if on_progress is not None:
        # Work that continues after an outage of the database must not end by reporting during it.
        with suppress(SmartserveError):
            await on_progress()


async def _repeated(call: Callable[[], Awaitable[T]]) -> T:
    """Await a call until the database and the workers are available.

    A row that the database rejects would be rejected each time.
    """
    for delay_s in chain(_FIRST_DELAYS_S, repeat(_DELAY_S)):
        try:
            return await call()
        except RowRejected:
            raise
        except CapacityError as error:
            log.warning("bulk_work_waits", cause=error.reason or error.detail, retry_s=delay_s)
        await asyncio.sleep(delay_s)
    raise AssertionError
