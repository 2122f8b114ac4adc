"""A rendition store whose disk tier stores nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from proxy.domain.variant import Shapes, Variant
from proxy.settings import RenditionSettings
from proxy.storage.renditions.disk_store import DiskStore
from proxy.storage.renditions.rendition import Rendition
from proxy.storage.renditions.rendition_file import WriteTicket
from proxy.storage.renditions.tiered_store import TieredStore


class NoDisk(DiskStore):
    """Finds, stores and deletes nothing."""

    def __init__(self) -> None:
        super().__init__(Path("/unused"), RenditionSettings())

    async def first(self, _variants: Sequence[Variant]) -> tuple[Variant, Rendition] | None:
        return None

    async def digests(self, _media_id: int) -> frozenset[str]:
        return frozenset()

    async def put(self, ticket: WriteTicket, body: bytes) -> None:
        pass

    async def delete(self, variant: Variant) -> int:
        return 0

    async def purge(self, _media_id: int, _shapes: Shapes = None) -> int:
        return 0


def memory_renditions() -> TieredStore:
    store = TieredStore(Path("/unused"), RenditionSettings())
    store.disk = NoDisk()
    return store
