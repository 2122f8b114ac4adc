"""Working: ask what is pending, work it off, rest, and begin again."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import structlog

from proxy.domain.errors import DatabaseUnavailable, LeaseLost, SmartserveError
from proxy.domain.ingest_item import ItemOutcome, ItemState, LeasedItem
from proxy.ingest.item_runner import ItemRunner
from proxy.ingest.lease_heartbeat import held
from proxy.ingest.main_api import MainApi
from proxy.ingest.step_timeouts import StepTimeouts
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.settings import IngestSettings
from proxy.storage.database.ingest_queue import IngestQueue

_MAX_WORKER_ID = 50
_SHORTEST_REST_S = 0.5
"""What is due and cannot be had, as another holds it, is not asked for in a circle."""

log = structlog.get_logger(__name__)


class WorkTelemetry(Protocol):
    """Takes note of the loop."""

    def polled(self, outcome: str) -> None:
        """The main API was asked: ``ok``, or ``failed``."""

    def taken(self, outcome: str) -> None:
        """An upload was brought to an `ItemOutcome`."""


def new_worker_id() -> str:
    """A name for this worker among all that ever were, of 50 characters at most."""
    tail = f"-{os.getpid()}-{secrets.token_hex(4)}"
    return socket.gethostname()[: _MAX_WORKER_ID - len(tail)] + tail


class WorkerLoop:
    """A worker: a few uploads at a time, until it is told to stop."""

    def __init__(  # noqa: PLR0913 - joins all that a cycle needs
        self,
        *,
        api: MainApi,
        queue: IngestQueue,
        taker: ItemRunner,
        deadlines: StepTimeouts,
        settings: IngestSettings,
        worker_id: str,
        woken: asyncio.Event,
        telemetry: WorkTelemetry,
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> None:
        """The rooms it works with; ``woken`` ends a rest: there is an upload."""
        self._api = api
        self._queue = queue
        self._taker = taker
        self._deadlines = deadlines
        self._settings = settings
        self._worker_id = worker_id
        self._woken = woken
        self._telemetry = telemetry
        self._supervisor = supervisor
        self._stopping = False
        self._heals_left = 0
        self._unseen = False
        self._trouble = False
        self.failures = 0
        """Uploads that failed since the start, for now or for good, and whatever else did."""

    async def run(self) -> None:
        """Work until `stop`; `at_work` calls it again after an unforeseen error."""
        while not self._stopping:
            if not await self._cycle():
                await self._rest()

    async def run_once(self) -> int:
        """Work until nothing is due; gives how much has failed."""
        while not self._stopping and await self._cycle():
            pass
        return self.failures

    def stop(self) -> None:
        """Begin nothing more; what is under way goes on."""
        self._stopping = True
        self._woken.set()

    async def _cycle(self) -> int:
        """Ask and work it off; gives how many uploads there were to work on."""
        self._woken.clear()
        self._trouble = False
        self._heals_left = self._settings.heals_per_cycle
        self._unseen = False
        await self._poll()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._work_off()) for _ in range(self._settings.at_once)]
        if self._deadlines.too_many:
            self._trouble = True
            self.failures += 1
            log.error("nothing_begun_as_steps_hang", **self._deadlines.statistics())
            return 0
        return sum(task.result() for task in tasks)

    async def _poll(self) -> None:
        """What is queued already is worked on whether the main API answers or not."""
        try:
            listed_at = await self._queue.now()
            uploads = await self._api.pending()
            # Who never strikes off what he was told is not told without a rest.
            settled_before = listed_at - self._settings.heal_after_s
            added = await self._queue.offer(uploads, settled_before=settled_before)
        except SmartserveError as error:
            self._telemetry.polled("failed")
            self._in_trouble("poll_failed", error)
            return
        self._telemetry.polled("ok")
        if added:
            log.info("uploads_queued", added=added, pending=len(uploads))

    async def _work_off(self) -> int:
        worked = 0
        while not (self._stopping or self._deadlines.too_many):
            try:
                item = await self._next()
            except DatabaseUnavailable as error:
                self._in_trouble("claim_failed", error)
                break
            if item is None:
                break
            worked += await self._work_on(item)
        return worked

    async def _next(self) -> LeasedItem | None:
        """New uploads go before failed ones, of which there are a few in a cycle.

        Last come those whose analysis is not complete, until one stays so: the others would wait
        for the same provider.
        """
        item = await self._queue.claim(self._worker_id)
        if item is not None or self._heals_left <= 0:
            return item
        self._heals_left -= 1
        item = await self._queue.claim(self._worker_id, ItemState.FAILED)
        if item is None and not self._unseen:
            item = await self._queue.claim(self._worker_id, ItemState.INCOMPLETE)
        self._heals_left += item is None
        return item

    async def _work_on(self, item: LeasedItem) -> bool:
        """Whether there may be more to do like it.

        What is left lying, whatever the reason, is taken over when its lease ends.
        """
        names = {"main_api_id": item.upload.id, "media_id": item.lease.media_id}
        try:
            async with held(
                self._queue,
                item.lease,
                lease_s=self._settings.lease_s,
                supervisor=self._supervisor,
            ):
                outcome = await self._taker.take(item)
        except asyncio.CancelledError:
            await self._give_back(item)
            raise
        except LeaseLost:
            log.warning("lease_lost", **names)
        except DatabaseUnavailable as error:
            self._in_trouble("database_unavailable_at_work", error)
        except Exception:
            # One upload's trouble, whatever it is, must not end the work for all others.
            self.failures += 1
            log.exception("upload_left", **names)
        else:
            self.failures += outcome in (ItemOutcome.LATER, ItemOutcome.FAILED)
            self._telemetry.taken(outcome)
            if outcome is ItemOutcome.UNSEEN:
                self._unseen = True
                return False
        return True

    async def _give_back(self, item: LeasedItem) -> None:
        with suppress(LeaseLost, DatabaseUnavailable):
            await self._queue.release(item.lease)

    def _in_trouble(self, event: str, error: SmartserveError) -> None:
        self._trouble = True
        self.failures += 1
        cause = error.__cause__
        told = {} if cause is None else {"cause": repr(cause)}
        log.warning(event, reason=error.detail, **told)

    async def _rest(self) -> None:
        """Until the next upload is due, another one comes, or it is time to ask again."""
        pause_s = await self._pause_s()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._woken.wait()

    async def _pause_s(self) -> float:
        if self._trouble:
            return min(self._settings.idle_s, self._settings.max_wait_s)
        try:
            due_s = await self._queue.due_in_s(healing=self._settings.heals_per_cycle > 0)
        except DatabaseUnavailable:
            return min(self._settings.idle_s, self._settings.max_wait_s)
        if due_s is None:
            return self._settings.idle_s
        return min(self._settings.idle_s, max(_SHORTEST_REST_S, due_s))


@asynccontextmanager
async def at_work(
    ingest: WorkerLoop, *, drain_s: float, supervisor: TaskSupervisor = UNCOUNTED
) -> AsyncIterator[asyncio.Task[None]]:
    """Work for the length of the block; in the end what is under way has ``drain_s``.

    What is not done by then is given back, and goes on elsewhere from the step where it stands.
    """
    task = supervisor.start(BackgroundTask.INGEST_WORKER, ingest.run)
    try:
        yield task
    finally:
        ingest.stop()
        _, left = await asyncio.wait([task], timeout=drain_s)
        if left:
            log.info("uploads_given_back")
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
