from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.storage.renditions.disk_store import DiskStore
from tests.storage.renditions.variants import MIB, settings
from tests.support.clock import Clock


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
