"""Files being written: look for them, and delete those that nobody writes. Blocking."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from proxy.runtime.tempfile_owner import StaleTempfileDetector


def sweep(directory: str, onlooker: StaleTempfileDetector) -> int:
    """Delete abandoned temporary files; gives how many."""
    abandoned = onlooker.abandoned(temporary_files(directory))
    for path in abandoned:
        Path(path).unlink(missing_ok=True)
    return len(abandoned)


def temporary_files(directory: str) -> dict[str, os.stat_result]:
    """The files in a directory by their paths; none where there is no directory."""
    found = {}
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if not entry.is_dir(follow_symlinks=False):
                    found[entry.path] = entry.stat(follow_symlinks=False)
    return found
