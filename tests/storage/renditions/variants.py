"""Variants and bodies for the tests of rendition stores."""

import random
from contextlib import AbstractAsyncContextManager

import pytest

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile, Geometry, Variant
from proxy.settings import RenditionSettings
from proxy.storage.renditions import Rendition, RenditionStore, RenditionWriter

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


async def put(store: RenditionStore, key: Variant, content: bytes, *, pieces: int = 1) -> None:
    step = -(-len(content) // pieces) or 1
    async with _writer(store, key) as writer:
        for start in range(0, len(content), step):
            await writer.write(content[start : start + step])


def _writer(store: RenditionStore, key: Variant) -> AbstractAsyncContextManager[RenditionWriter]:
    return store.writer(key)


async def read(store: RenditionStore, key: Variant) -> bytes | None:
    """The body that a store gives, read to its end and closed."""
    rendition = await store.get(key)
    if rendition is None:
        return None
    try:
        return await whole(rendition)
    finally:
        rendition.close()


async def whole(rendition: Rendition) -> bytes:
    return b"".join([piece async for piece in rendition.chunks(0, rendition.length)])


async def write_and_fail(store: RenditionStore, key: Variant, content: bytes) -> None:
    """Write all of a body, then let the block end with an error."""
    with pytest.raises(RuntimeError):  # noqa: PT012 - the block is what is tested
        async with _writer(store, key) as writer:
            await writer.write(content)
            raise RuntimeError
