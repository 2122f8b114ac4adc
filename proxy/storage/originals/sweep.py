"""Deletes unfinished originals that killed processes left behind.

Only file systems without O_TMPFILE have such files: elsewhere an original has no name until it is
complete. All directories are walked soon after the start, in a thread that pauses as long as it
works, and again each hour, or later if a walk takes long: another process may be killed meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from threading import Event
from typing import TypeVar

import structlog

from proxy.runtime.safe_open import descended
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.runtime.tempfiles import STALE_S, is_stale, is_tempfile_name
from proxy.runtime.thread_pool import in_daemon_thread

_FIRST_AFTER_S = 1.0
_REST_S = STALE_S

_T = TypeVar("_T")

log = structlog.get_logger(__name__)


@asynccontextmanager
async def sweeping(root: str, supervisor: TaskSupervisor = UNCOUNTED) -> AsyncIterator[None]:
    """Sweep below a root while the block runs; its end waits for one directory at most."""
    stopped = Event()
    work = partial(_sweep_repeatedly, root, stopped)
    async with supervisor.running(
        BackgroundTask.ORIGINALS_SWEEP, work, first_after_s=_FIRST_AFTER_S
    ):
        try:
            yield
        finally:
            stopped.set()


async def _sweep_repeatedly(root: str, stopped: Event) -> None:
    while True:
        began = time.monotonic()
        await in_daemon_thread(partial(sweep, root, stopped))
        # A walk of millions of files may take hours: it may use 2 % of the time.
        await asyncio.sleep(max(_REST_S, 50 * (time.monotonic() - began)))


def sweep(root: str, stopped: Event, *, clock: Callable[[], float] = time.time) -> int:
    """Walk the tree once and delete stale unfinished originals (blocking).

    Return how many are left: not old enough, or not removable. Returns early once ``stopped`` is
    set. Errors of single files and directories are ignored.
    """
    removed = left = 0
    with suppress(OSError), descended(root) as top:
        # fwalk compares each directory with its lstat before it enters, so a symbolic link never
        # leads the walk out of the root; files are deleted relative to the open directory.
        for _, folders, names, directory in _throttled(os.fwalk(".", dir_fd=top), stopped):
            # It would open the target of a link before it compares.
            folders[:] = [one for one in folders if _is_directory(one, directory)]
            for name in filter(is_tempfile_name, names):
                if _delete_if_stale(name, directory, clock()):
                    removed += 1
                else:
                    left += 1
    if removed:
        log.info("unfinished_originals_swept", files=removed, left=left)
    return left


def _is_directory(name: str, parent: int) -> bool:
    with suppress(OSError):
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    return False


def _delete_if_stale(name: str, directory: int, now: float) -> bool:
    # An error means that another process was faster, or that the storage is read-only.
    with suppress(OSError):
        if is_stale(os.stat(name, dir_fd=directory, follow_symlinks=False), now):
            os.unlink(name, dir_fd=directory)
            return True
    return False


def _throttled(steps: Iterator[_T], stopped: Event) -> Iterator[_T]:
    """Pause after each step for as long as it took; end once ``stopped`` is set."""
    began = time.monotonic()
    for step in steps:
        yield step
        # Waiting on the event ends the pause as soon as the server stops.
        if stopped.wait(time.monotonic() - began):
            return
        began = time.monotonic()
