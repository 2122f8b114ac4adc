"""Occupancy: how many workers one kind of work holds, of all that share the pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class WorkerUsage:
    """Counts the jobs of one kind that are in a worker now."""

    def __init__(self) -> None:
        self._busy = 0

    @contextmanager
    def job(self) -> Iterator[Callable[[], None]]:
        """For the length of a job; what it gives is to be called when a worker has taken it.

        It may be called again, as a job is whose worker died.
        """
        taken = False

        def take() -> None:
            nonlocal taken
            self._busy += not taken
            taken = True

        try:
            yield take
        finally:
            self._busy -= taken

    def statistics(self) -> Mapping[str, float]:
        """How many workers are held."""
        return {"busy": self._busy}
