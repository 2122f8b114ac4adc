"""Keeping: where the files of an adopted tree are from then on: where they lie, or copied."""

from __future__ import annotations

from typing import Protocol

from proxy.domain.errors import SourceChanged
from proxy.domain.worker_protocol import ProbeResult
from proxy.library.adoption.inventory import FoundFile
from proxy.storage.originals import OriginalStore, SourceStore
from proxy.storage.originals.naming import HASH_DIGITS, readable


class FilePlacement(Protocol):
    """Gives the files of a tree their place below the storage root."""

    @property
    def copies(self) -> bool:
        """Whether their places are others than before."""

    async def original(self, one: FoundFile, checked: ProbeResult) -> str:
        """The path of an original from now on."""

    async def size(
        self, one: FoundFile, checked: ProbeResult, *, user_id: int, data_type: str
    ) -> str:
        """The path of a pre-made size from now on."""


class InPlacePlacement:
    """For a tree below the storage root: nothing is copied."""

    copies = False

    async def original(self, one: FoundFile, _checked: ProbeResult) -> str:
        """Its path as it is."""
        return one.path

    async def size(
        self, one: FoundFile, _checked: ProbeResult, *, user_id: int, data_type: str
    ) -> str:
        """Its path as it is."""
        del user_id, data_type
        return one.path


class CopyPlacement:
    """For any other tree: files are copied below the root, whole and durably.

    Their names there follow from their content and their day, so that a file that was copied
    before the end of a run that was killed is found by the next, and not copied twice.
    """

    copies = True

    def __init__(self, tree: SourceStore, originals: OriginalStore) -> None:
        """Copy from a tree to where originals are."""
        self._tree = tree
        self._originals = originals

    async def original(self, one: FoundFile, checked: ProbeResult) -> str:
        """Copied to ``bulk/2025-01-15/<name>-<hash>.<type>``; raises as `SourceStore.open` does."""
        return await self._copy(one, checked, f"bulk/{one.day}/{_name(one, checked)}")

    async def size(
        self, one: FoundFile, checked: ProbeResult, *, user_id: int, data_type: str
    ) -> str:
        """Copied to ``library/user_123/<type>/img/<name>-<hash>.<type>``; raises as that does."""
        folder = f"library/user_{user_id}/{data_type}/img"
        return await self._copy(one, checked, f"{folder}/{_name(one, checked)}")

    async def _copy(self, one: FoundFile, checked: ProbeResult, path: str) -> str:
        async with self._tree.open(one.path) as source:
            if source.byte_size != checked.byte_size:
                raise SourceChanged("has changed while it was looked at")
            await self._originals.add(path, source.descriptor)
        return path


def _name(one: FoundFile, checked: ProbeResult) -> str:
    return f"{readable(one.path)}-{checked.content_hash[:HASH_DIGITS]}.{checked.source_type}"
