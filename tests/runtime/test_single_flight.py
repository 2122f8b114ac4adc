"""Request coalescing by key, and the byte stream of a run with its concurrent readers."""

import asyncio

import pytest

from proxy.domain.errors import QueueFull
from proxy.runtime.single_flight import ByteStream, SharedResults


async def test_a_result_is_computed_once_for_concurrent_calls() -> None:
    shared: SharedResults[int] = SharedResults()
    times = 0

    async def work() -> int:
        nonlocal times
        times += 1
        await asyncio.sleep(0)
        return 7

    assert await asyncio.gather(*(shared.result("a", work) for _ in range(5))) == [7] * 5
    assert await shared.result("a", work) == 7
    assert times == 2
    await shared.aclose()


async def test_an_error_reaches_all_callers_and_is_not_remembered() -> None:
    shared: SharedResults[int] = SharedResults()

    async def fail() -> int:
        await asyncio.sleep(0)
        raise QueueFull("full")

    async def succeed() -> int:
        return 1

    asking = (shared.result("a", fail) for _ in range(3))
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in results] == [QueueFull] * 3
    assert await shared.result("a", succeed) == 1
    await shared.aclose()


async def chunks_of(stream: ByteStream) -> list[bytes]:
    return [chunk async for chunk in stream.chunks()]


async def test_every_reader_gets_all_bytes_whenever_it_starts() -> None:
    stream = ByteStream()
    early = asyncio.create_task(chunks_of(stream))
    await asyncio.sleep(0)
    stream.feed(b"one")
    late = asyncio.create_task(chunks_of(stream))
    await asyncio.sleep(0)
    stream.feed(b"two")
    stream.finish()
    assert await early == await late == await chunks_of(stream) == [b"one", b"two"]


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
