"""Files being written: look for them, and delete those that nobody writes. Blocking."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from proxy.owners import Onlooker


def sweep(directory: str, onlooker: Onlooker) -> int:
    """Delete abandoned temporary files; gives how many."""
    abandoned = onlooker.abandoned(_files(directory))
    for path in abandoned:
        Path(path).unlink(missing_ok=True)
    return len(abandoned)


def _files(directory: str) -> dict[str, os.stat_result]:
    found = {}
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if not entry.is_dir(follow_symlinks=False):
                    found[entry.path] = entry.stat(follow_symlinks=False)
    return found
