"""Sweep unfinished originals away: what processes left behind that were killed while they copied.

All directories of originals are walked once, soon after the start, in a thread that rests as long
as it works; and again, from hour to hour, while there are files of which it is not sure.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from threading import Event
from typing import TypeVar

import structlog

from proxy.domain.errors import SmartserveError
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.runtime.tempfile_owner import STALE_S, StaleTempfileDetector
from proxy.storage.originals.file_open import root_opened, translated
from proxy.storage.originals.file_write import PART_PREFIX, PART_SUFFIX, remove_below

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


async def _sweep_on(root: str, stopped: Event) -> None:
    onlooker = StaleTempfileDetector()
    while True:
        work = asyncio.create_task(asyncio.to_thread(partial(sweep, root, onlooker, stopped)))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await work
            raise
        await asyncio.sleep(STALE_S)
        if not onlooker.suspicious:
            return


def sweep(root: str, onlooker: StaleTempfileDetector, stopped: Event) -> int:
    """Walk once and delete what is abandoned; gives how many. Blocking, until ``stopped``."""
    abandoned = onlooker.abandoned(_parts(root, stopped))
    swept = sum(_removed(root, path) for path in abandoned)
    if abandoned:
        log.info("unfinished_originals_swept", files=swept, left=len(abandoned) - swept)
    return swept


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
            for name in filter(_is_part, (entry.name for entry in _entries(descriptor))):
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


def _is_part(name: str) -> bool:
    return name.startswith(PART_PREFIX) and name.endswith(PART_SUFFIX)


def _leisurely(steps: Iterator[_T], stopped: Event) -> Iterator[_T]:
    """Rest after each step for as long as it took, and end early when told to."""
    began = time.monotonic()
    for step in steps:
        yield step
        if stopped.wait(time.monotonic() - began):
            return
        began = time.monotonic()
