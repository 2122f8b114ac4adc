"""The parser: which requests pass, which are answered or rejected before aiohttp sees them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo

from proxy.web.server import parser as parser_module
from proxy.web.server.parser import TOO_SLOW, Message, ParsedHeads, Parser, RejectedRequest
from tests.support.server import Library, Serve, Serving
from tests.web.wire import Told, answers, exchange, until

GET = b"GET /serve/1 HTTP/1.1\r\nHost: x\r\n\r\n"
PROBE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /info HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
MAX_HEAD_BYTES = 1000


class Bench:
    """A parser before a real one of aiohttp; the time is set by the test."""

    def __init__(
        self,
        *,
        cached: bool = False,
        max_head_bytes: int = MAX_HEAD_BYTES,
        parsed_heads: ParsedHeads | None = None,
        implementation: Callable[..., Any] = HttpRequestParser,
    ) -> None:
        self.cached = cached
        self.requested: list[str] = []
        self.heads: list[tuple[Any, ...]] = []
        """Method and headers of each requested target."""
        self.parsed = 0
        """Chunks that aiohttp's parser got."""
        self.now = 1.0
        loop = asyncio.get_running_loop()
        behind = implementation(
            BaseProtocol(loop),
            loop,
            2**16,
            payload_exception=RequestPayloadError,
            max_line_size=8177,
            max_field_size=8190,
        )
        self.parser = Parser(
            Counting(self, behind),
            self.answer,
            lambda: self.now,
            parsed_heads=parsed_heads or ParsedHeads(),
            max_head_bytes=max_head_bytes,
            max_line_bytes=8190,
            max_target_bytes=8177,
        )

    def answer(self, message: Any, target: str, began: float) -> bool:
        assert began > 0
        self.requested.append(target)
        self.heads.append((message.method, *message.headers.items()))
        return self.cached

    def feed(self, *chunks: bytes) -> list[Message]:
        """Return the messages of all chunks."""
        return [message for chunk in chunks for message in self.parser.feed_data(chunk)[0]]


class Counting:
    """A parser of aiohttp that counts its calls."""

    def __init__(self, bench: Bench, behind: HttpRequestParser) -> None:
        self._bench = bench
        self._behind = behind

    def feed_data(self, data: bytes) -> Any:
        self._bench.parsed += 1
        return self._behind.feed_data(data)

    def message_consumed(self) -> None:
        self._behind.message_consumed()


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


@pytest.mark.parametrize("implementation", [HttpRequestParser, HttpRequestParserPy])
@pytest.mark.parametrize(
    "target", [b"/\xff", b"/caf\xc3\xa9", b"/oembed?url=http://x/\xff/serve/1"]
)
async def test_a_target_with_bytes_beyond_ascii_is_rejected(
    implementation: Any, target: bytes
) -> None:
    bench = Bench(implementation=implementation)
    (rejected,) = bench.feed(GET.replace(b"/serve/1", target))
    assert status(rejected) == 400
    assert bench.requested == []


async def test_a_request_that_is_answered_at_once_is_left_out() -> None:
    bench = Bench(cached=True)
    assert bench.feed(GET, PROBE, GET) == []
    assert bench.requested == ["/serve/1", "/healthz", "/serve/1"]


async def test_a_request_that_is_not_cached_passes(bench: Bench) -> None:
    assert paths(bench.feed(GET)) == ["/serve/1"]
    assert bench.requested == ["/serve/1"]


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
    assert bench.requested == []


async def test_a_head_is_parsed_once_for_all_targets_and_connections() -> None:
    heads = ParsedHeads()
    bench, other = (Bench(cached=True, parsed_heads=heads) for _ in range(2))
    second = GET.replace(b"/serve/1", b"/serve/22?size=thumbnail&v=%20a")
    assert bench.feed(GET, second, GET) == []
    assert other.feed(second) == []
    assert bench.requested == ["/serve/1", "/serve/22?size=thumbnail&v=%20a", "/serve/1"]
    assert other.requested == ["/serve/22?size=thumbnail&v=%20a"]
    assert (bench.parsed, other.parsed) == (1, 0)
    assert bench.parser.head_since == other.parser.head_since == 0


async def test_a_request_that_only_its_head_was_answered_for_is_parsed_and_passed() -> None:
    heads = ParsedHeads()
    Bench(cached=True, parsed_heads=heads).feed(GET)
    bench = Bench(parsed_heads=heads)
    assert paths(bench.feed(GET.replace(b"/serve/1", b"/serve/2"))) == ["/serve/2"]
    assert bench.parsed == 1


@pytest.mark.parametrize(
    "changed",
    [
        GET.replace(b"GET", b"HEAD"),
        GET.replace(b"Host: x\r\n", b"Host: x\r\nX: 1\r\n"),
        GET.replace(b" /serve/1", b"  /serve/1"),
        GET.replace(b"/serve/1", b"/serve/1#x"),
        GET.replace(b"/serve/1", b"http://x/serve/1"),
        GET.replace(b"/serve/1", b"/serve/" + b"1" * 8200),
        GET.replace(b"/serve/1", b"/serve/\xc3\xa9"),
        GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
        GET + GET,
        b"\r\n" + GET,
    ],
)
async def test_a_request_that_differs_in_more_than_a_plain_target_is_parsed(changed: bytes) -> None:
    for max_head_bytes in (MAX_HEAD_BYTES, 32_768):
        heads = ParsedHeads()
        Bench(cached=True, parsed_heads=heads).feed(GET)
        bench = Bench(cached=True, parsed_heads=heads, max_head_bytes=max_head_bytes)
        bench.feed(changed)
        assert bench.parsed == 1


async def test_a_kept_head_with_a_longer_target_may_exceed_the_limit_of_a_head() -> None:
    heads = ParsedHeads()
    bench = Bench(cached=True, parsed_heads=heads)
    (rejected,) = bench.feed(GET, GET.replace(b"/serve/1", b"/serve/" + b"1" * MAX_HEAD_BYTES))
    assert status(rejected) == 431


async def test_behind_the_beginning_of_a_head_nothing_is_taken_for_another_head() -> None:
    heads = ParsedHeads()
    Bench(cached=True, parsed_heads=heads).feed(GET)
    bench = Bench(cached=True, parsed_heads=heads)
    (rejected,) = bench.feed(b"GET /a HTTP/1.1\r\n", GET)
    assert status(rejected) == 400
    assert bench.requested == []


@pytest.mark.parametrize(
    "sent",
    [
        GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
        GET.replace(b"GET", b"HEAD"),
        GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\n"),
        GET.replace(b"\r\n\r\n", b"\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"),
        GET.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 2048 + b"\r\n\r\n"),
        GET + GET,
    ],
)
async def test_only_short_heads_after_which_a_connection_stays_open_are_kept(sent: bytes) -> None:
    heads = ParsedHeads()
    Bench(cached=True, parsed_heads=heads, max_head_bytes=32_768).feed(sent)
    assert not heads._messages


async def test_the_number_of_kept_heads_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser_module, "_MAX_PARSED", 3)
    heads = ParsedHeads()
    bench = Bench(cached=True, parsed_heads=heads)
    sent = [GET.replace(b"\r\n\r\n", b"\r\nX: %d\r\n\r\n" % one) for one in range(5)]
    bench.feed(*sent)
    assert len(heads._messages) == 3
    bench.feed(*sent[2:])
    assert bench.parsed == 5, "the oldest are dropped"


async def test_no_change_of_a_kept_request_is_taken_for_another_than_aiohttp_parses() -> None:
    """Neither more nor other requests are answered, rejected or passed than without kept heads."""
    heads, chance = ParsedHeads(), Random(14)
    warm = GET.replace(b"\r\n\r\n", b"\r\nAccept: image/avif\r\nX-A: b\r\n\r\n")
    Bench(cached=True, parsed_heads=heads).feed(GET, warm)
    inserted = [b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"#", b"/", b"\0", b"\xff"]
    inserted += [b"GET ", b"HEAD ", b" HTTP/1.1\r\n", b"Content-Length: 3\r\n", b"%", b"?a=b", GET]
    taken = 0
    for _ in range(3000):
        sent = bytearray(chance.choice((GET, warm)))
        for _ in range(chance.randrange(3)):
            start = chance.randrange(len(sent) + 1)
            sent[start : start + chance.randrange(3)] = chance.choice(inserted)
        split = chance.choice((len(sent), chance.randrange(len(sent) + 1)))
        chunks = [bytes(sent[:split]), bytes(sent[split:]), GET]
        with_heads, without = Bench(cached=True, parsed_heads=heads), Bench(cached=True)
        found = [described(with_heads, chunk) for chunk in chunks if chunk]
        without.parser._parsed_heads.keep = lambda *_: None  # type: ignore[method-assign]
        assert found == [described(without, chunk) for chunk in chunks if chunk], bytes(sent)
        taken += without.parsed - with_heads.parsed
    assert taken > 1000


def described(bench: Bench, chunk: bytes) -> tuple[Any, ...]:
    """Feed a chunk; return what was answered, passed and rejected, and the state after it."""
    messages = [
        (one.status, str(one.message)) if isinstance(one, _ErrInfo) else (one.path, one.method)
        for one, _ in bench.feed(chunk)
    ]
    parser = bench.parser
    answered = list(zip(bench.requested, bench.heads, strict=True))
    return answered, messages, parser.begun, parser.discards, parser.head_since


@pytest.mark.parametrize("step", [1, 3, 10, 1000])
async def test_requests_in_any_pieces_pass_in_their_order(bench: Bench, step: int) -> None:
    sent = GET + PROBE + GET
    chunks = [sent[at : at + step] for at in range(0, len(sent), step)]
    assert paths(bench.feed(*chunks)) == ["/serve/1", "/healthz", "/serve/1"]
    assert not bench.parser.begun
    assert bench.parser.head_since == 0


async def test_the_time_of_a_head_runs_from_its_first_byte_until_it_is_complete(
    bench: Bench,
) -> None:
    assert bench.parser.head_since == 1, "the first head is awaited from the start"
    bench.now = 2.0
    bench.feed(GET[:9])
    assert bench.parser.begun
    assert bench.parser.head_since == 1
    bench.feed(GET[9:])
    assert not bench.parser.begun
    assert bench.parser.head_since == 0
    bench.feed(GET[:9])
    assert bench.parser.head_since == 2
    bench.now = 3.0
    bench.feed(GET[9:-1])
    assert bench.parser.head_since == 2
    bench.feed(GET[-1:] + GET[:9])
    assert bench.parser.begun
    assert bench.parser.head_since == 3


async def test_no_head_is_awaited_after_a_request_that_is_answered_at_once() -> None:
    bench = Bench(cached=True)
    bench.feed(GET)
    assert bench.parser.head_since == 0


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


async def test_what_is_no_http_is_rejected_after_which_nothing_is_read(bench: Bench) -> None:
    (rejected,) = bench.feed(b"NONSENSE\r\n\r\n")
    assert status(rejected) == 400
    assert bench.parser.discards
    assert bench.feed(PROBE) == []


async def test_a_line_above_the_limit_is_rejected_with_the_limit(bench: Bench) -> None:
    (rejected,) = bench.feed(GET[:-2] + b"X: " + b"y" * 9000)
    assert status(rejected) == 431
    assert "8190 bytes" in rejected[0].exc.rejection.detail


async def test_a_request_line_above_the_limit_is_rejected_in_any_pieces() -> None:
    for step in (100, 8000, 10_000):
        line = b"GET /" + b"y" * 9000
        (rejected,) = Bench(max_head_bytes=2**15).feed(
            *(line[at : at + step] for at in range(0, len(line), step))
        )
        assert status(rejected) == 414
        assert "8190 bytes" in rejected[0].exc.rejection.detail


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
    assert bench.parser.head_since == 0
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


SOCKET = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"


async def test_an_upgrade_to_a_websocket_is_passed_on_with_what_follows_it(bench: Bench) -> None:
    messages, upgraded, rest = bench.parser.feed_data(GET + SOCKET + b"frames")
    assert [one.upgrade for one, _ in messages] == [False, True]
    assert messages[-1][0].should_close
    assert (upgraded, rest) == (True, b"frames")
    assert bench.feed(PROBE) == [], "if the upgrade is declined, nothing is read as a request"


@pytest.mark.parametrize(
    "offer",
    [
        SOCKET.replace(b"GET", b"HEAD"),
        SOCKET.replace(b"HTTP/1.1", b"HTTP/1.0"),
        SOCKET.replace(b"WebSocket", b"h2c"),
        SOCKET.replace(b"GET /ws", b"POST /info").replace(
            b"\r\n\r\n", b"\r\nContent-Length: 6\r\n\r\n"
        ),
    ],
)
async def test_no_other_upgrade_is_passed_on(bench: Bench, offer: bytes) -> None:
    messages, upgraded, rest = bench.parser.feed_data(offer + b"frames")
    assert [(one.upgrade, one.should_close) for one, _ in messages] == [(False, True)]
    assert (upgraded, rest) == (False, b"")


async def test_a_restricted_parser_passes_no_upgrade(bench: Bench) -> None:
    bench.parser.restricted = True
    (rejected,) = bench.feed(SOCKET)
    assert status(rejected) == 503


async def test_a_restricted_parser_answers_no_kept_head() -> None:
    heads = ParsedHeads()
    Bench(cached=True, parsed_heads=heads).feed(GET)
    bench = Bench(cached=True, parsed_heads=heads)
    bench.parser.restricted = True
    (rejected,) = bench.feed(GET)
    assert status(rejected) == 503
    assert bench.requested == []


async def test_a_restricted_parser_passes_one_probe_only() -> None:
    bench = Bench(cached=True)
    bench.parser.restricted = True
    ((message, _),) = bench.feed(PROBE + PROBE)
    assert (message.path, message.should_close) == ("/healthz", True)
    assert bench.requested == []


async def test_a_restricted_parser_rejects_what_is_no_probe(bench: Bench) -> None:
    bench.parser.restricted = True
    (rejected,) = bench.feed(GET)
    assert status(rejected) == 503


@pytest.mark.parametrize("cut", [0, 1, 4, 5, 30])
async def test_head_has_no_body_even_if_only_what_follows_it_is_malformed(
    bench: Bench, cut: int
) -> None:
    sent = b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\nGET\0"
    *_, rejected = (one for part in (sent[:cut], sent[cut:]) for one in bench.feed(part))
    assert (status(rejected), rejected[0].exc.method) == (400, "HEAD")


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


# On the wire: each of these has one response, after which the connection ends.

SECOND = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
"""What a smuggler would have answered behind his first request."""


def get(*lines: bytes, target: bytes = b"/healthz", version: bytes = b"HTTP/1.1") -> bytes:
    """A request with these lines and a Host in its head."""
    head = b"".join(line + b"\r\n" for line in (b"GET " + target + b" " + version, *lines))
    return head + b"Host: x\r\n\r\n"


def chunked(body: bytes, *lines: bytes) -> bytes:
    return get(*(lines or (b"Transfer-Encoding: chunked",))) + body


async def told(server: Serving, *parts: bytes) -> list[Told]:
    """The answers until the server closes the connection, which it has to."""
    raw = await exchange(server.client.host, server.client.port or 0, *parts)
    return answers(raw, to_head=parts[0].startswith(b"HEAD"))


REFUSED: dict[str, tuple[int, bytes]] = {
    # Where one body ends and the next request begins (RFC 9112, 6.1 to 6.3, 11.2).
    "length and chunked": (
        400,
        chunked(b"0\r\n\r\n", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    ),
    "chunked and length": (
        400,
        chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    ),
    "two lengths": (400, get(b"Content-Length: 0", b"Content-Length: 36")),
    "two equal lengths": (400, get(b"Content-Length: 0", b"Content-Length: 0")),
    "a list of lengths": (400, get(b"Content-Length: 0, 36")),
    "a list of equal lengths": (400, get(b"Content-Length: 0, 0")),
    "a signed length": (400, get(b"Content-Length: +0")),
    "a negative length": (400, get(b"Content-Length: -1")),
    "a length in hexadecimal": (400, get(b"Content-Length: 0x0")),
    "a length of no digits": (400, get(b"Content-Length: ")),
    "a length beyond 64 bits": (400, get(b"Content-Length: 18446744073709551616")),
    "chunked, identity": (400, chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked, identity")),
    "identity, chunked": (400, chunked(b"0\r\n\r\n", b"Transfer-Encoding: identity, chunked")),
    "identity": (400, get(b"Transfer-Encoding: identity")),
    "xchunked": (400, chunked(b"0\r\n\r\n", b"Transfer-Encoding: xchunked")),
    "quoted chunked": (400, chunked(b"0\r\n\r\n", b'Transfer-Encoding: "chunked"')),
    "chunked behind a tab": (400, chunked(b"0\r\n\r\n", b"Transfer-Encoding:\tchunked")),
    "chunked behind a control byte": (
        400,
        chunked(b"0\r\n\r\n", b"Transfer-Encoding: \x0bchunked"),
    ),
    "chunked in capitals": (400, chunked(b"0\r\n\r\n", b"TRANSFER-ENCODING: CHUNKED")),
    "two transfer encodings": (
        400,
        chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    ),
    "transfer encoding, space before the colon": (
        400,
        chunked(b"0\r\n\r\n", b"Transfer-Encoding : chunked"),
    ),
    "transfer encoding on a folded line": (
        400,
        chunked(b"0\r\n\r\n", b"Transfer-Encoding:", b" chunked"),
    ),
    "transfer encoding behind a bare line feed": (
        400,
        chunked(b"0\r\n\r\n", b"X: y\nTransfer-Encoding: chunked"),
    ),
    "transfer encoding in HTTP/1.0": (
        400,
        get(b"Transfer-Encoding: chunked", version=b"HTTP/1.0") + b"0\r\n\r\n",
    ),
    "chunk extension too long": (400, chunked(b"0;" + b"x" * 20_000 + b"\r\n\r\n")),
    "chunk size of no digits": (400, chunked(b";x\r\n\r\n")),
    "chunk with a bare line feed": (400, chunked(b"5\nhello\n0\n\n")),
    # Bodies where none belongs (RFC 9110, 9.3.1).
    "length on GET": (400, get(b"Content-Length: 36")),
    "chunked on GET": (400, chunked(b"24\r\n" + SECOND + b"\r\n0\r\n\r\n")),
    "empty chunked on GET": (400, chunked(b"0\r\n\r\n")),
    "length on HEAD": (400, b"HEAD" + get(b"Content-Length: 36")[3:]),
    "chunked on HEAD": (400, b"HEAD" + chunked(b"0\r\n\r\n")[3:]),
    "length on DELETE": (400, b"DELETE" + get(b"Content-Length: 5")[3:] + b"hello"),
    "length on POST": (413, b"POST" + get(b"Content-Length: 5")[3:] + b"hello"),
    "chunked on PUT": (413, b"PUT" + chunked(b"5\r\nhello\r\n0\r\n\r\n")[3:]),
    # Lines (RFC 9112, 2.2, 5.1, 5.2; RFC 9110, 5.5).
    "bare line feeds": (400, b"GET /healthz HTTP/1.1\nHost: x\n\n"),
    "a bare line feed in the request line": (400, b"GET /healthz HTTP/1.1\nHost: x\r\n\r\n"),
    "a bare carriage return": (400, get(b"X: a\rb")),
    "a folded line": (400, get(b"X: a", b" b")),
    "a folded first line": (400, b"GET /healthz HTTP/1.1\r\n X: y\r\nHost: x\r\n\r\n"),
    "space before a colon": (400, get(b"X : y")),
    "a tab before a colon": (400, get(b"X\t: y")),
    "no colon": (400, get(b"X")),
    "no name": (400, get(b": y")),
    "NUL in a value": (400, get(b"X: a\0b")),
    "NUL in a name": (400, get(b"X\0: y")),
    "a control byte in a value": (400, get(b"X: a\x01b")),
    "an escape in a value": (400, get(b"X: \x1b[31m")),
    "DEL in a value": (400, get(b"X: a\x7fb")),
    "a byte beyond ASCII in a name": (400, get(b"X\xe9: y")),
    "a bracket in a name": (400, get(b"X(: y")),
    # Sizes.
    "a request line too long": (414, get(target=b"/serve/1?x=" + b"y" * 9000)),
    "a path too long": (414, get(target=b"/" + b"y" * 9000)),
    "a target that looks like a header": (414, get(target=b"/?Cookie:" + b"y" * 9000)),
    "a header line too long": (431, get(b"X: " + b"y" * 9000)),
    "a cookie too long": (431, get(b"Cookie: session=" + b"y" * 9000)),
    "a header that looks like a target": (431, get(b"Referer: /serve/1?x=" + b"y" * 9000)),
    "a header name too long": (431, get(b"x" * 9000 + b": y")),
    "too many headers": (431, get(*(b"X%d: y" % number for number in range(200)))),
    "a head too large": (431, get(*(b"X%d: " % number + b"y" * 8000 for number in range(5)))),
    # Versions, methods and targets (RFC 9112, 2.3, 3.2).
    "HTTP/0.9": (400, b"GET /healthz\r\n\r\n"),
    "HTTP/0.9 by name": (400, get(version=b"HTTP/0.9")),
    "HTTP/1.2": (400, get(version=b"HTTP/1.2")),
    "HTTP/2.0 by name": (400, get(version=b"HTTP/2.0")),
    "HTTP/3": (400, get(version=b"HTTP/3")),
    "http in small letters": (400, get(version=b"http/1.1")),
    "another protocol": (400, get(version=b"ICE/1.0")),
    "the preface of HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9),
    "a handshake of TLS": (400, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 32),
    "an unknown method": (400, b"BREW" + get()[3:]),
    "a method in small letters": (400, b"get" + get()[3:]),
    "CONNECT": (400, b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"),
    "CONNECT to a path": (400, b"CONNECT" + get()[3:]),
    "TRACE": (405, b"TRACE" + get()[3:]),
    "absolute-form": (400, get(target=b"http://x/healthz")),
    "absolute-form with another host": (400, get(target=b"http://evil.example/healthz")),
    "absolute-form of https": (400, get(target=b"https://x/healthz")),
    "authority-form": (400, get(target=b"x:80")),
    "asterisk-form": (400, b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"),
    "asterisk-form of GET": (400, get(target=b"*")),
    "no slash": (400, get(target=b"healthz")),
    "a fragment": (400, get(target=b"/healthz#x")),
    "a space in the target": (400, get(target=b"/health z")),
    "a tab in the target": (400, get(target=b"/health\tz")),
    "NUL in the target": (400, get(target=b"/health\0z")),
    "a byte beyond ASCII in the target": (400, get(target=b"/health\xc3\xa9")),
    # Host (RFC 9112, 3.2; RFC 9110, 7.2).
    "two hosts": (400, get(b"Host: y")),
    "two equal hosts": (400, get(b"Host: x")),
    "no host": (400, b"GET /healthz HTTP/1.1\r\n\r\n"),
    "an empty host": (400, b"GET /healthz HTTP/1.1\r\nHost:\r\n\r\n"),
    "a host with a path": (400, b"GET /healthz HTTP/1.1\r\nHost: x/y\r\n\r\n"),
    "a host with a user": (400, b"GET /healthz HTTP/1.1\r\nHost: me@x\r\n\r\n"),
    "a list of hosts": (400, b"GET /healthz HTTP/1.1\r\nHost: x, y z\r\n\r\n"),
    "a host with a port of letters": (400, b"GET /healthz HTTP/1.1\r\nHost: x:http\r\n\r\n"),
    "a host beyond ASCII": (400, b"GET /healthz HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n"),
    "a host of 300 characters": (
        400,
        b"GET /healthz HTTP/1.1\r\nHost: " + b"x" * 300 + b"\r\n\r\n",
    ),
    "an open bracket as a host": (400, b"GET /healthz HTTP/1.1\r\nHost: [::1\r\n\r\n"),
}


async def test_each_has_one_answer_and_the_connection_ends(shared: Serving) -> None:
    """Whatever stands behind it, in the same piece and in a later one."""
    asked = {name: told(shared, sent + SECOND, SECOND) for name, (_, sent) in REFUSED.items()}
    found = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
    statuses = {name: [one.status for one in several] for name, several in found.items()}
    assert statuses == {name: [status] for name, (status, _) in REFUSED.items()}
    for name, (answer,) in found.items():
        assert answer.headers["connection"] == "close", name
        assert answer.headers["cache-control"] == "no-store", name
        assert answer.headers["content-type"] == "application/problem+json", name
        if REFUSED[name][1].startswith(b"HEAD"):
            assert answer.body == b"", name
        else:
            assert json.loads(answer.body)["status"] == answer.status, name


@pytest.mark.parametrize("step", [1, 7])
async def test_each_has_one_answer_in_whatever_pieces_it_comes(shared: Serving, step: int) -> None:
    names = ["length and chunked", "length on GET", "two hosts", "absolute-form", "CONNECT"]
    asked = []
    for name in names:
        whole = REFUSED[name][1] + SECOND
        pieces = [whole[at : at + step] for at in range(0, len(whole), step)]
        asked.append(exchange(shared.client.host, shared.client.port or 0, *pieces, pause_s=0))
    raw = dict(zip(names, await asyncio.gather(*asked), strict=True))
    assert {name: [one.status for one in answers(raw[name])] for name in names} == {
        name: [REFUSED[name][0]] for name in names
    }


async def test_what_came_before_it_is_answered(shared: Serving) -> None:
    """A request that was good stays good, whatever its neighbour is."""
    found = await told(shared, SECOND + SECOND + get(b"Content-Length: 36") + SECOND)
    assert [one.status for one in found] == [200, 200, 400]


@pytest.mark.parametrize(
    "line",
    [
        b"GET /users/me",
        b"DELETE /api/media/complete/1",
        b"GET /info",
        b"OPTIONS /info",
        b"POST /info/",
        b"POST /info/1",
        b"PATCH /users/me/",
        b"PATCH /users/me2",
        b"PATCH //users/me",
        b"POST /api/media/complete/",
        b"POST /api/media/complete/1/2",
        b"DELETE /api/media/1/focus",
        b"PUT /api/media/1/choices",
        b"PUT /api/media/1/crops",
        b"PUT /api/media/1/crops/thumbnail/2",
    ],
)
async def test_only_the_addresses_that_take_a_body_get_one(shared: Serving, line: bytes) -> None:
    sent = line + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    (answer,) = await told(shared, sent + SECOND, SECOND)
    assert answer.status == (400 if line.startswith((b"GET", b"DELETE", b"OPTIONS")) else 413)


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        (b"PUT /users/me", "GET,HEAD,PATCH"),
        (b"PATCH /api/media/complete/1", "POST"),
        (b"PUT /info", "GET,HEAD,OPTIONS,POST"),
        (b"POST /api/media/1/focus", "DELETE,GET,HEAD,PUT"),
    ],
)
async def test_there_another_method_is_told_which_is_right(
    shared: Serving, line: bytes, allowed: str
) -> None:
    sent = line + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    (answer,) = await told(shared, sent + SECOND, SECOND)
    assert answer.status == 405
    assert answer.headers["allow"] == allowed
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("line", "status"),
    [(b"PATCH /users/me", 401), (b"POST /api/media/complete/1?x=y", 401), (b"POST /info", 415)]
    # No admin key is set.
    + [(b"PUT /api/media/1/" + what, 403) for what in (b"focus", b"crops/thumbnail", b"alt")],
)
@pytest.mark.parametrize("step", [1, 10_000])
async def test_a_body_that_is_let_through_hides_no_request(
    shared: Serving, line: bytes, status: int, step: int
) -> None:
    """Whether it is read or refused, and in whatever pieces it comes."""
    head = line + b" HTTP/1.1\r\nHost: x\r\n"
    for lines, body in (
        (b"Content-Length: 5\r\n\r\n", b"hello"),
        (b"Content-Length: 500000\r\n\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    ):
        whole = SECOND + head + lines + body + SECOND + SECOND
        pieces = [whole[at : at + step] for at in range(0, len(whole), step)]
        raw = await exchange(shared.client.host, shared.client.port or 0, *pieces, pause_s=0)
        assert [one.status for one in answers(raw)] == [200, status]


async def test_a_hot_answer_is_no_way_around_it(shared: Serving, library: Library) -> None:
    target = f"/serve/{library.ids['photo']}?size=thumbnail".encode()
    good = get(target=target)
    bad = {
        "host": good.replace(b"Host: x", b"Host: x/y"),
        "size": get(*(b"X%d: " % one + b"y" * 8000 for one in range(5)), target=target),
        "body": get(b"Content-Length: 36", target=target),
    }
    before = shared.metric("smartserve_requests_total", source="memory")
    for _ in range(3):
        await told(shared, good, get(b"Connection: close", target=target))
    assert shared.metric("smartserve_requests_total", source="memory") > before + 1
    for name, request_ in bad.items():
        found = await told(shared, good, request_ + good, good)
        assert [one.status for one in found] == [200, 431 if name == "size" else 400], name


CLOSING = get(b"Connection: close")
GOOD = {
    # nginx asks its upstreams in HTTP/1.0 unless told otherwise, and so do old health checks: it
    # is allowed, with Host or without, and its connection ends unless it asks for more.
    "HTTP/1.0": b"GET /healthz HTTP/1.0\r\n\r\n",
    "HTTP/1.0 with Host": get(version=b"HTTP/1.0"),
    # RFC 9112, 3 lets a server part the line wherever there is space; no framing hangs on it.
    "two spaces before the target": get(b"Connection: close", target=b" /healthz"),
    # What follows is sound, and common.
    "an address as host": CLOSING.replace(b"Host: x", b"Host: [::1]:8080"),
    "a host with a port": CLOSING.replace(b"Host: x", b"Host: img.example.org:443"),
    "a length of nothing": get(b"Content-Length: 0", b"Connection: close"),
    "an empty line before": b"\r\n" + get(b"Connection: close"),
    "text beyond ASCII in a value": get(b"X: \xc3\xa9", b"Connection: close"),
    "an empty value": get(b"X:", b"Connection: close"),
    "space behind a value": get(b"X: y \t ", b"Connection: close"),
    "thirty long headers": get(
        *(b"X%d: " % one + b"y" * 1000 for one in range(30)), b"Connection: close"
    ),
    "an expectation": get(b"Expect: 100-continue", b"Connection: close"),
    "another expectation": get(b"Expect: something", b"Connection: close"),
}


async def test_what_is_sound_is_answered(shared: Serving) -> None:
    for name, sent in GOOD.items():
        assert [one.status for one in await told(shared, sent)] == [200], name


@pytest.mark.parametrize(
    "offer",
    [
        (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
        (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
    ],
)
async def test_an_offer_of_another_protocol_is_passed_over_and_ends_the_connection(
    shared: Serving, library: Library, offer: tuple[bytes, ...]
) -> None:
    """Who made it may go on in that protocol, and is not taken at his word for HTTP/1.1."""
    target = f"/serve/{library.ids['photo']}?size=thumbnail".encode()
    for _ in range(3):
        found = await told(shared, get(*offer, target=target) + SECOND, SECOND)
        assert [one.status for one in found] == [200]


async def test_a_large_body_does_not_keep_its_answer_from_the_client(shared: Serving) -> None:
    """Nothing of it is kept; the client may finish sending, and reads why it was refused."""
    head = b"POST" + get(b"Content-Length: 50000000")[3:]
    found = await told(shared, head, *[b"x" * 1_000_000] * 10)
    assert [one.status for one in found] == [413]


async def test_a_refusal_is_counted_and_tells_nothing_of_what_was_sent(serve: Serve) -> None:
    server = await serve()
    (answer,) = await told(server, get(target=b"http://secret.example/healthz"))
    assert b"secret" not in answer.body
    assert re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", answer.headers["x-request-id"])
    assert server.metric("smartserve_requests_total", route="malformed", status="400") == 1
    await until(lambda: server.metric("smartserve_connections_closed_total", reason="refused") == 1)
