"""A growing byte stream and its concurrent readers."""

import asyncio

import pytest

from proxy.runtime.byte_stream import ByteStream


async def read(stream: ByteStream) -> list[bytes]:
    return [chunk async for chunk in stream.chunks()]


async def test_every_reader_gets_all_bytes_whenever_it_starts() -> None:
    stream = ByteStream()
    early = asyncio.create_task(read(stream))
    await asyncio.sleep(0)
    stream.feed(b"one")
    late = asyncio.create_task(read(stream))
    await asyncio.sleep(0)
    stream.feed(b"two")
    stream.finish()
    assert await early == await late == await read(stream) == [b"one", b"two"]


async def test_a_cancelled_reader_does_not_affect_the_others() -> None:
    stream = ByteStream()
    leaving, staying = (asyncio.create_task(stream.whole()) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    stream.feed(b"all")
    stream.finish()
    assert await staying == b"all"


async def test_started_returns_at_the_first_byte() -> None:
    stream = ByteStream()
    started = asyncio.create_task(stream.started())
    await asyncio.sleep(0)
    assert not started.done()
    stream.feed(b"x")
    await started
    assert not stream.complete


async def test_an_error_before_the_first_byte_is_raised_at_once() -> None:
    stream = ByteStream()
    stream.fail(LookupError("gone"))
    with pytest.raises(LookupError, match="gone"):
        await stream.started()


async def test_an_error_after_some_bytes_is_raised_after_them() -> None:
    stream = ByteStream()
    stream.feed(b"half")
    stream.fail(LookupError("gone"))
    await stream.started()
    chunks = stream.chunks()
    assert await anext(chunks) == b"half"
    with pytest.raises(LookupError):
        await anext(chunks)
    with pytest.raises(LookupError):
        await stream.whole()


async def test_the_length_counts_the_bytes_so_far() -> None:
    stream = ByteStream()
    stream.feed(b"123")
    assert (stream.length, stream.complete) == (3, False)
    stream.finish()
    assert stream.complete
