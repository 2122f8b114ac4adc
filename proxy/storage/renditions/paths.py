"""The directory layout of the disk store, and deletions in it, which block.

::

    <root>/3f/12345/<digest>.avif    renditions: shard, medium, variant
    <root>/tmp/                      files being written
    <root>/purges                    the log of purges

A purge removes one directory. One level of 256 shards is enough: with a million media of one
rendition each (3900 directories per shard, ext4) a hit takes as long as with a few media. Each
directory occupies one block, which usage does not count.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

import xxhash

from proxy.domain.variant import Shapes, Variant, has_shape

SHARDS = 256
_TEMPORARY = "tmp"
_BLOCK_BYTES = 4096


class UsageChange(NamedTuple):
    """A difference of disk usage."""

    bytes: int
    items: int


NO_CHANGE = UsageChange(0, 0)


@lru_cache(maxsize=4096)
def shard_of(media_id: int) -> int:
    """Return the shard of a medium, 0 to 255; hashed, so that any series of ids spreads evenly."""
    return int(xxhash.xxh3_64_intdigest(str(media_id).encode()) % SHARDS)


def cost(byte_size: int) -> int:
    """Return the disk space of a file: its size in whole blocks of 4 KiB."""
    # Negated twice, the floor division rounds up.
    return -(-byte_size // _BLOCK_BYTES) * _BLOCK_BYTES


class RenditionPaths:
    """The paths below a root, as strings for the system calls."""

    def __init__(self, root: str) -> None:
        self.root = root
        # On the same file system as the renditions, so that a complete file can be linked.
        self.temporary = f"{root}/{_TEMPORARY}"
        self.purges = f"{root}/purges"

    def shard(self, shard: int) -> str:
        """Return the directory of a shard."""
        return f"{self.root}/{shard:02x}"

    def medium(self, media_id: int) -> str:
        """Return the directory of a medium."""
        return f"{self.root}/{shard_of(media_id):02x}/{media_id}"

    def rendition(self, variant: Variant) -> str:
        """Return the file of a variant."""
        return f"{self.medium(variant.media_id)}/{variant.file_name}"


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
    # One by one and not by rmtree: usage needs the size of each file.
    changes = [delete_entry(path) for path in paths]
    delete_if_empty(directory)
    return UsageChange(sum(one.bytes for one in changes), sum(one.items for one in changes))


def delete_if_empty(directory: str) -> None:
    """Delete a directory unless it contains files."""
    # rmdir fails if a writer has just put a file there, so no check before it is needed.
    with suppress(OSError):
        Path(directory).rmdir()
