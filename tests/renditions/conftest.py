import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from proxy.renditions.disk import DiskStore
from tests.renditions.variants import MIB, settings


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The wall clock."""
    return Clock(1_800_000_000.0)


@pytest.fixture
def monotonic() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "renditions"


@pytest.fixture
async def disk(root: Path, clock: Clock, monotonic: Clock) -> AsyncIterator[DiskStore]:
    limits = settings(disk_max_bytes=MIB, memory_max_item_bytes=256 * 1024)
    async with DiskStore(root, limits, clock=clock, monotonic=monotonic) as store:
        yield store


Mount = Callable[[Path, str], AbstractContextManager[None]]


@contextmanager
def _mounted(directory: Path, options: str) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "smartserve-test", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"a tmpfs cannot be mounted here: {done.stderr.strip()}"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture
def mounted() -> Mount:
    """Mount a tmpfs for the length of a block, with the options of mount(8)."""
    return _mounted
