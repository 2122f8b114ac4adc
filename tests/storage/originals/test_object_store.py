"""Originals in the buckets of a real S3 server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path

import pytest

from proxy.domain.errors import (
    QueueFull,
    SmartserveError,
    SourceMissing,
    SourceTimeout,
    SourceTooLarge,
    SourceUnavailable,
)
from proxy.runtime.byte_budget import ByteBudget
from proxy.storage.bucket import Bucket
from proxy.storage.originals import object_store
from proxy.storage.originals.fetched import SourceFetcher
from proxy.storage.originals.object_store import ObjectOriginals
from tests.faults.tcpproxy import TcpProxy
from tests.storage.buckets import client, s3_settings
from tests.support.seaweedfs import SeaweedFS
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

MAX_BYTES = 3_000_000
BODY = b"0123456789" * 250_000
KEY = "2025/ä photo.jpg"


@pytest.fixture(scope="module")
def name(seaweedfs: SeaweedFS) -> str:
    name = seaweedfs.create_bucket()
    seaweedfs.bucket(name).put(KEY, BODY)
    return name


@pytest.fixture
async def proxy(seaweedfs: SeaweedFS) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(seaweedfs.port) as proxy:
        yield proxy


@pytest.fixture
def bucket(seaweedfs: SeaweedFS, name: str, proxy: TcpProxy) -> Bucket:
    return client(s3_settings(seaweedfs, proxy.port), name)


@pytest.fixture
def budget() -> ByteBudget:
    return ByteBudget(2 * MAX_BYTES)


@pytest.fixture
async def originals(
    name: str, bucket: Bucket, budget: ByteBudget
) -> AsyncIterator[ObjectOriginals]:
    buckets = {f"s3://{name}": bucket}
    reader = ObjectOriginals(buckets, SourceFetcher(budget), max_bytes=MAX_BYTES)
    async with aclosing(reader) as originals:
        yield originals


async def test_an_object_is_copied_with_its_size_and_etag(
    originals: ObjectOriginals, name: str, budget: ByteBudget
) -> None:
    path = f"s3://{name}/{KEY}"
    with await originals.open(path) as source:
        assert os.pread(source.descriptor, len(BODY) + 1, 0) == BODY
        assert source.byte_size == len(BODY)
        assert source.version
        assert budget.statistics()["held_bytes"] == len(BODY)
    await eventually(lambda: budget.statistics()["held_bytes"] == 0)
    assert await originals.byte_size(path) == len(BODY)


async def test_the_etag_differs_after_a_change(
    originals: ObjectOriginals, name: str, seaweedfs: SeaweedFS
) -> None:
    path, versions = f"s3://{name}/changing", set[str]()
    for body in (b"one", b"two"):
        seaweedfs.bucket(name).put("changing", body)
        with await originals.open(path) as source:
            versions.add(source.version)
    assert len(versions) == 2


@pytest.mark.parametrize(
    "address",
    [
        "s3://{name}/no/such/key",
        "s3://another-bucket/key",
        "s3://{name}",
        "s3://{name}/",
        "s3://{name}/2025/../2025/ä photo.jpg",
        "s3://{name}/2025//ä photo.jpg",
        "s3://{name}/\udcff",
        "s3://{name}/" + "x" * 1025,
    ],
)
async def test_what_names_no_object_is_missing(
    originals: ObjectOriginals, name: str, address: str
) -> None:
    with pytest.raises(SourceMissing) as failed:
        await originals.open(address.format(name=name))
    assert name not in failed.value.detail
    assert originals.statistics()["failures_missing"] == 1


async def test_a_bucket_that_is_not_configured_is_named_as_the_cause(
    originals: ObjectOriginals,
) -> None:
    with pytest.raises(SourceMissing) as failed:
        await originals.open("s3://another-bucket/key")
    assert "s3.buckets" in failed.value.reason


async def test_an_object_that_is_too_large_is_not_received(
    originals: ObjectOriginals, name: str, seaweedfs: SeaweedFS, budget: ByteBudget
) -> None:
    seaweedfs.bucket(name).put("large", bytes(MAX_BYTES + 1))
    with pytest.raises(SourceTooLarge):
        await originals.open(f"s3://{name}/large")
    assert budget.statistics()["held_bytes"] == 0


async def test_the_bytes_in_flight_stay_within_the_budget(
    originals: ObjectOriginals,
    name: str,
    budget: ByteBudget,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 originals at the same time, of which two fit."""
    # Behind an admission, a few wait.
    monkeypatch.setattr(object_store, "_BUDGET_WAIT_S", 200)
    held: list[float] = []

    async def use() -> None:
        with await originals.open(f"s3://{name}/{KEY}") as source:
            held.append(budget.statistics()["held_bytes"])
            assert os.pread(source.descriptor, len(BODY) + 1, 0) == BODY

    await asyncio.gather(*(use() for _ in range(64)))
    assert len(held) == 64
    assert max(held) <= 2 * MAX_BYTES
    await eventually(lambda: budget.statistics() == {"held_bytes": 0, "waiting": 0})


async def test_a_budget_that_stays_exhausted_is_overload(
    originals: ObjectOriginals,
    name: str,
    budget: ByteBudget,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_store, "_BUDGET_WAIT_S", 0.01)
    await budget.take(2 * MAX_BYTES)
    with pytest.raises(QueueFull) as failed:
        await originals.open(f"s3://{name}/{KEY}")
    assert failed.value.retry_after_s
    assert budget.statistics() == {"held_bytes": 2 * MAX_BYTES, "waiting": 0}


FAULTS: list[tuple[str, type[SmartserveError]]] = [
    ("down", SourceUnavailable),
    ("silent", SourceTimeout),
    ("truncated", SourceUnavailable),
]


@pytest.mark.parametrize(("fault", "expected"), FAULTS)
async def test_a_fault_of_the_storage_leaves_nothing_behind(
    originals: ObjectOriginals,
    name: str,
    bucket: Bucket,
    proxy: TcpProxy,
    budget: ByteBudget,
    fault: str,
    expected: type[SmartserveError],
) -> None:
    path = f"s3://{name}/{KEY}"
    # The event loop of the library opens its descriptors with the first request.
    with await originals.open(path):
        pass
    await eventually(lambda: budget.statistics()["held_bytes"] == 0)
    opened = copies()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(proxy.heal)
        if fault == "down":
            proxy.refuse()
        elif fault == "silent":
            bucket.timeout_s = 0.2
            proxy.go_silent()
        else:
            proxy.bytes_per_s = 1_000_000
            cutting = asyncio.create_task(_cut_later(proxy, budget))
            stack.callback(cutting.cancel)
        with pytest.raises(expected):
            await originals.open(path)
    assert budget.statistics() == {"held_bytes": 0, "waiting": 0}
    assert copies() == opened
    # And the breaker refuses further requests at once.
    assert bucket.breaker.open
    with pytest.raises(SourceUnavailable):
        await originals.open(path)


def copies() -> int:
    """Return the number of memory files of originals that this process has open."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            count += "memfd:original" in str(link.readlink())
    return count


async def _cut_later(proxy: TcpProxy, budget: ByteBudget) -> None:
    """Close the connection once the answer has begun."""
    await eventually(lambda: budget.statistics()["held_bytes"] > 0)
    proxy.cut()


async def test_cancelled_calls_hold_nothing(
    originals: ObjectOriginals, name: str, proxy: TcpProxy, budget: ByteBudget
) -> None:
    before = copies()
    proxy.bytes_per_s = 500_000
    tasks = [asyncio.create_task(originals.open(f"s3://{name}/{KEY}")) for _ in range(5)]
    await eventually(lambda: budget.statistics()["waiting"] > 0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await proxy.heal()
    assert budget.statistics() == {"held_bytes": 0, "waiting": 0}
    assert copies() == before
