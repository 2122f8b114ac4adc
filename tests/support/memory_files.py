"""Files in memory, as the parent passes them to its workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def memory_file(content: bytes | Path = b"") -> Iterator[int]:
    """Open a file in memory with this content for the block; the offset is at its end.

    Code under test must not depend on the offset: workers share it with the parent.
    """
    descriptor = os.memfd_create("test")
    try:
        os.write(descriptor, content if isinstance(content, bytes) else content.read_bytes())
        yield descriptor
    finally:
        os.close(descriptor)
