"""The report of the ingest queue, refreshed for the metrics."""

from __future__ import annotations

from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.upload import QueueReport
from proxy.ingest.queue_metrics import QueueMetrics
from proxy.runtime.supervised_task import BackgroundTask
from tests.support.restarts import Restarts
from tests.support.waiting import eventually


async def test_an_unforeseen_error_does_not_end_the_refreshing() -> None:
    calls, restarts = [], Restarts()

    async def report() -> QueueReport:
        calls.append(1)
        raise KeyError("in_progress")

    async with QueueMetrics(report).running(restarts.supervisor):
        await eventually(lambda: len(calls) > 1)
    assert restarts.tasks[0] is BackgroundTask.INGEST_QUEUE_METRICS


async def test_a_database_that_is_away_is_no_failure_of_the_task() -> None:
    calls, restarts = [], Restarts()

    async def report() -> QueueReport:
        calls.append(1)
        raise DatabaseUnavailable("away")

    watch = QueueMetrics(report)
    async with watch.running(restarts.supervisor):
        await eventually(lambda: len(calls) > 1)
    assert not restarts.tasks
    assert watch.statistics()["stuck"] == 0
