"""Deadlines: how long an attempt at a step may take, and what becomes of one that does not end.

A step that is out of time is cancelled. One that hangs in a call to a dead file system cannot be:
it is left behind with its thread, its files stay open until the call comes back, and it is counted,
so that it is noticed and a worker with too many of them begins nothing new. It writes nothing any
more: all that is left of it is its way out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping

import structlog

from proxy.domain.errors import StepOverdue
from proxy.domain.pending_image import Step
from proxy.settings import IngestSettings

_GRACE_S = 5.0
"""For a step that is cancelled to tidy up."""
_MOST_HANGING = 4
_AWAITS = 100
"""More than a step passes on its way out."""

log = structlog.get_logger(__name__)


class StepTimeouts:
    """Ends steps that take too long."""

    def __init__(self, settings: IngestSettings, *, grace_s: float = _GRACE_S) -> None:
        """``grace_s`` is for what is cancelled to end before it counts as hanging."""
        self._step_s = settings.step_timeout_s
        self._render_s = settings.render_timeout_s
        self._grace_s = grace_s
        self._hanging: dict[asyncio.Future[None], Step] = {}

    async def run(self, step: Step, work: Awaitable[None]) -> None:
        """Wait for an attempt; raises what it raises.

        Raises:
            StepOverdue: it did not end in its time, and perhaps still has not.
        """
        limit_s = self._render_s if step is Step.RESIZE_OPTIMIZE else self._step_s
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task], timeout=limit_s)
        finally:
            if not task.done():
                await self._end(step, task)
        if not task.done() or task.cancelled():
            raise StepOverdue(f"was not done in {limit_s:g} s")
        task.result()

    async def _end(self, step: Step, task: asyncio.Future[None]) -> None:
        task.cancel()
        try:
            await asyncio.wait([task], timeout=self._grace_s)
        finally:
            if not task.done():
                self._hanging[task] = step
                task.add_done_callback(self._came_back)
                log.error("step_hangs", step=step, hanging=len(self._hanging))

    def _came_back(self, task: asyncio.Future[None]) -> None:
        step = self._hanging.pop(task)
        error = None if task.cancelled() else task.exception()
        log.warning("step_came_back", step=step, hanging=len(self._hanging), error=repr(error))

    @property
    def too_many(self) -> bool:
        """Whether so much hangs that nothing more should be begun; what is at work may join it."""
        return len(self._hanging) >= _MOST_HANGING

    def statistics(self) -> Mapping[str, float]:
        """How many steps hang."""
        return {"hanging": len(self._hanging)}

    async def aclose(self) -> None:
        """Leave the threads that hang to themselves, for the process to end without them."""
        for _ in range(_AWAITS):
            for task in [*self._hanging]:
                task.cancel()
            if not self._hanging:
                return
            # Each turn takes a step to the next of the awaits on its way out.
            await asyncio.sleep(0)
