"""Deletes files and directories below the root of the disk store. All functions block."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

from proxy.domain.variant import Shapes, has_shape
from proxy.storage.renditions.paths import NO_CHANGE, UsageChange, cost


def delete_entry(path: str) -> UsageChange:
    """Delete whatever exists at the path of a rendition; return the change of usage."""
    file = Path(path)
    try:
        status = file.lstat()
        if stat.S_ISDIR(status.st_mode):
            # Usage never counted it, because a survey counts files only.
            rmtree(file)
            return NO_CHANGE
        file.unlink()
    except FileNotFoundError:
        return NO_CHANGE
    except NotADirectoryError:
        # A file or link occupies the path of the medium's directory.
        file.parent.unlink(missing_ok=True)
        return NO_CHANGE
    return UsageChange(-cost(status.st_size), -1)


def delete_medium(directory: str, shapes: Shapes = None) -> UsageChange:
    """Delete a medium's files, in these shapes or all; return the change of usage."""
    try:
        with os.scandir(directory) as entries:
            paths = [entry.path for entry in entries if has_shape(entry.name, shapes)]
    except (FileNotFoundError, NotADirectoryError):
        return NO_CHANGE
    changes = [delete_entry(path) for path in paths]
    delete_if_empty(directory)
    return UsageChange(sum(one.bytes for one in changes), sum(one.items for one in changes))


def delete_if_empty(directory: str) -> None:
    """Delete a directory unless it contains files."""
    # rmdir fails if a writer has just put a file there, so no check before it is needed.
    with suppress(OSError):
        Path(directory).rmdir()
