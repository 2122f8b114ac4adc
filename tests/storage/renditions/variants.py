"""Variants and bodies for the tests of rendition stores."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile, Geometry, Variant
from proxy.settings import RenditionSettings
from proxy.storage.renditions.disk_store import DiskStore
from proxy.storage.renditions.rendition import Rendition
from proxy.storage.renditions.rendition_file import TRAILER_BYTES, WriteTicket
from proxy.storage.renditions.tiered_store import TieredStore
from tests.support.waiting import eventually

KIB = 1024
MIB = 1024 * KIB
AVIF = EncoderProfile(Format.AVIF, (("Q", 63), ("effort", 1)))


def variant(media_id: int = 1, width: int = 300) -> Variant:
    return Variant(
        media_id=media_id,
        version="ab" * 32,
        geometry=Geometry(width, width, width, width),
        profile=AVIF,
        background_removed=False,
        animated=False,
        recipe="r1-vips8.18.7",
    )


def body(length: int = 13 * KIB, seed: object = 0) -> bytes:
    return random.Random(f"{length} {seed}").randbytes(length)


def settings(**values: float) -> RenditionSettings:
    return RenditionSettings.model_validate(values)


async def put(store: DiskStore | TieredStore, key: Variant, content: bytes) -> None:
    ticket = store.ticket(key) if isinstance(store, TieredStore) else WriteTicket(key)
    await store.put(ticket, content)


async def get(store: DiskStore | TieredStore, key: Variant) -> Rendition | None:
    found = await store.first((key,))
    return None if found is None else found[1]


async def read(store: DiskStore | TieredStore, key: Variant) -> bytes | None:
    """The body that a store gives, read to its end and closed."""
    rendition = await get(store, key)
    if rendition is None:
        return None
    try:
        return await whole(rendition)
    finally:
        rendition.close()


async def whole(rendition: Rendition) -> bytes:
    return b"".join([piece async for piece in rendition.chunks(0, rendition.length)])


def supports_nowait(directory: Path) -> None:
    """Skip the test where files cannot be read with RWF_NOWAIT, as in tmpfs."""
    file = directory / "probe"
    file.write_bytes(b"x")
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError as error:
        pytest.skip(f"RWF_NOWAIT cannot be used in {directory}: {error}")
    finally:
        os.close(descriptor)
        file.unlink()


def unnamed_sizes(root: str) -> list[int]:
    """The lengths of the files below the root that are open and have no name."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith(root) and target.endswith(" (deleted)"):
                found.append(descriptor.stat().st_size)
    return found


@asynccontextmanager
async def writing(store: DiskStore, key: Variant, content: bytes) -> AsyncIterator[None]:
    """Write a file that is complete, but has no name until the block ends."""
    with store._publishing:
        task = asyncio.create_task(put(store, key, content))
        size = len(content) + TRAILER_BYTES
        await eventually(lambda: size in unnamed_sizes(store._paths.root))
        yield
    await task
