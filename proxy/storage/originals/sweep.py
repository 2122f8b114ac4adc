"""Deletes unfinished originals that killed processes left behind.

Only file systems without O_TMPFILE have such files: elsewhere an original has no name until it is
complete. All directories are walked once, soon after the start, in a thread that pauses as long as
it works. While files are left that are not old enough, the walk is repeated every hour.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from threading import Event
from typing import NamedTuple, TypeVar

import structlog

from proxy.domain.errors import SmartserveError
from proxy.runtime.daemon_thread import in_daemon_thread
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.runtime.tempfiles import STALE_S, is_stale, is_tempfile_name
from proxy.storage.originals.file_open import root_opened, translated
from proxy.storage.originals.file_write import remove_below

_FIRST_AFTER_S = 1.0
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_T = TypeVar("_T")

log = structlog.get_logger(__name__)


@asynccontextmanager
async def sweeping(root: str, supervisor: TaskSupervisor = UNCOUNTED) -> AsyncIterator[None]:
    """Sweep below a root for the length of the block; its end waits for one directory at most."""
    stopped = Event()
    work = partial(_sweep_on, root, stopped)
    async with supervisor.running(
        BackgroundTask.ORIGINALS_SWEEP, work, first_after_s=_FIRST_AFTER_S
    ):
        try:
            yield
        finally:
            stopped.set()


class SweepResult(NamedTuple):
    """How many unfinished originals a sweep removed, and how many it left."""

    removed: int
    left: int
    """Not old enough, or not removable."""


async def _sweep_on(root: str, stopped: Event) -> None:
    while True:
        result = await in_daemon_thread(partial(sweep, root, stopped))
        # Another walk is needed only if a file is too young to be called abandoned.
        if not result.left:
            return
        await asyncio.sleep(STALE_S)


def sweep(root: str, stopped: Event, *, clock: Callable[[], float] = time.time) -> SweepResult:
    """Walk the tree once and delete unfinished originals that are stale. Blocking.

    Returns early once ``stopped`` is set.
    """
    parts, now = _parts(root, stopped), clock()
    stale = [path for path, status in parts.items() if is_stale(status, now)]
    removed = sum(_removed(root, path) for path in stale)
    if stale:
        log.info("unfinished_originals_swept", files=removed, left=len(stale) - removed)
    return SweepResult(removed, len(parts) - removed)


def _removed(root: str, path: str) -> bool:
    """Whether it could be removed: another may have been quicker, or all be for reading only."""
    try:
        return remove_below(root, path.split("/"))
    except SmartserveError:
        return False


def _parts(root: str, stopped: Event) -> dict[str, os.stat_result]:
    """All unfinished originals, by their path below the root; no symbolic link is followed."""
    found = {}
    with suppress(SmartserveError), _root_listed(root) as top:
        for directory, descriptor in _leisurely(_directories(top), stopped):
            names = (entry.name for entry in _entries(descriptor))
            for name in filter(is_tempfile_name, names):
                with suppress(OSError):
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    found[f"{directory}{name}"] = status
    return found


@contextmanager
def _root_listed(root: str) -> Iterator[int]:
    """The root's descriptor, for listing."""
    with root_opened(root) as top, translated():
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _directories(parent: int, below: str = "") -> Iterator[tuple[str, int]]:
    """Every directory below an open one, itself included: its path and its descriptor.

    `os.fwalk` opens what a symbolic link leads to before it looks whether it was one.
    """
    yield below, parent
    for entry in _entries(parent):
        if not entry.is_dir(follow_symlinks=False):
            continue
        with suppress(OSError):
            descriptor = os.open(entry.name, _DIRECTORY, dir_fd=parent)
            try:
                yield from _directories(descriptor, f"{below}{entry.name}/")
            finally:
                os.close(descriptor)


def _entries(directory: int) -> list[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(directory) as entries:
        return list(entries)
    return []


def _leisurely(steps: Iterator[_T], stopped: Event) -> Iterator[_T]:
    """Rest after each step for as long as it took, and end early when told to."""
    began = time.monotonic()
    for step in steps:
        yield step
        if stopped.wait(time.monotonic() - began):
            return
        began = time.monotonic()
