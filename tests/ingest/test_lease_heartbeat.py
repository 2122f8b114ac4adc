"""The lease of an upload, renewed while the upload is processed."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from proxy.domain.errors import LeaseLost
from proxy.domain.ingest_item import Lease
from proxy.ingest.lease_heartbeat import held
from proxy.runtime.supervised_task import BackgroundTask
from proxy.storage.database.ingest_queue import IngestQueue
from tests.support.restarts import Restarts, holds

LEASE = cast("Lease", object())


class Queue:
    """Answers renewals with the given errors, then with success."""

    def __init__(self, *errors: Exception) -> None:
        self.renewals = 0
        self._errors = list(errors)

    async def renew(self, lease: Lease) -> None:
        assert lease is LEASE
        self.renewals += 1
        if self._errors:
            raise self._errors.pop(0)


async def test_an_unforeseen_error_does_not_end_the_renewals() -> None:
    queue, restarts = Queue(KeyError("row")), Restarts()
    async with held(cast("IngestQueue", queue), LEASE, lease_s=0.0, supervisor=restarts.supervisor):
        await holds(lambda: queue.renewals > 1)
    assert restarts.tasks == [BackgroundTask.LEASE_HEARTBEAT]


async def test_a_lost_lease_ends_the_work() -> None:
    queue = Queue(LeaseLost("another worker"))
    with pytest.raises(LeaseLost):
        async with held(cast("IngestQueue", queue), LEASE, lease_s=0.0):
            await asyncio.Event().wait()
