"""Statistics of the ingest queue, refreshed every 15 s for the metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.upload import ItemState, QueueReport, Step, StepState
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor

_REFRESH_S = 15.0
_COUNTS = ("stuck", "oldest_s", "failed_for_good", "held", "run_out", "takeovers")


class QueueMetrics:
    """Holds the latest report. Before the first one all figures are 0."""

    def __init__(self, report: Callable[[], Awaitable[QueueReport]]) -> None:
        """``report`` reads the queue, or raises DatabaseUnavailable."""
        self._report = report
        self._latest: QueueReport | None = None

    @asynccontextmanager
    async def running(self, supervisor: TaskSupervisor = UNCOUNTED) -> AsyncIterator[None]:
        """Refresh the report while the block runs."""
        async with supervisor.running(
            BackgroundTask.INGEST_QUEUE_METRICS, self.refresh, every_s=_REFRESH_S
        ):
            yield

    async def refresh(self) -> None:
        """Read the queue now. If the database is unavailable, the latest report stays."""
        with suppress(DatabaseUnavailable):
            self._latest = await self._report()

    def statistics(self) -> Mapping[str, float]:
        """Return items as ``items_<state>``, steps as ``<step>_<state>``, and other counts."""
        report = self._latest
        items = {f"items_{one}": 0.0 if report is None else report.states[one] for one in ItemState}
        steps = {
            f"{step}_{state}": 0.0 if report is None else report.steps[step][state]
            for step in Step
            for state in StepState
        }
        # Before the first report `report` is None, so every count is 0.
        return {**items, **steps, **{name: getattr(report, name, 0) for name in _COUNTS}}
