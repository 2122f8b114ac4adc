import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.settings import StorageSettings
from proxy.storage.originals.local_store import LocalOriginals

MAX_BYTES = 100_000
PATH = "bulk/2025-01-15/x.jpg"


async def read(sources: LocalOriginals, path: str) -> bytes:
    with await sources.open(path) as source:
        return os.read(source.descriptor, source.byte_size + 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one original, and beside it something that is nobody's business."""
    root = tmp_path / "storage"
    (root / "bulk" / "2025-01-15").mkdir(parents=True)
    (root / "bulk" / "2025-01-15" / "x.jpg").write_bytes(b"original")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.jpg").write_bytes(b"secret")
    return root


@pytest.fixture
async def sources(root: Path) -> AsyncIterator[LocalOriginals]:
    local = LocalOriginals(root, StorageSettings(max_original_bytes=MAX_BYTES, open_timeout_s=5))
    yield local
    await local.aclose()
