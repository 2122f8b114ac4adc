"""The directory layout of the disk store.

::

    <root>/3f/12345/<digest>.avif    renditions: shard, medium, variant
    <root>/tmp/                      files being written
    <root>/purges                    the log of purges

A purge removes one directory. One level of 256 shards is enough: with a million media of one
rendition each (3900 directories per shard, ext4) a hit takes as long as with a few media. Each
directory occupies one block, which usage does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import xxhash

from proxy.domain.formats import TRAITS
from proxy.domain.variant import Variant

SHARDS = 256
_TEMPORARY = "tmp"
_BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class UsageChange:
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


@dataclass(frozen=True, slots=True)
class RenditionPaths:
    """The paths below a root, as strings for the system calls."""

    root: str

    @property
    def temporary(self) -> str:
        """The directory of files being written, on the same file system as the renditions."""
        return f"{self.root}/{_TEMPORARY}"

    @property
    def purges(self) -> str:
        """The log of purges."""
        return f"{self.root}/purges"

    def shard(self, shard: int) -> str:
        """Return the directory of a shard."""
        return f"{self.root}/{shard:02x}"

    def medium(self, media_id: int) -> str:
        """Return the directory of a medium."""
        return f"{self.shard(shard_of(media_id))}/{media_id}"

    def rendition(self, variant: Variant) -> str:
        """Return the file of a variant."""
        # The suffix is for people; the digest alone identifies the variant.
        suffix = TRAITS[variant.format].suffix
        return f"{self.medium(variant.media_id)}/{variant.digest}.{suffix}"
