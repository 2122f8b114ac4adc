"""Originals of other web servers: which requests are sent, and what becomes of the responses."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxy.domain.errors import (
    CapacityError,
    SmartserveError,
    SourceMissing,
    SourceTimeout,
    SourceTooLarge,
    SourceUnavailable,
)
from proxy.runtime.byte_budget import ByteBudget
from proxy.storage.originals.fetched import SourceFetcher
from proxy.storage.originals.http_store import HttpOriginals
from proxy.storage.originals.local_store import OpenSource
from tests.support.clock import Clock
from tests.support.waiting import eventually
from tests.support.web_origin import PRIVATE, PUBLIC, Answers, WebOrigin, named, web_origin

MIB = 1024 * 1024

NAMES: dict[str, Answers] = {
    "img.example.org": [PUBLIC],
    "cdn.img.example.org": [PUBLIC],
    "evil.example.org": [PRIVATE],
    "other.example.com": [PUBLIC],
    "meta.example.org": ["169.254.169.254"],
    "azure.example.org": ["168.63.129.16"],
    "rebind.example.org": lambda count: [PUBLIC if count == 1 else PRIVATE],
    "mixed.example.org": [PRIVATE, PUBLIC],
    "mapped.example.org": ["::ffff:127.0.0.1"],
    "nat64.example.org": ["64:ff9b::7f00:1"],
    "sixtofour.example.org": ["2002:7f00:1::"],
    "teredo.example.org": ["2001:0:4136:e378:8000:63bf:80ff:fffe"],
    "six.example.org": ["::1"],
    "zero.example.org": ["0.0.0.0"],
    "private.example.org": ["10.0.4.3"],
    "linklocal.example.org": ["169.254.5.8"],
}
HOSTS = [*(name for name in NAMES if name != "other.example.com"), "*.img.example.org", PRIVATE]


@asynccontextmanager
async def reading(
    origin: WebOrigin, clock: Callable[[], float] | None = None, **settings: Any
) -> AsyncIterator[HttpOriginals]:
    fetcher = SourceFetcher(ByteBudget(8 * MIB))
    originals = HttpOriginals(
        origin.settings(**settings),
        fetcher,
        max_bytes=100 * MIB,
        clock=clock or Clock(),
    )
    try:
        yield originals
        # Whatever happened, no memory is held that nobody uses.
        await eventually(lambda: fetcher.budget.statistics()["held_bytes"] == 0)
    finally:
        await originals.aclose()
        await fetcher.aclose()


@pytest.fixture
async def origin() -> AsyncIterator[WebOrigin]:
    async with web_origin() as running:
        yield running
        assert running.secrets == 0


def content(source: OpenSource) -> bytes:
    with source:
        return os.pread(source.descriptor, source.byte_size + 1, 0)


def attack(*, host: str = "img.example.org", path: str = "/p.jpg", port: str = "{port}") -> str:
    return f"http://{host}:{port}{path}"


SECRET_URL = f"http://{PRIVATE}:{{port}}/latest/meta-data"
ALLOWED = [
    attack(),
    attack(host="IMG.Example.ORG"),
    attack(host="cdn.img.example.org"),
    attack(host="mixed.example.org"),
    attack(path="/redirect?to=/p.jpg"),
    attack(path="/redirect?to=http://cdn.img.example.org:{port}/p.jpg"),
    attack(path="/a b.jpg"),
    attack(path="/p.jpg#fragment"),
]
REFUSED = [
    # Names that lead to addresses that are not public.
    *(attack(host=f"{name}.example.org") for name in ("evil", "meta", "azure", "mapped", "nat64")),
    *(attack(host=f"{name}.example.org") for name in ("sixtofour", "teredo", "six", "zero")),
    *(attack(host=f"{name}.example.org") for name in ("private", "linklocal")),
    # Literal addresses: on the list, and in all forms.
    SECRET_URL,
    *(attack(host=host) for host in ("2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1")),
    *(attack(host=host) for host in ("127.0.0.1.", "[::1]", "[::ffff:127.0.0.1]", "[::]", "0")),
    *(attack(host=host) for host in ("[fe80::1%25eth0]", "[64:ff9b::7f00:1]", "localhost")),
    *(attack(host=host) for host in ("\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021")),
    # Hosts, ports, schemes and forms that are not allowed.
    attack(host="other.example.com"),
    attack(host="img.example.org.evil.example.com"),
    attack(host="notimg.example.org"),
    attack(host="img.example.org."),
    attack(host="img.example.org@evil.example.org"),
    attack(host="evil.example.org\\@img.example.org"),
    attack(host="user:password@img.example.org"),
    attack(port="22"),
    "http://img.example.org/p.jpg",
    "https://img.example.org/p.jpg",
    "ftp://img.example.org:{port}/p.jpg",
    "file:///etc/passwd",
    "file://img.example.org:{port}/etc/passwd",
    "gopher://img.example.org:{port}/_",
    "http:///p.jpg",
    "http://img.example.org:99999/",
    "http://[::1/",
    "//img.example.org:{port}/p.jpg",
    "",
    # Redirects.
    attack(path=f"/redirect?to={SECRET_URL}"),
    attack(path="/redirect?to=http://evil.example.org:{port}/latest/meta-data"),
    attack(path="/redirect?to=http://2130706433:{port}/latest/meta-data"),
    attack(path="/redirect?to=http://other.example.com:{port}/p.jpg"),
    attack(path="/redirect?to=http://img.example.org/p.jpg"),
    attack(path="/redirect?to=//evil.example.org:{port}/p.jpg"),
    attack(path="/redirect?to=file:///etc/passwd"),
    attack(path="/redirect?to=http://user@img.example.org:{port}/p.jpg"),
    attack(path="/redirect?to=/redirect?to%3D" + SECRET_URL),
]


@pytest.mark.parametrize("url", ALLOWED)
async def test_an_allowed_host_is_asked(
    origin: WebOrigin, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    named(monkeypatch, NAMES)
    async with reading(origin, hosts=HOSTS) as originals:
        assert content(await originals.open(url.format(port=origin.port))) == origin.body


@pytest.mark.parametrize("url", REFUSED)
async def test_no_address_leads_to_a_server_that_is_not_allowed(
    origin: WebOrigin, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    named(monkeypatch, NAMES)
    async with reading(origin, hosts=HOSTS) as originals:
        with pytest.raises(SourceMissing, match="not allowed"):
            await originals.open(url.format(port=origin.port))
        assert originals.statistics()["refused"] == 1
    assert origin.secrets == 0


async def test_a_name_that_leads_elsewhere_the_second_time_is_refused(
    origin: WebOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding."""
    named(monkeypatch, NAMES)
    url = origin.url(host="rebind.example.org")
    async with reading(origin, hosts=HOSTS) as originals:
        assert content(await originals.open(url)) == origin.body
    # A new connection: the open one would still lead to the first address.
    async with reading(origin, hosts=HOSTS) as originals:
        with pytest.raises(SourceMissing, match="not allowed"):
            await originals.open(url)


async def test_without_allow_private_the_address_of_an_allowed_host_must_be_public(
    origin: WebOrigin,
) -> None:
    async with reading(origin, allow_private=[]) as originals:
        with pytest.raises(SourceMissing, match="not allowed"):
            await originals.open(origin.url())
    assert origin.received == []


async def test_proxies_of_the_environment_are_not_used(
    origin: WebOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{PRIVATE}:{origin.port}")
    async with reading(origin) as originals:
        assert content(await originals.open(origin.url())) == origin.body


async def test_a_request_has_no_credentials_and_asks_for_no_compression(
    origin: WebOrigin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {PUBLIC} login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    origin.headers = {"Set-Cookie": "session=1; Path=/"}
    async with reading(origin) as originals:
        for path in ("/a.jpg", "/b.jpg"):
            content(await originals.open(origin.url(path)))
    for request in origin.received:
        assert not {"Authorization", "Cookie", "Referer"} & set(request.headers)
        assert request.headers["Accept-Encoding"] == "identity"


async def test_the_file_is_sealed_and_has_the_hash_of_its_content(origin: WebOrigin) -> None:
    async with reading(origin) as originals:
        with await originals.open(origin.url()) as source:
            seals = fcntl.fcntl(source.descriptor, fcntl.F_GET_SEALS)
            assert seals & fcntl.F_SEAL_WRITE
            assert seals & fcntl.F_SEAL_SHRINK
            with pytest.raises(OSError, match=r"not permitted|Bad file"):
                os.write(source.descriptor, b"y")
            assert source.content_hash == hashlib.sha256(origin.body).hexdigest()


async def test_simultaneous_readers_share_a_request_but_no_offset(origin: WebOrigin) -> None:
    async with reading(origin) as originals:
        sources = await asyncio.gather(*(originals.open(origin.url()) for _ in range(5)))
        for source in sources:
            with source:
                assert os.read(source.descriptor, len(origin.body)) == origin.body
        assert await originals.byte_size(origin.url()) == len(origin.body)
    assert len(origin.received) == 1


@pytest.mark.parametrize(
    ("control", "fresh_s"),
    [
        ("", 60),
        ("max-age=600", 600),
        ("public, max-age=600, s-maxage=300", 300),
        ("max-age=0", 10),
        ("no-store", 10),
        ("no-cache, max-age=600", 10),
        ("max-age=999999999", 3600),
        ("x-max-age=600", 60),
        ("max-age=many", 60),
    ],
)
async def test_a_file_is_used_for_as_long_as_its_server_says_within_limits(
    origin: WebOrigin, control: str, fresh_s: float
) -> None:
    clock = Clock()
    origin.headers = {"Cache-Control": control} if control else {}
    async with reading(origin, clock) as originals:
        content(await originals.open(origin.url()))
        clock.now += fresh_s - 1
        content(await originals.open(origin.url()))
        assert len(origin.received) == 1
        clock.now += 1
        content(await originals.open(origin.url()))
    assert len(origin.received) == 2


async def test_a_file_that_has_not_changed_is_not_sent_again(origin: WebOrigin) -> None:
    clock = Clock()
    origin.headers = {"ETag": '"1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    async with reading(origin, clock) as originals:
        first = await originals.open(origin.url())
        clock.now += 3600
        assert content(await originals.open(origin.url())) == content(first)
        counts = originals.statistics()
    assert origin.received[1].headers["If-None-Match"] == '"1"'
    assert origin.received[1].headers["If-Modified-Since"] == "Mon, 01 Jan 2024 00:00:00 GMT"
    assert (counts["not_modified"], counts["fetched_bytes"]) == (1, len(origin.body))


async def test_a_condition_goes_only_to_the_address_that_sent_the_validator(
    origin: WebOrigin,
) -> None:
    clock = Clock()
    origin.headers = {"ETag": '"1"'}
    url = origin.url("/redirect?to=/p.jpg")
    async with reading(origin, clock) as originals:
        for _ in range(2):
            content(await originals.open(url))
            clock.now += 3600
    conditions = [request.headers.get("If-None-Match") for request in origin.received]
    assert conditions == [None, None, None, '"1"']


async def test_a_changed_file_replaces_the_kept_one(origin: WebOrigin) -> None:
    clock = Clock()
    origin.headers = {"ETag": '"1"'}
    async with reading(origin, clock) as originals:
        before = await originals.open(origin.url())
        origin.body, origin.headers = b"y" * len(origin.body), {"ETag": '"2"'}
        clock.now += 3600
        after = await originals.open(origin.url())
        assert after.content_hash != before.content_hash
        # Who reads the old one reads it to its end.
        assert content(before) == b"x" * len(origin.body)
        assert content(after) == origin.body


async def held(origin: WebOrigin, originals: HttpOriginals) -> tuple[asyncio.Task[Any], Any]:
    """Open a file whose response does not come yet; return the task and what lets it come."""
    origin.hold, count = asyncio.Event(), len(origin.received)
    task = asyncio.create_task(originals.open(origin.url()))
    await eventually(lambda: len(origin.received) > count)
    hold, origin.hold = origin.hold, None
    return task, hold


async def test_what_was_requested_before_an_expiration_supplies_nobody_after_it(
    origin: WebOrigin,
) -> None:
    origin.headers = {"Cache-Control": "max-age=3600"}
    old = origin.body
    async with reading(origin) as originals:
        before, hold = await held(origin, originals)
        origin.body = b"y" * len(old)
        originals.expire(origin.url())
        assert content(await originals.open(origin.url())) == origin.body
        hold.set()
        assert content(await before) == old
        # It has not replaced the newer one.
        assert content(await originals.open(origin.url())) == origin.body
    assert len(origin.received) == 2


async def test_what_was_requested_before_an_expiration_is_not_kept_after_it(
    origin: WebOrigin,
) -> None:
    origin.headers = {"Cache-Control": "max-age=3600"}
    async with reading(origin) as originals:
        before, hold = await held(origin, originals)
        originals.expire(origin.url())
        hold.set()
        content(await before)
        assert originals.statistics()["kept_bytes"] == 0
        content(await originals.open(origin.url()))
    assert len(origin.received) == 2


async def test_a_failure_of_a_request_before_an_expiration_is_not_remembered(
    origin: WebOrigin,
) -> None:
    async with reading(origin) as originals:
        origin.status = 404
        before, hold = await held(origin, originals)
        origin.status = 200
        originals.expire(origin.url())
        hold.set()
        with pytest.raises(SourceMissing):
            await before
        assert content(await originals.open(origin.url())) == origin.body


async def test_a_confirmation_of_before_an_expiration_is_not_enough_after_it(
    origin: WebOrigin,
) -> None:
    clock = Clock()
    origin.headers = {"ETag": '"1"', "Cache-Control": "max-age=60"}
    async with reading(origin, clock) as originals:
        content(await originals.open(origin.url()))
        clock.now += 61
        before, hold = await held(origin, originals)
        originals.expire(origin.url())
        hold.set()
        content(await before)
        content(await originals.open(origin.url()))
    conditions = [request.headers.get("If-None-Match") for request in origin.received]
    assert conditions == [None, '"1"', '"1"']


@pytest.mark.parametrize("validators", [{"ETag": '"1"'}, {}])
async def test_a_check_finds_a_change_of_the_content(
    origin: WebOrigin, validators: dict[str, str]
) -> None:
    origin.headers = validators
    async with reading(origin) as originals:
        content_hash = hashlib.sha256(origin.body).hexdigest()
        # Nothing is known yet: the whole file is compared.
        assert not await originals.changed(origin.url(), content_hash)
        assert not await originals.changed(origin.url(), content_hash)
        origin.body = b"y" * len(origin.body)
        origin.headers = {"ETag": '"2"'}
        assert await originals.changed(origin.url(), content_hash)
    conditions = [request.headers.get("If-None-Match") for request in origin.received]
    assert conditions == [None, validators.get("ETag"), validators.get("ETag")]


async def test_a_server_that_fails_does_not_take_away_what_is_kept(origin: WebOrigin) -> None:
    clock = Clock()
    async with reading(origin, clock) as originals:
        content(await originals.open(origin.url()))
        origin.status = 500
        clock.now += 3600
        assert content(await originals.open(origin.url())) == origin.body


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/missing.jpg", 200, SourceMissing),
        ("/p.jpg", 410, SourceMissing),
        ("/p.jpg", 401, SourceUnavailable),
        ("/p.jpg", 403, SourceUnavailable),
        ("/p.jpg", 204, SourceUnavailable),
        ("/p.jpg", 206, SourceUnavailable),
        ("/p.jpg", 304, SourceUnavailable),
        ("/p.jpg", 429, SourceUnavailable),
        ("/p.jpg", 500, SourceUnavailable),
        ("/short", 200, SourceUnavailable),
        ("/unknown-length", 200, SourceUnavailable),
        ("/redirect?to=/redirect?to=/", 200, SourceUnavailable),
    ],
)
async def test_a_response_without_a_file_is_an_error(
    origin: WebOrigin, path: str, status: int, kind: type[SmartserveError]
) -> None:
    origin.status = status
    if path.startswith("/redirect"):
        path = f"/redirect?to={origin.url('/redirect?to=/redirect')}"
    async with reading(origin) as originals:
        with pytest.raises(kind) as caught:
            await originals.open(origin.url(path))
        # The address of an original is not public.
        assert PUBLIC not in caught.value.detail


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "identity, gzip"])
async def test_a_compressed_body_is_refused(origin: WebOrigin, encoding: str) -> None:
    origin.headers = {"Content-Encoding": encoding}
    async with reading(origin) as originals:
        with pytest.raises(SourceUnavailable, match="compressed"):
            await originals.open(origin.url())


async def test_an_original_with_a_length_above_the_limit_is_not_read(origin: WebOrigin) -> None:
    async with reading(origin, max_bytes=len(origin.body) - 1) as originals:
        with pytest.raises(SourceTooLarge):
            await originals.open(origin.url())
        assert originals.statistics()["fetched_bytes"] == 0


async def test_an_original_of_exactly_the_limit_is_read(origin: WebOrigin) -> None:
    async with reading(origin, max_bytes=len(origin.body)) as originals:
        assert content(await originals.open(origin.url())) == origin.body


async def test_an_endless_body_is_read_up_to_the_limit(origin: WebOrigin) -> None:
    async with reading(origin, max_bytes=MIB) as originals:
        with pytest.raises(SourceTooLarge):
            await originals.open(origin.url("/endless"))
        assert originals.statistics()["fetched_bytes"] < 2 * MIB


async def test_a_server_that_does_not_answer_is_given_up(origin: WebOrigin) -> None:
    origin.hold = asyncio.Event()
    async with reading(origin, timeout_s=0.5) as originals:
        with pytest.raises(SourceTimeout):
            await originals.open(origin.url())
    origin.hold.set()


@pytest.mark.slow
async def test_an_original_waits_for_memory_and_is_then_refused(origin: WebOrigin) -> None:
    origin.body = b"x" * (5 * MIB)
    async with reading(origin, timeout_s=10) as originals:
        with await originals.open(origin.url("/a.jpg")), pytest.raises(CapacityError):
            await originals.open(origin.url("/b.jpg"))
        # It is kept, and does not count any more.
        content(await originals.open(origin.url("/b.jpg")))


async def test_a_missing_file_is_not_asked_for_again_at_once(origin: WebOrigin) -> None:
    clock = Clock()
    async with reading(origin, clock) as originals:
        for pause_s in (0, 59, 2):
            clock.now += pause_s
            with pytest.raises(SourceMissing):
                await originals.open(origin.url("/missing.jpg"))
    assert len(origin.received) == 2


async def test_after_several_failures_the_host_is_left_alone_for_a_while(
    origin: WebOrigin,
) -> None:
    clock = Clock()
    async with reading(origin, clock) as originals:
        origin.status = 500
        for number in range(5):
            with pytest.raises(SourceUnavailable):
                await originals.open(origin.url(f"/{number}.jpg"))
        assert len(origin.received) == 3
        assert originals.statistics()["open_circuits"] == 1
        origin.status = 200
        clock.now += 11
        content(await originals.open(origin.url("/5.jpg")))
        content(await originals.open(origin.url("/6.jpg")))
        assert originals.statistics()["open_circuits"] == 0


async def test_one_original_that_always_fails_does_not_block_the_others(origin: WebOrigin) -> None:
    clock = Clock()
    async with reading(origin, clock) as originals:
        for number in range(5):
            clock.now += 6
            with pytest.raises(SourceUnavailable):
                await originals.open(origin.url("/short"))
            content(await originals.open(origin.url(f"/{number}.jpg")))


@pytest.mark.parametrize("status", [429, 503])
async def test_a_host_that_says_when_to_come_back_is_left_alone_until_then(
    origin: WebOrigin, status: int
) -> None:
    clock = Clock()
    async with reading(origin, clock) as originals:
        origin.status, origin.headers = status, {"Retry-After": "100"}
        with pytest.raises(SourceUnavailable):
            await originals.open(origin.url("/a.jpg"))
        origin.status, origin.headers = 200, {}
        clock.now += 99
        with pytest.raises(SourceUnavailable) as caught:
            await originals.open(origin.url("/b.jpg"))
        assert caught.value.retry_after_s == 1
        clock.now += 2
        content(await originals.open(origin.url("/b.jpg")))
    assert origin.paths == ["/a.jpg", "/b.jpg"]


async def test_a_host_without_a_server_is_left_alone_after_one_failure(
    origin: WebOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, {"down.example.org": ["127.0.0.3"]})
    async with reading(
        origin, hosts=["down.example.org"], allow_private=["127.0.0.3"]
    ) as originals:
        for number in range(3):
            with pytest.raises(SourceUnavailable):
                await originals.open(origin.url(f"/{number}.jpg", host="down.example.org"))
        assert originals.statistics()["requests"] == 1


async def test_a_host_is_not_left_alone_because_of_one_that_it_redirects_to(
    origin: WebOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, {"down.example.org": ["127.0.0.3"]})
    down = origin.url(host="down.example.org")
    async with reading(
        origin, hosts=[PUBLIC, "down.example.org"], allow_private=["127.0.0.0/30"]
    ) as originals:
        with pytest.raises(SourceUnavailable):
            await originals.open(origin.url(f"/redirect?to={down}"))
        content(await originals.open(origin.url()))


@pytest.mark.parametrize(("name", "limit"), [("_KEPT_BYTES", 400_000), ("_KEPT_FILES", 2)])
async def test_what_is_kept_is_limited(
    origin: WebOrigin, monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    monkeypatch.setattr(f"proxy.storage.originals.http_store.{name}", limit)
    before = memory_files()
    async with reading(origin) as originals:
        for number in range(10):
            content(await originals.open(origin.url(f"/{number}.jpg")))
        assert originals.statistics()["kept_bytes"] == 2 * len(origin.body)
        # The files of the others are closed as soon as nobody reads them.
        await eventually(lambda: memory_files() <= before + 2)


async def test_a_file_that_is_evicted_while_it_is_read_counts_until_it_is_closed(
    origin: WebOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.storage.originals.http_store._KEPT_FILES", 1)
    async with reading(origin) as originals:
        sources = [await originals.open(origin.url(f"/{number}.jpg")) for number in range(4)]
        await some_turns()
        assert held_bytes(originals) == 4 * len(origin.body)
        for number, source in enumerate(sources[:3]):
            assert content(source) == origin.body
            await some_turns()
            assert held_bytes(originals) == (3 - number) * len(origin.body)
        sources[3].close()


async def test_a_kept_file_that_is_opened_again_counts_when_it_is_evicted(
    origin: WebOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.storage.originals.http_store._KEPT_FILES", 1)
    async with reading(origin) as originals:
        content(await originals.open(origin.url("/a.jpg")))
        await eventually(lambda: held_bytes(originals) == 0)
        with await originals.open(origin.url("/a.jpg")):
            assert held_bytes(originals) == 0, "in the cache it does not count"
            content(await originals.open(origin.url("/b.jpg")))
            await some_turns()
            assert held_bytes(originals) == len(origin.body)
        await eventually(lambda: held_bytes(originals) == 0)


async def some_turns() -> None:
    """Wait until what was given back is in the budget."""
    for _ in range(5):
        await asyncio.sleep(0)


def held_bytes(originals: HttpOriginals) -> float:
    return originals._fetcher.budget.statistics()["held_bytes"]


def memory_files() -> int:
    """Return how many files of fetched originals this process has open."""
    count = 0
    for one in Path("/proc/self/fd").iterdir():
        # A thread may close one meanwhile.
        with suppress(OSError):
            count += "memfd:original" in str(one.readlink())
    return count


def self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, PUBLIC)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(PUBLIC))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return file


async def test_a_certificate_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(self_signed(tmp_path))
    async with web_origin(tls=context) as origin, reading(origin) as originals:
        with pytest.raises(SourceUnavailable, match="cannot be reached"):
            await originals.open(origin.url().replace("http:", "https:"))
    assert origin.received == []


async def test_a_redirect_from_https_to_http_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    # aiohttp's default for all connections, which is built when it is imported.
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    async with web_origin(tls=context) as origin, reading(origin) as originals:
        url = origin.url().replace("http:", "https:")
        assert content(await originals.open(url)) == origin.body
        downgrade = origin.url(f"/redirect?to={origin.url()}").replace("http:", "https:", 1)
        with pytest.raises(SourceMissing, match="not allowed"):
            await originals.open(downgrade)
    assert origin.paths == ["/p.jpg", "/redirect"]
