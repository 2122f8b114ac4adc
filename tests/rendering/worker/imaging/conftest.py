from __future__ import annotations

import pytest

from proxy.rendering.worker.imaging.decoders import open_decoded
from proxy.rendering.worker.imaging.libvips import configure, lock_loaders
from proxy.rendering.worker.imaging.load import use_decoders
from tests.rendering.worker.imaging.studio import LIMITS


@pytest.fixture(autouse=True, scope="session")
def _worker() -> None:
    """Set libvips and the other decoders up as a worker does."""
    configure()
    lock_loaders(LIMITS.source_types)
    use_decoders(open_decoded)
