"""The parser: which requests pass, which are answered or rejected before aiohttp sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestPayloadError

from proxy.web.server.parser import Message, Parser, RejectedRequest
from proxy.web.server.request_validation import TOO_SLOW

GET = b"GET /serve/1 HTTP/1.1\r\nHost: x\r\n\r\n"
PROBE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /info HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
MAX_HEAD_BYTES = 1000


class Listener:
    """Answers from its cache if it has one, and records what it is called with."""

    def __init__(self, *, cached: bool = False) -> None:
        self.cached = cached
        self.requested: list[str] = []
        self.heads: list[str] = []

    def answer_at_once(self, message: Any, payload: object, began: float) -> bool:
        assert began > 0
        self.requested.append(message.path)
        return self.cached and payload is EMPTY_PAYLOAD

    def head_is_awaited(self, *, anew: bool) -> None:
        self.heads.append("next begun" if anew else "begun")

    def head_is_complete(self) -> None:
        self.heads.append("complete")


class Bench:
    """A parser before a real one of aiohttp."""

    def __init__(self, *, cached: bool = False) -> None:
        self.listener = Listener(cached=cached)
        loop = asyncio.get_running_loop()
        behind = HttpRequestParser(
            BaseProtocol(loop), loop, 2**16, payload_exception=RequestPayloadError
        )
        self.parser = Parser(behind, self.listener, max_head_bytes=MAX_HEAD_BYTES)

    def feed(self, *chunks: bytes) -> list[Message]:
        """Return the messages of all chunks."""
        return [message for chunk in chunks for message in self.parser.feed_data(chunk)[0]]


@pytest.fixture
async def bench() -> Bench:
    return Bench()


def paths(messages: Sequence[Message]) -> list[str]:
    return [message.path for message, _ in messages]


def status(message: Message) -> int:
    """Return the status of a rejection."""
    error = message[0].exc
    assert isinstance(error, RejectedRequest)
    assert message[0].status == error.rejection.status
    assert message[1] is EMPTY_PAYLOAD
    return error.rejection.status


async def test_a_request_that_is_answered_at_once_is_left_out() -> None:
    bench = Bench(cached=True)
    assert bench.feed(GET, PROBE, GET) == []
    assert bench.listener.requested == ["/serve/1", "/healthz", "/serve/1"]


async def test_a_request_that_is_not_cached_passes(bench: Bench) -> None:
    assert paths(bench.feed(GET)) == ["/serve/1"]
    assert bench.listener.requested == ["/serve/1"]


@pytest.mark.parametrize(
    "chunks",
    [(GET + PROBE,), (GET[:9], GET[9:]), (GET + GET[:9], GET[9:])],
    ids=["two", "in pieces", "behind another"],
)
async def test_only_a_request_that_is_exactly_a_chunk_is_answered_at_once(
    chunks: tuple[bytes, ...],
) -> None:
    bench = Bench(cached=True)
    assert len(bench.feed(*chunks)) >= 1
    assert bench.listener.requested == []


@pytest.mark.parametrize("step", [1, 3, 10, 1000])
async def test_requests_in_any_pieces_pass_in_their_order(bench: Bench, step: int) -> None:
    sent = GET + PROBE + GET
    chunks = [sent[at : at + step] for at in range(0, len(sent), step)]
    assert paths(bench.feed(*chunks)) == ["/serve/1", "/healthz", "/serve/1"]
    assert not bench.parser.begun
    assert bench.listener.heads[-1] == "complete"


async def test_an_incomplete_head_is_reported_until_it_is_complete(bench: Bench) -> None:
    bench.feed(GET[:9])
    assert bench.parser.begun
    bench.feed(GET[9:])
    assert not bench.parser.begun
    bench.feed(GET + GET[:-1])
    assert bench.parser.begun
    assert bench.listener.heads == ["begun", "complete", "next begun"]


@pytest.mark.parametrize("split", [1, 2, 3])
async def test_an_empty_line_in_two_chunks_ends_a_head(bench: Bench, split: int) -> None:
    bench.feed(GET[:-split], GET[-split:] + PROBE[:5])
    # The five bytes of the next head count, and no byte of the first.
    assert bench.parser.begun
    rest = MAX_HEAD_BYTES - 5
    assert bench.feed(b"X" * rest) == []
    (rejected,) = bench.feed(b"X")
    assert status(rejected) == 431


async def test_a_request_that_two_servers_could_read_in_two_ways_is_rejected(bench: Bench) -> None:
    smuggled = GET.replace(b"Host: x", b"Host: x/y")
    first, rejected = bench.feed(PROBE + smuggled + PROBE)
    assert paths([first]) == ["/healthz"]
    assert status(rejected) == 400
    assert rejected[0].exc.method == "GET"
    assert bench.parser.discards
    assert bench.feed(PROBE) == []


async def test_what_is_no_http_is_an_error_after_which_nothing_is_read(bench: Bench) -> None:
    with pytest.raises(HttpProcessingError):
        bench.feed(b"NONSENSE\r\n\r\n")
    assert bench.parser.discards
    assert bench.feed(PROBE) == []


@pytest.mark.parametrize("step", [100, 10_000])
async def test_a_head_above_the_limit_is_rejected(bench: Bench, step: int) -> None:
    large = GET[:-2] + b"".join(b"X%d: %b\r\n" % (n, b"y" * 100) for n in range(10)) + b"\r\n"
    chunks = [large[at : at + step] for at in range(0, len(large), step)]
    (rejected,) = bench.feed(*chunks)
    assert status(rejected) == 431
    assert bench.parser.discards


async def test_small_requests_may_together_exceed_the_limit_of_a_head(bench: Bench) -> None:
    assert len(bench.feed(GET * 100)) == 100


async def test_a_body_ends_its_connection(bench: Bench) -> None:
    ((message, body),) = bench.feed(POST + b"he", b"llo" + PROBE, PROBE)
    assert message.should_close
    assert isinstance(body, StreamReader)
    assert await body.read() == b"hello"
    assert bench.listener.heads == ["complete"]
    assert bench.parser.end_body()
    assert bench.parser.discards


async def test_a_body_that_is_malformed_is_an_error_for_its_reader(bench: Bench) -> None:
    head = POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
    ((_, body),) = bench.feed(head, b"5\r\nhello\r\nxyz\r\n")
    with pytest.raises(RequestPayloadError):
        await body.read()
    assert bench.parser.discards


async def test_a_body_at_an_address_without_one_is_rejected(bench: Bench) -> None:
    (rejected,) = bench.feed(POST.replace(b"/info", b"/healthz") + b"hello")
    assert status(rejected) == 413


async def test_without_a_body_there_is_none_to_end(bench: Bench) -> None:
    bench.feed(GET)
    assert not bench.parser.end_body()
    assert not bench.parser.discards


@pytest.mark.parametrize(
    "offer", [b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHost: x\r\n\r\n"]
)
async def test_an_offered_upgrade_is_ignored_and_ends_the_connection(
    bench: Bench, offer: bytes
) -> None:
    ((message, _),) = bench.feed(offer + PROBE)
    assert (message.upgrade, message.should_close) == (False, True)
    assert bench.parser.discards


async def test_a_restricted_parser_passes_one_probe_only() -> None:
    bench = Bench(cached=True)
    bench.parser.restrict()
    ((message, _),) = bench.feed(PROBE + PROBE)
    assert (message.path, message.should_close) == ("/healthz", True)
    assert bench.listener.requested == []


async def test_a_restricted_parser_rejects_what_is_no_probe(bench: Bench) -> None:
    bench.parser.restrict()
    (rejected,) = bench.feed(GET)
    assert status(rejected) == 503


async def test_discarded_input_counts_as_no_head(bench: Bench) -> None:
    bench.feed(GET[:9])
    bench.parser.discard_input()
    assert not bench.parser.begun
    assert bench.feed(GET[9:], PROBE) == []
    assert not bench.parser.begun


def test_a_rejection_stands_among_the_messages_with_its_reason() -> None:
    rejected = RejectedRequest(TOO_SLOW, "GET")
    assert status(rejected.as_message()) == 408
    assert rejected.as_message()[0].message == TOO_SLOW.detail
