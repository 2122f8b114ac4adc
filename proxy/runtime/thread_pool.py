"""Runs blocking work in daemon threads, so that the process ends even if a file system hangs.

`ThreadPool` bounds the number of threads; `in_daemon_thread` starts one for each call, and
`DaemonExecutor` does so for `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

_CLOSE_S = 5.0

_T = TypeVar("_T")


class _Job(Generic[_T]):
    """Work in the queue or in a thread, and the future of the event loop that awaits it.

    The first of result, time-out and cancellation decides. A `concurrent.futures.Future` chained to
    one of asyncio would do the same in three times the processor time.
    """

    __slots__ = ("_future", "_loop", "_release", "_shielded", "_work")

    def __init__(
        self,
        work: Callable[[], _T],
        release: Callable[[_T], object] | None,
        future: asyncio.Future[_T],
        *,
        shielded: bool,
    ) -> None:
        self._work = work
        self._release = release
        self._future = future
        self._loop = future.get_loop()
        self._shielded = shielded

    def run(self) -> None:
        """Do the work in this thread, unless nobody awaits it any more."""
        if self._future.done() and not self._shielded:
            return
        try:
            result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised where the job is awaited
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._fail, error)
            return
        try:
            if not self._future.done():
                self._loop.call_soon_threadsafe(self._finish, result)
                return
        except RuntimeError:
            pass  # the loop has ended
        # The caller timed out or was cancelled.
        self._drop(result)

    def _finish(self, result: _T) -> None:
        # The caller may have gone since the thread checked it.
        if self._future.done():
            self._drop(result)
        else:
            self._future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if not self._future.done():
            self._future.set_exception(error)

    def _drop(self, result: _T) -> None:
        if self._release is not None:
            # That closing a file fails concerns nobody now.
            with suppress(OSError):
                self._release(result)


class ThreadPool:
    """Runs blocking work in up to ``count`` daemon threads of its own.

    `asyncio.to_thread` shares a few threads with everything else in the process, name look-ups
    among it, and the interpreter joins them at exit: a call that hangs in a dead file system would
    block the others and the end of the process. The threads of this pool do neither.
    """

    def __init__(self, name: str, *, count: int, timeout_s: float | None) -> None:
        """``timeout_s`` limits how long the result of `run` is waited for; None: no limit."""
        self.timeout_s = timeout_s
        self._name = name
        self._count = count
        self._threads: list[Future[None]] = []
        """For each thread that was started, a future of its end."""
        self._idle = threading.Semaphore(0)
        self._queue: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._deadlines: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def run(
        self,
        work: Callable[[], _T],
        *,
        release: Callable[[_T], object] | None = None,
        shielded: bool = False,
    ) -> asyncio.Future[_T]:
        """Run work in a thread; return the future of its result. Call this on the event loop.

        After a time-out or a cancellation, work that has not begun is dropped, unless it is
        ``shielded``. Work that has begun runs to its end unobserved; its result is then passed to
        ``release``, in the thread. The future raises TimeoutError, an OSError as file errors are,
        if the work did not end in time.

        Raises:
            OSError: the pool is closed (ESHUTDOWN), or it has no thread and cannot start one
                (EAGAIN).
        """
        if self._closed:
            raise OSError(errno.ESHUTDOWN, f"the threads of {self._name} have ended")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        # A thread releases the semaphore when it becomes free. Another one is started only if none
        # is free, and before the work is queued: if none can be started, nothing is queued.
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._count:
            self._add_thread()
        if self.timeout_s is not None:
            self._limit(loop, future, self.timeout_s)
        self._queue.put(_Job(work, release, future, shielded=shielded))
        return future

    def _add_thread(self) -> None:
        ended: Future[None] = Future()
        try:
            _start(_work, self._queue, self._idle, ended, name=self._name)
        except OSError:
            # Another thread does the work when it is free.
            if not self._threads:
                raise
        else:
            self._threads.append(ended)

    def _limit(
        self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], timeout_s: float
    ) -> None:
        # All jobs have the same limit, so one timer for the oldest of them is enough. A timer for
        # each job would have to be cancelled after each job.
        deadline = self._deadlines[future] = loop.time() + timeout_s
        future.add_done_callback(self._deadlines.pop)
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        for future, deadline in self._deadlines.items():
            if deadline > loop.time():
                self._timer = loop.call_at(deadline, self._expire, loop)
                break
            if not future.done():
                future.set_exception(TimeoutError())

    async def aclose(self, *, wait_s: float = _CLOSE_S) -> None:
        """Accept no more work and wait up to ``wait_s`` for what is queued or running."""
        self._closed = True
        # Behind all queued work; each thread passes it on to the next one.
        self._queue.put(None)
        if self._threads and wait_s:
            await asyncio.wait(map(asyncio.wrap_future, self._threads), timeout=wait_s)


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

    Raises:
        OSError: no thread can be started (EAGAIN); or what ``work`` raises.
    """
    job: Future[_T] = Future()
    # From here on the future counts as running, so nothing can cancel it.
    job.set_running_or_notify_cancel()
    _start(_complete, job, work, name="in-thread")
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


class DaemonExecutor(ThreadPoolExecutor):
    """An executor for `asyncio.to_thread` with a daemon thread for each call.

    The loop and the interpreter join the threads of the default executor when they end.
    """

    def submit(self, fn: Callable[..., _T], /, *arguments: Any, **options: Any) -> Future[_T]:
        """Start a thread; return the future of its result.

        Raises:
            OSError: no thread can be started (EAGAIN).
        """
        job: Future[_T] = Future()
        _start(_complete_unless_cancelled, job, partial(fn, *arguments, **options))
        return job

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the signature of the base class
        """Do nothing: nobody waits for the threads."""


def _start(work: Callable[..., None], *arguments: object, name: str | None = None) -> None:
    try:
        threading.Thread(target=work, args=arguments, name=name, daemon=True).start()
    except RuntimeError as error:
        # A limit of processes or memory. Callers handle OSError, as every other lack of resources.
        raise OSError(errno.EAGAIN, str(error)) from error


def _complete_unless_cancelled(job: Future[_T], work: Callable[[], _T]) -> None:
    if job.set_running_or_notify_cancel():
        _complete(job, work)


def _work(
    queue: SimpleQueue[_Job[Any] | None], idle: threading.Semaphore, ended: Future[None]
) -> None:
    while (job := queue.get()) is not None:
        job.run()
        # Otherwise the last result would stay in memory until the next piece of work.
        del job
        idle.release()
    queue.put(None)
    ended.set_result(None)


def _complete(job: Future[_T], work: Callable[[], _T]) -> None:
    """Do the work in this thread and give a running job its result or error."""
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - raised where the job is awaited
        job.set_exception(error)
    else:
        job.set_result(result)
