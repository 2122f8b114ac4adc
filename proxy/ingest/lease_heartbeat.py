"""Holding: a lease kept alive while its upload is worked on; where it is lost the work ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import structlog

from proxy.domain.errors import DatabaseUnavailable, LeaseLost
from proxy.domain.ingest_item import Lease
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.storage.database.ingest_queue import IngestQueue

_BEATS = 3
"""In the time of a lease: two may be lost."""

log = structlog.get_logger(__name__)


@asynccontextmanager
async def held(
    queue: IngestQueue,
    lease: Lease,
    *,
    lease_s: float,
    supervisor: TaskSupervisor = UNCOUNTED,
) -> AsyncIterator[None]:
    """Renew a lease for the length of the block.

    Raises:
        LeaseLost: another worker has taken it; the block was left where it was.
    """
    limit = asyncio.timeout(None)
    beat = partial(_beat, queue, lease, lease_s / _BEATS, limit)
    try:
        async with supervisor.running(BackgroundTask.LEASE_HEARTBEAT, beat), limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise LeaseLost("another worker has taken the upload over") from None


async def _beat(queue: IngestQueue, lease: Lease, pause_s: float, limit: asyncio.Timeout) -> None:
    while True:
        await asyncio.sleep(pause_s)
        try:
            await queue.renew(lease)
        except LeaseLost:
            limit.reschedule(asyncio.get_running_loop().time())
            return
        except DatabaseUnavailable as error:
            # The work goes on: whatever it writes is refused if the lease is another's by then.
            log.warning("lease_not_renewed", cause=repr(error.__cause__))
