"""Requests to the buckets of a real S3 server, and what its faults are called."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from proxy.storage.bucket import (
    AccessRefused,
    Bucket,
    BucketMissing,
    BucketOverdue,
    BucketUnavailable,
    ObjectBody,
    ObjectExists,
    ObjectMissing,
    reason_of,
)
from tests.deploy.programs import program, run
from tests.faults.tcpproxy import TcpProxy
from tests.storage.buckets import client, s3_settings
from tests.support.seaweedfs import SeaweedFS
from tests.support.server import ROOT

pytestmark = pytest.mark.slow

BODY = b"0123456789" * 300_000


@pytest.fixture(scope="module")
def name(seaweedfs: SeaweedFS) -> str:
    return seaweedfs.create_bucket()


@pytest.fixture
def bucket(seaweedfs: SeaweedFS, name: str) -> Bucket:
    return client(s3_settings(seaweedfs), name)


@pytest.fixture
async def proxy(seaweedfs: SeaweedFS) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(seaweedfs.port) as proxy:
        yield proxy


async def received(bucket: Bucket, key: str) -> bytes:
    return await rest_of(bucket, await bucket.get(key), lambda: None)


async def rest_of(bucket: Bucket, body: ObjectBody, on_piece: Callable[[], None]) -> bytes:
    """Receive a body; ``on_piece`` is called after each piece."""
    pieces = []
    async with bucket.receiving(body):
        async for piece in body.pieces():
            pieces.append(bytes(piece))
            on_piece()
    return b"".join(pieces)


async def test_an_object_is_created_once_read_listed_and_deleted(bucket: Bucket) -> None:
    key = "a b/ä+%20#?.jpg"
    await bucket.create(key, BODY)
    with pytest.raises(ObjectExists):
        await bucket.create(key, b"another")
    assert await received(bucket, key) == BODY
    assert await bucket.read(key, max_bytes=len(BODY)) == BODY
    assert await bucket.read(key, max_bytes=len(BODY) - 1) is None
    assert await bucket.byte_size(key) == len(BODY)
    assert await bucket.keys("a b/") == [key]
    await bucket.delete([key, "never stored"])
    with pytest.raises(ObjectMissing):
        await bucket.get(key)
    assert await bucket.keys("a b/") == []


async def test_a_check_needs_no_object(bucket: Bucket) -> None:
    await bucket.check()
    await bucket.check_writes("prefix/")
    assert await bucket.keys("prefix/") == []


async def test_a_missing_bucket_is_no_missing_object(seaweedfs: SeaweedFS) -> None:
    bucket = client(s3_settings(seaweedfs), "there-is-no-such-bucket")
    for request in (bucket.check(), bucket.get("key"), bucket.byte_size("key")):
        with pytest.raises((BucketMissing, ObjectMissing)) as failed:
            await request
    # HEAD has no body that could give the reason.
    assert isinstance(failed.value, ObjectMissing)
    with pytest.raises(BucketMissing, match="the bucket does not exist"):
        await bucket.get("key")
    assert not bucket.breaker.failing


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"access_key_id": "nobody"}, "the access key does not exist"),
        ({"secret_access_key": "wrong"}, "the secret does not belong to the access key"),
    ],
)
async def test_wrong_credentials_are_refused_with_the_reason(
    seaweedfs: SeaweedFS, name: str, values: dict[str, Any], reason: str
) -> None:
    bucket = client(s3_settings(seaweedfs, **values), name)
    for request in (bucket.check(), bucket.get("key"), bucket.create("key", b"x")):
        with pytest.raises(AccessRefused, match=reason):
            await request
    assert not bucket.breaker.failing


def test_without_keys_the_reason_names_the_setting_and_not_the_address_of_the_role() -> None:
    error = OSError("Error performing PUT http://169.254.169.254/latest/api/token in 2 ms")
    assert "s3.access_key_id and AWS_ACCESS_KEY_ID are empty" in reason_of(error)


async def test_a_key_that_may_only_read_may_not_write(seaweedfs: SeaweedFS, name: str) -> None:
    access, secret = seaweedfs.reader
    section = s3_settings(seaweedfs, access_key_id=access, secret_access_key=secret)
    bucket = client(section, name)
    await bucket.check()
    with pytest.raises(AccessRefused, match="the access key may not do this"):
        await bucket.check_writes("")


async def test_a_server_that_is_down_fails_at_once_and_opens_the_breaker(
    seaweedfs: SeaweedFS, name: str, proxy: TcpProxy
) -> None:
    bucket = client(s3_settings(seaweedfs, proxy.port), name, breaker_s=60)
    proxy.refuse()
    with pytest.raises(BucketUnavailable) as failed:
        await bucket.get("key")
    assert "Debug source" not in str(failed.value)
    assert bucket.breaker.open
    # Not asked again, although it is back.
    await proxy.heal()
    with pytest.raises(BucketUnavailable, match="a moment ago"):
        await bucket.check()
    bucket.breaker.open_until = 0
    await bucket.check()
    assert not bucket.breaker.failing


async def test_a_failed_request_is_not_repeated(seaweedfs: SeaweedFS, name: str) -> None:
    """The library repeats it ten times by default, which takes 11.7 s."""
    answers: list[None] = []

    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        answers.append(None)
        writer.write(b"HTTP/1.1 500 Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(fail, "127.0.0.1", 0) as server:
        bucket = client(s3_settings(seaweedfs, server.sockets[0].getsockname()[1]), name)
        with pytest.raises(BucketUnavailable, match="500"):
            await bucket.get("key")
    assert len(answers) == 1


async def test_a_server_that_does_not_answer_is_overdue(
    seaweedfs: SeaweedFS, name: str, proxy: TcpProxy
) -> None:
    bucket = client(s3_settings(seaweedfs, proxy.port), name, timeout_s=0.2)
    proxy.go_silent()
    with pytest.raises(BucketOverdue):
        await bucket.get("key")
    assert bucket.breaker.open


async def test_a_body_that_ends_early_is_an_error(
    seaweedfs: SeaweedFS, name: str, proxy: TcpProxy
) -> None:
    bucket = client(s3_settings(seaweedfs, proxy.port), name)
    seaweedfs.bucket(name).put("cut", BODY)
    proxy.bytes_per_s = 1_000_000
    body = await bucket.get("cut")
    with pytest.raises(BucketUnavailable):
        await rest_of(bucket, body, proxy.cut)


async def test_a_body_that_trickles_is_overdue(
    seaweedfs: SeaweedFS, name: str, proxy: TcpProxy
) -> None:
    bucket = client(s3_settings(seaweedfs, proxy.port), name, timeout_s=20)
    seaweedfs.bucket(name).put("slow", BODY)
    proxy.bytes_per_s = 100_000
    body = await bucket.get("slow")
    bucket.timeout_s = 0
    with pytest.raises(BucketOverdue):
        await rest_of(bucket, body, lambda: None)


_CHECK = """
import asyncio, os, sys
from proxy.settings import S3Settings
from proxy.storage.bucket import AccessRefused
from tests.storage.buckets import client
bucket = client(S3Settings.model_validate_json(sys.argv[1]), sys.argv[2])
try:
    asyncio.run(bucket.check())
except AccessRefused as error:
    print(error, flush=True)
# The usual exit waits for threads of the library, and with libfaketime it may abort.
os._exit(0)
"""


def test_a_wrong_clock_is_named_and_not_the_credentials(seaweedfs: SeaweedFS, name: str) -> None:
    section = s3_settings(seaweedfs).model_dump_json(exclude_defaults=True)
    ahead = (program("faketime"), "-f", "+1h")
    said = run(*ahead, sys.executable, "-c", _CHECK, section, name, directory=ROOT)
    assert said == "the clock of this machine differs from that of the storage\n"


def test_the_reason_of_an_unknown_error_is_one_line_without_the_dump_of_the_library() -> None:
    error = OSError("Generic S3 error: HTTP error\n\nDebug source:\nGeneric {...}")
    assert reason_of(error) == "Generic S3 error: HTTP error"
    assert reason_of(OSError()) == "OSError"
