from __future__ import annotations

import pytest

from proxy.rendering.worker.imaging.libvips import configure, lock_loaders
from tests.rendering.worker.imaging.studio import LIMITS


@pytest.fixture(autouse=True, scope="session")
def _worker() -> None:
    """Set libvips up as a worker does."""
    configure()
    lock_loaders(LIMITS.source_types)
