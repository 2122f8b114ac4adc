"""Remove what stands below the root: single files, whatever they are, and whole media. Blocking."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

from proxy.domain.variant import Shapes, has_shape
from proxy.storage.renditions.paths import UsageChange, cost


def discard(path: str) -> UsageChange:
    """Delete whatever stands where a rendition should; gives the change of usage."""
    file = Path(path)
    try:
        status = file.lstat()
        if stat.S_ISDIR(status.st_mode):
            rmtree(file)
            return UsageChange(0, 0)
        file.unlink()
    except FileNotFoundError:
        return UsageChange(0, 0)
    except NotADirectoryError:  # the medium's directory is something else
        file.parent.unlink(missing_ok=True)
        return UsageChange(0, 0)
    return UsageChange(-cost(status.st_size), -1)


def remove_medium(directory: str, shapes: Shapes = None) -> UsageChange:
    """Remove what a medium's directory holds in these shapes, or all; gives the change of usage."""
    try:
        with os.scandir(directory) as entries:
            paths = [entry.path for entry in entries if has_shape(entry.name, shapes)]
    except (FileNotFoundError, NotADirectoryError):
        return UsageChange(0, 0)
    changes = [discard(path) for path in paths]
    remove_if_empty(directory)
    return UsageChange(
        sum(change.bytes for change in changes), sum(change.items for change in changes)
    )


def remove_if_empty(directory: str) -> None:
    """Remove a directory, but not one that a writer has just put a file in."""
    with suppress(OSError):
        Path(directory).rmdir()
