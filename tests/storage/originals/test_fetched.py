"""Copies of originals in sealed memory files."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from proxy.domain.errors import SourceTooLarge, SourceUnavailable
from proxy.runtime.byte_budget import ByteBudget
from proxy.storage.originals.fetched import FetchedFile, SourceFetcher
from tests.support.descriptors import open_descriptors
from tests.support.waiting import eventually

BODY = b"abc" * 1000


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.fixture
async def fetcher() -> AsyncIterator[SourceFetcher]:
    async with aclosing(SourceFetcher(ByteBudget(10_000))) as fetcher:
        yield fetcher


async def test_a_copy_has_all_bytes_and_cannot_be_changed(fetcher: SourceFetcher) -> None:
    with await fetcher.copy(
        pieces(BODY, b"end"), held_bytes=0, max_bytes=10_000, version="v"
    ) as source:
        assert os.read(source.descriptor, 10_000) == BODY + b"end"
        assert (source.byte_size, source.version) == (len(BODY) + 3, "v")
        for change in (
            lambda: os.pwrite(source.descriptor, b"x", 0),
            lambda: os.ftruncate(source.descriptor, 1),
            lambda: os.ftruncate(source.descriptor, 100_000),
        ):
            with pytest.raises(OSError, match="not permitted") as failed:
                change()
            assert failed.value.errno == errno.EPERM


async def test_its_memory_is_given_back_when_it_is_closed(fetcher: SourceFetcher) -> None:
    await fetcher.budget.take(5000)
    source = await fetcher.copy(pieces(BODY), held_bytes=5000, max_bytes=5000)
    assert fetcher.budget.statistics()["held_bytes"] == 5000
    source.close()
    await eventually(lambda: fetcher.budget.statistics()["held_bytes"] == 0)


@pytest.mark.parametrize("length", [len(BODY) - 1, len(BODY) + 1])
async def test_a_body_of_another_length_than_announced_is_refused(
    fetcher: SourceFetcher, length: int
) -> None:
    before = open_descriptors()
    with pytest.raises(SourceUnavailable, match="incomplete"):
        await fetcher.copy(pieces(BODY), held_bytes=0, max_bytes=5000, byte_size=length)
    assert open_descriptors() <= before


async def test_a_body_without_an_end_is_cut_off(fetcher: SourceFetcher) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield BODY

    before = open_descriptors()
    with pytest.raises(SourceTooLarge, match="10000 bytes"):
        await fetcher.copy(endless(), held_bytes=0, max_bytes=10_000)
    assert open_descriptors() <= before


async def test_a_cancelled_copy_leaves_no_descriptor(fetcher: SourceFetcher) -> None:
    arrived = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield BODY
        arrived.set()
        await asyncio.Event().wait()

    before = open_descriptors()
    task = asyncio.create_task(fetcher.copy(stalled(), held_bytes=0, max_bytes=5000))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_descriptors() <= before


async def test_a_copy_is_read_in_pieces_and_closed_once(fetcher: SourceFetcher) -> None:
    await fetcher.budget.take(3000)
    closed: list[None] = []
    source = await fetcher.copy(pieces(BODY), held_bytes=3000, max_bytes=5000)
    file = FetchedFile(source, also=lambda: closed.append(None))
    assert file.pread(3, 3) == b"abc"
    assert BODY.startswith(file.head)
    file.close()
    file.close()
    await eventually(lambda: closed and fetcher.budget.statistics()["held_bytes"] == 0)
    assert len(closed) == 1
