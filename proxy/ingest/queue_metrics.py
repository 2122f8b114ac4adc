"""Watching: the queue's report, asked for now and then, for the metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.ingest_item import ItemState, QueueReport, StepState
from proxy.domain.pending_image import Step
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor

_EVERY_S = 15.0


class QueueWatch:
    """Keeps the latest report; before the first one there is nothing in the queue."""

    def __init__(self, ask: Callable[[], Awaitable[QueueReport]]) -> None:
        """``ask`` gives a report, or raises DatabaseUnavailable."""
        self._ask = ask
        self._latest: QueueReport | None = None

    @asynccontextmanager
    async def watching(self, supervisor: TaskSupervisor = UNCOUNTED) -> AsyncIterator[None]:
        """Refresh the report every 15 s while the block runs."""
        async with supervisor.running(
            BackgroundTask.INGEST_QUEUE_METRICS, self.refresh, every_s=_EVERY_S
        ):
            yield

    async def refresh(self) -> None:
        """Ask now; where the database is away the latest report stays."""
        try:
            self._latest = await self._ask()
        except DatabaseUnavailable:
            return

    def statistics(self) -> Mapping[str, float]:
        """Items as ``items_<state>``, steps as ``<step>_<state>``, and the other counts."""
        report = self._latest
        items = {f"items_{one}": 0.0 if report is None else report.states[one] for one in ItemState}
        steps = {
            f"{step}_{state}": 0.0 if report is None else report.steps[step][state]
            for step in Step
            for state in StepState
        }
        return {
            **items,
            **steps,
            "stuck": 0 if report is None else report.stuck,
            "oldest_s": 0 if report is None else report.oldest_s,
            "failed_for_good": 0 if report is None else report.failed_for_good,
            "held": 0 if report is None else report.held,
            "run_out": 0 if report is None else report.run_out,
            "takeovers": 0 if report is None else report.takeovers,
        }
