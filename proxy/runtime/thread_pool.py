"""Blocking work in daemon threads: a hung file system never keeps the process from ending.

`ThreadPool` bounds the number of threads; `in_daemon_thread` starts one for each call.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

_CLOSE_S = 5.0

_T = TypeVar("_T")

_Item = tuple[Future[Any], Callable[[], Any]] | None


class ThreadPool:
    """Runs blocking work in up to ``count`` daemon threads of its own.

    `asyncio.to_thread` shares a few threads with everything else in the process, name look-ups
    among it, and the interpreter joins them at exit: a call that hangs in a dead file system would
    block the others and the end of the process. The threads of this pool do neither.
    """

    def __init__(self, name: str, *, count: int, timeout_s: float | None) -> None:
        """``timeout_s`` limits how long `run` and `finish` wait; None waits without limit."""
        self.timeout_s = timeout_s
        self._name = name
        self._count = count
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._jobs: set[Future[Any]] = set()
        self._closed = False

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Queue work and return its future. Call this on the event loop.

        Raises:
            OSError: the pool is closed (ESHUTDOWN).
        """
        if self._closed:
            raise OSError(errno.ESHUTDOWN, f"the threads of {self._name} have ended")
        job: Future[_T] = Future()
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        self._queue.put((job, work))
        # A thread releases the semaphore when it becomes free. Another one is started only if none
        # is free.
        if not self._idle.acquire(blocking=False) and self._threads < self._count:
            self._threads += 1
            threading.Thread(
                target=_work, args=(self._queue, self._idle), name=self._name, daemon=True
            ).start()
        return job

    async def run(
        self,
        work: Callable[[], _T],
        *,
        release: Callable[[_T], object] | None = None,
        shielded: bool = False,
    ) -> _T:
        """Run work in a thread and return its result.

        After a time-out or a cancellation, work that has not begun is dropped, unless it is
        ``shielded``. Work that has begun runs to its end unobserved; its result is then passed to
        ``release``, in the thread.

        Raises:
            TimeoutError: the work did not end in time. It is an OSError, as file errors are.
        """
        job = self.submit(work)
        waiting = asyncio.wrap_future(job)
        try:
            async with asyncio.timeout(self.timeout_s):
                # Only the outer future of `shield` is cancelled, so the job stays in the queue.
                return await (asyncio.shield(waiting) if shielded else waiting)
        except (asyncio.CancelledError, TimeoutError):
            if release is not None:
                job.add_done_callback(partial(_release, release))
            raise

    async def finish(
        self, work: Callable[[], _T], *, release: Callable[[_T], object] | None = None
    ) -> _T:
        """As `run`, but queued work is done even if the caller was cancelled."""
        return await self.run(work, release=release, shielded=True)

    async def aclose(self, *, wait_s: float = _CLOSE_S) -> None:
        """Accept no more work and wait up to ``wait_s`` for what is queued or running."""
        self._closed = True
        if self._jobs and wait_s:
            waiting = [asyncio.wrap_future(job) for job in tuple(self._jobs)]
            done, _ = await asyncio.wait(waiting, timeout=wait_s)
            for one in done:
                # asyncio logs errors that are never retrieved.
                if not one.cancelled():
                    one.exception()
        self._queue.put(None)


async def in_daemon_thread(
    work: Callable[[], _T],
    *,
    release: Callable[[_T], object] | None = None,
    abandon: Callable[[], object] = lambda: None,
) -> _T:
    """Run blocking work in a new daemon thread and return its result.

    In contrast to `ThreadPool.run`, a cancellation waits for the end of the work, which may use
    what the caller is about to close: ``abandon`` is called to make the work end early, and
    ``release`` receives its result. A second cancellation does not wait. The caller limits how
    many such threads exist.
    """
    job: Future[_T] = Future()
    # From here on the future counts as running, so nothing can cancel it.
    job.set_running_or_notify_cancel()
    threading.Thread(target=_complete, args=(job, work), name="in-thread", daemon=True).start()
    working = asyncio.wrap_future(job)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        abandon()
        # `asyncio.wait` does not cancel what it waits for; a second cancellation ends only the
        # wait.
        await asyncio.wait([working])
        if working.exception() is None and release is not None:
            release(working.result())
        raise


def _work(queue: SimpleQueue[_Item], idle: threading.Semaphore) -> None:
    while (item := queue.get()) is not None:
        job, work = item
        if job.set_running_or_notify_cancel():
            _complete(job, work)
        # Otherwise the last result would stay in memory until the next piece of work.
        del item, job, work
        idle.release()
    queue.put(None)  # for the next thread


def _complete(job: Future[_T], work: Callable[[], _T]) -> None:
    """Do the work in this thread and give a running job its result or error."""
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - raised where the job is awaited
        job.set_exception(error)
    else:
        job.set_result(result)


def _release(release: Callable[[_T], object], job: Future[_T]) -> None:
    if not job.cancelled() and job.exception() is None:
        release(job.result())
