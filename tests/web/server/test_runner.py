"""The runner: listening, the settings of connections, draining, and what runs meanwhile."""

from __future__ import annotations

import asyncio
import errno
import gc
import gzip
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from proxy.domain.errors import ConfigurationError
from proxy.domain.request import Outcome
from proxy.runtime.supervised_task import BackgroundTask
from proxy.settings import ServerSettings
from proxy.telemetry.metrics import Metrics
from proxy.web.responses import BufferedResponse, whole
from proxy.web.server import runner as runner_module
from proxy.web.server.connection import ConnectionServer
from proxy.web.server.inherited_sockets import InheritedSockets, SocketOwner
from proxy.web.server.request_pipeline import RequestPipeline
from proxy.web.server.runner import (
    ServerRunner,
    collect_garbage,
    freeze,
    next_interval,
    review_connections,
)
from tests.support.restarts import Restarts
from tests.support.waiting import eventually
from tests.web.server.bench import NoCache, healthy
from tests.web.wire import answers, exchange

HOST = "127.0.0.1"
CLOSING = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Server:
    """A runner of an application with one handler, by default one that answers at once."""

    def __init__(self, handler: Any = healthy, **settings: Any) -> None:
        self.restarts = Restarts()
        app = web.Application()
        app.router.add_get("/", handler)
        app.router.add_post("/info", handler)
        pipeline = RequestPipeline(
            response_cache=cast("Any", NoCache()), metrics=Metrics(), access_log=None
        )
        self.runner = ServerRunner(
            app,
            pipeline,
            ServerSettings(port=0, **settings),
            supervisor=self.restarts.supervisor,
        )

    @property
    def port(self) -> int:
        return int(self.runner.addresses[0][1])

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        await self.runner.setup()
        try:
            await self.runner.listen()
            yield self.port
        finally:
            await self.runner.cleanup()

    async def sent(self, *parts: bytes) -> list[int]:
        """Return the statuses of the responses."""
        return [one.status for one in answers(await exchange(HOST, self.port, *parts))]


class Blocked:
    """A handler that answers when the test lets it."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go = asyncio.Event()

    async def handle(self, request: web.Request) -> BufferedResponse:
        self.started.set()
        await self.go.wait()
        return await healthy(request)


async def test_port_0_is_a_free_port_that_answers() -> None:
    server = Server()
    async with server.listening() as port:
        assert port > 0
        assert await server.sent(CLOSING) == [200]


async def test_without_descriptors_clients_wait_and_accepting_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accept, tries = socket.socket.accept, []

    def failing(listener: socket.socket) -> Any:
        tries.append(asyncio.get_running_loop().time())
        if len(tries) <= 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", failing)
    server = Server()
    async with server.listening():
        assert await server.sent(CLOSING) == [200]
    assert tries[3] - tries[0] > 0.1


async def test_connections_that_wait_together_are_accepted_together() -> None:
    """One at a time, each would wait for the responses to all before it."""
    server = Server()
    async with server.listening() as port:
        # Nothing is awaited meanwhile, so they wait in the kernel's backlog.
        waiting = [socket.create_connection((HOST, port)) for _ in range(40)]
        server.runner._accept(server.runner._listeners[0])
        assert len(server.runner._opening) == 40
        for client in waiting:
            client.close()


async def test_the_limit_of_open_files_lowers_that_of_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_module, "raise_limit", lambda wanted: wanted // 2)
    server = Server(max_connections=64)
    async with server.listening():
        assert isinstance(server.runner.server, ConnectionServer)
        assert server.runner.server.max_connections == 32


async def test_connections_are_counted_with_their_reasons_from_the_start() -> None:
    server = Server()
    assert server.runner.statistics() == {
        "open": 0,
        "closed_ended": 0,
        "closed_header_timeout": 0,
        "closed_idle_timeout": 0,
        "closed_write_timeout": 0,
        "closed_refused": 0,
        "closed_over_limit": 0,
        "closed_passed_on": 0,
    }
    async with server.listening():
        assert await server.sent(CLOSING) == [200]
        await eventually(lambda: server.runner.statistics()["closed_ended"] == 1)


async def test_a_header_line_and_a_head_have_their_own_limits() -> None:
    server = Server(max_header_bytes=4096, max_head_bytes=8192)
    line = b"X%d: " + b"y" * 3900 + b"\r\n"
    async with server.listening():
        assert await server.sent(CLOSING[:-2] + line % 1 + b"\r\n") == [200]
        assert await server.sent(CLOSING[:-2] + b"X: " + b"y" * 5000 + b"\r\n\r\n") == [431]
        path = b"/x?" + b"y" * 4000
        for longer, status in ((b"", 404), (b"y" * 100, 414)):
            request = CLOSING.replace(b"/", path + longer, 1)
            assert request.count(path) == 1
            assert await server.sent(request) == [status]
        lines = b"".join(line % number for number in range(3))
        assert await server.sent(CLOSING[:-2] + lines + b"\r\n") == [431]


async def test_a_compressed_body_reaches_the_handler_as_it_was_sent() -> None:
    received: list[bytes] = []

    async def handler(request: web.Request) -> BufferedResponse:
        received.append(await request.read())
        return whole(200, [], b"ok", outcome=Outcome("info"))

    server = Server(handler)
    body = gzip.compress(b"hello" * 1000)
    head = b"POST /info HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    async with server.listening():
        assert await server.sent(head % len(body) + body) == [200]
    assert received == [body]


async def test_draining_lets_responses_finish_and_accepts_no_more() -> None:
    blocked = Blocked()
    server = Server(blocked.handle, drain_s=30)
    async with server.listening() as port:
        request = asyncio.create_task(exchange(HOST, port, CLOSING))
        await blocked.started.wait()
        draining = asyncio.create_task(server.runner.drain())
        await eventually(lambda: not server.runner.addresses)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HOST, port)
        assert not draining.done()
        blocked.go.set()
        assert [one.status for one in answers(await request)] == [200]
        await draining


async def test_draining_ends_after_its_time_although_a_response_is_not_sent() -> None:
    blocked = Blocked()
    server = Server(blocked.handle, drain_s=0.01)
    async with server.listening() as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(CLOSING)
        await blocked.started.wait()
        await server.runner.drain()
        assert server.runner.pipeline._active == 1, "the response is not sent yet"
        blocked.go.set()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_draining_an_idle_server_waits_for_nothing() -> None:
    server = Server(drain_s=3600)
    async with server.listening():
        await asyncio.wait_for(server.runner.drain(), 60)


@asynccontextmanager
async def lame_duck(server: Server) -> AsyncIterator[asyncio.Event]:
    """Begin a drain and run it while the block runs; the event ends ``lame_duck_s``."""
    hurried = asyncio.Event()
    server.runner.begin_drain(hurried)
    draining = asyncio.create_task(server.runner.drain())
    yield hurried
    hurried.set()
    await draining


KEPT = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.slow
async def test_before_it_stops_a_server_accepts_and_closes_each_connection_with_its_response() -> (
    None
):
    server = Server(lame_duck_s=600)
    async with server.listening() as port:
        kept, writer = await asyncio.open_connection(HOST, port)
        writer.write(KEPT)
        head = await kept.readuntil(b"\r\n\r\n")
        assert b"Connection: close" not in head
        await kept.readexactly(int(head.partition(b"Content-Length: ")[2].split()[0]))
        async with lame_duck(server):
            writer.write(KEPT)
            old = answers(await kept.read())
            new = answers(await exchange(HOST, port, KEPT))
            assert server.runner.addresses
    assert [one.status for one in (*old, *new)] == [200, 200]
    assert {one.headers["connection"] for one in (*old, *new)} == {"close"}
    writer.close()


@pytest.mark.slow
async def test_requests_that_have_arrived_are_answered_before_their_connection_closes() -> None:
    blocked = Blocked()
    server = Server(blocked.handle, lame_duck_s=600)
    async with server.listening() as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(KEPT * 3)
        await blocked.started.wait()
        async with lame_duck(server):
            blocked.go.set()
            pipelined = answers(await reader.read())
    assert [one.headers.get("connection") for one in pipelined] == [None, None, "close"]
    writer.close()


async def test_the_time_to_accept_begins_with_the_signal_not_with_the_wait_for_its_end() -> None:
    server = Server(lame_duck_s=0)
    async with server.listening():
        # Other parts of the server are stopped before the drain is awaited.
        server.runner.begin_drain(asyncio.Event())
        await eventually(lambda: not server.runner.addresses)
        await server.runner.drain()


@pytest.mark.slow
async def test_an_idle_connection_is_closed_last_and_its_request_before_that_is_answered() -> None:
    blocked = Blocked()
    server = Server(blocked.handle, lame_duck_s=600, drain_s=30)
    async with server.listening() as port:
        idle, idle_writer = await asyncio.open_connection(HOST, port)
        late, late_writer = await asyncio.open_connection(HOST, port)
        busy = asyncio.create_task(exchange(HOST, port, KEPT))
        await blocked.started.wait()
        async with lame_duck(server) as hurried:
            hurried.set()
            await eventually(lambda: not server.runner.addresses)
            late_writer.write(KEPT)
            await eventually(lambda: server.runner.pipeline._active == 2)
            assert not idle.at_eof()
            blocked.go.set()
            bodies = [await busy, await late.read()]
            assert await idle.read() == b""
    assert [[one.status for one in answers(body)] for body in bodies] == [[200], [200]]
    for writer in (idle_writer, late_writer):
        writer.close()


async def test_connections_in_the_backlog_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    # The event loop is too busy to accept.
    monkeypatch.setattr(ServerRunner, "_accept", lambda _self, _listener: None)
    server = Server()
    async with server.listening() as port:
        waiting = [asyncio.create_task(exchange(HOST, port, KEPT)) for _ in range(20)]

        def connected() -> bool:
            return Path("/proc/net/tcp").read_text().count(f":{port:04X} 01") >= 20

        await eventually(connected)
        await server.runner.drain()
        statuses = [
            [one.status for one in answers(body)] for body in await asyncio.gather(*waiting)
        ]
    assert statuses == [[200]] * 20


@asynccontextmanager
async def generations(
    first: Server, second: Server
) -> AsyncIterator[Callable[[], asyncio.Task[None]]]:
    """Run two servers on the sockets of one process; yield what passes connections on."""
    owner = SocketOwner()
    await owner.bind(ServerSettings(port=0), 2)
    for server in (first, second):
        # Each process has descriptors of its own.
        sockets = owner.of(0)
        numbers = {
            "own": [os.dup(one.fileno()) for one in sockets.own],
            "others": [os.dup(one.fileno()) for one in sockets.others],
            "arriving": os.dup(sockets.arriving.fileno()),
            "leaving": os.dup(sockets.leaving.fileno()),
        }
        await server.runner.setup()
        server.runner._listen_to(InheritedSockets.of(numbers))
    # Both listen to one socket. New connections have to reach the first one until it has passed on.
    for listener in second.runner._listeners:
        asyncio.get_running_loop().remove_reader(listener)

    def pass_on() -> asyncio.Task[None]:
        first.runner.begin_passing_on(asyncio.Event())
        return asyncio.create_task(first.runner.drain())

    try:
        yield pass_on
    finally:
        for server in (first, second):
            await server.runner.cleanup()
        owner.close()


async def whole_response(reader: asyncio.StreamReader) -> bytes:
    """Return the head of the next response, after its body was read as well."""
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split()[0]))
    return head


async def test_a_connection_that_is_passed_on_is_answered_by_the_successor() -> None:
    first, second = Server(), Server()
    async with generations(first, second) as pass_on:
        reader, writer = await asyncio.open_connection(HOST, first.port)
        writer.write(KEPT)
        await whole_response(reader)
        await pass_on()
        assert first.runner.statistics()["open"] == 0
        assert first.runner.statistics()["closed_passed_on"] == 1
        writer.write(KEPT)
        head = await whole_response(reader)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"Connection: close" not in head
        assert second.runner.statistics()["open"] == 1
        writer.close()


async def test_a_request_under_way_is_answered_before_its_connection_is_passed_on() -> None:
    blocked = Blocked()
    first, second = Server(blocked.handle), Server()
    async with generations(first, second) as pass_on:
        reader, writer = await asyncio.open_connection(HOST, first.port)
        # The second request arrives while the first one is answered.
        writer.write(KEPT + KEPT)
        await blocked.started.wait()
        passing = pass_on()
        blocked.go.set()
        heads = [await whole_response(reader), await whole_response(reader)]
        await passing
        assert not any(b"Connection: close" in head for head in heads)
        writer.write(CLOSING)
        assert b"Connection: close" in await whole_response(reader)
        assert await reader.read() == b""
        assert second.runner.statistics()["closed_ended"] == 1
        writer.close()


async def test_a_connection_without_a_request_keeps_the_time_limit_of_its_first_one() -> None:
    first, second = Server(), Server(header_timeout_s=0.2, keepalive_s=600)
    async with generations(first, second) as pass_on:
        new, new_writer = await asyncio.open_connection(HOST, first.port)
        kept, kept_writer = await asyncio.open_connection(HOST, first.port)
        kept_writer.write(KEPT)
        await whole_response(kept)
        await eventually(lambda: first.runner.statistics()["open"] == 2)
        await pass_on()
        assert await new.read() == b""
        assert second.runner.statistics()["closed_header_timeout"] == 1
        kept_writer.write(KEPT)
        assert (await whole_response(kept)).startswith(b"HTTP/1.1 200 ")
        for writer in (new_writer, kept_writer):
            writer.close()


async def test_connections_that_are_passed_on_are_not_refused_for_their_number() -> None:
    first, second = Server(), Server(max_connections=1)
    async with generations(first, second) as pass_on:
        clients = [await asyncio.open_connection(HOST, first.port) for _ in range(4)]
        for reader, writer in clients:
            writer.write(KEPT)
            await whole_response(reader)
        await pass_on()
        for reader, writer in clients:
            writer.write(KEPT)
            assert (await whole_response(reader)).startswith(b"HTTP/1.1 200 ")
            writer.close()


async def test_what_is_not_passed_on_in_time_is_drained() -> None:
    blocked = Blocked()
    first, second = Server(blocked.handle, drain_s=0.05), Server()
    async with generations(first, second) as pass_on:
        request = asyncio.create_task(exchange(HOST, first.port, KEPT))
        await blocked.started.wait()
        await pass_on()
        blocked.go.set()
        (answer,) = answers(await request)
        assert (answer.status, answer.headers["connection"]) == (200, "close")


@pytest.mark.slow
async def test_connections_that_wait_for_another_process_are_accepted() -> None:
    server = Server()
    owner = SocketOwner()
    await owner.bind(ServerSettings(port=0), 2)
    sockets, (other,) = owner.of(0), owner.of(1).own
    other.listen()
    await server.runner.setup()
    server.runner._listen_to(sockets)
    try:
        # Half of them arrive at the socket that nobody accepts from.
        statuses = [await server.sent(CLOSING) for _ in range(30)]
        assert statuses == [[200]] * 30
    finally:
        await server.runner.cleanup()
        owner.close()


class Reviewed:
    """A connection that counts its reviews; the first ``failures`` fail."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.reviews = 0

    def review(self, now: float) -> None:
        assert now > 0
        self.reviews += 1
        if self.reviews <= self.failures:
            raise OSError(errno.EBADF, "Bad file descriptor")

    def close(self) -> None:
        """Do nothing: it is no connection."""


def open_connections(server: Server, *connections: Reviewed) -> None:
    assert isinstance(server.runner.server, ConnectionServer)
    server.runner.server.open.update(dict.fromkeys(cast("Any", connections)))


async def test_more_connections_than_a_batch_are_all_reviewed() -> None:
    server, connections = Server(), [Reviewed() for _ in range(1200)]
    async with server.listening():
        open_connections(server, *connections)
        await review_connections(cast("ConnectionServer", server.runner.server))
    # The background task may review them as well.
    assert all(one.reviews for one in connections)


async def test_a_failed_review_neither_ends_the_reviews_nor_skips_other_connections() -> None:
    server, faulty, other = Server(keepalive_s=0.1), Reviewed(failures=1), Reviewed()
    async with server.listening():
        open_connections(server, faulty, other)
        await eventually(lambda: faulty.reviews > 1)
    assert other.reviews > 0
    assert server.restarts.tasks == [BackgroundTask.CONNECTION_TIMEOUTS]


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def a_runner(settings: ServerSettings, handler: Any = healthy) -> ServerRunner:
    app = web.Application()
    app.router.add_get("/", handler)
    pipeline = RequestPipeline(
        response_cache=cast("Any", NoCache()), metrics=Metrics(), access_log=None
    )
    return ServerRunner(app, pipeline, settings)


async def test_a_server_listens_on_a_free_port_and_answers() -> None:
    settings = ServerSettings(port=0)
    async with a_runner(settings).listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        writer.close()


async def test_a_port_in_use_is_named_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = ServerSettings(port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match=f"cannot listen on .*:{settings.port}: "):
            async with a_runner(settings).listening():
                pytest.fail("it listens")


@pytest.mark.slow
@pytest.mark.parametrize("finishes", [True, False])
async def test_stopping_waits_for_running_responses_up_to_the_limit(*, finishes: bool) -> None:
    settings = ServerSettings(port=0, drain_s=30 if finishes else 0.05)
    done, started = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> Any:
        started.set()
        await done.wait()
        return await healthy(request)

    runner = a_runner(settings, slow)
    async with runner.listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await started.wait()
        if finishes:
            # As soon as the server accepts no more connections.
            waiting = asyncio.create_task(eventually(lambda: not runner.addresses))
            waiting.add_done_callback(lambda _: done.set())
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ") == finishes
    assert finishes or answer == b""


async def test_while_it_listens_old_objects_are_collected_only_on_call() -> None:
    full = 2
    before = gc.get_threshold()
    found: list[int] = []

    def record(phase: str, info: Mapping[str, int]) -> None:
        if phase == "stop" and info["generation"] == full:
            found.append(info["collected"])

    async with a_runner(ServerSettings(port=0)).listening():
        gc.callbacks.append(record)
        try:
            # With the usual thresholds these are old enough for several full collections.
            kept: list[list[object]] = [[number] for number in range(400_000)]
            assert not found
            kept[0].append(kept[0])
            kept.clear()
            await collect_garbage()
            (collected,) = found
            assert collected >= 1
        finally:
            gc.callbacks.remove(record)
    assert gc.get_threshold() == before


async def test_young_objects_of_a_full_cache_are_collected_before_there_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_module, "_COLLECT_YOUNG_IDLE_S", 0.01)
    cache: list[list[object]] = [[number] for number in range(100_000)]
    gc.collect()
    async with Server().runner.listening():
        for number in range(len(cache)):
            cache[number] = [number]
        # Python counts one deletion for each new object.
        assert len(gc.get_objects(generation=0)) > len(cache) // 2
        await eventually(lambda: len(gc.get_objects(generation=0)) < len(cache) // 10)


def test_one_quick_collection_does_not_end_the_short_intervals() -> None:
    intervals = [1.0]
    for took_s in (0.02, 0.0001, 0.0006, *[0.0001] * 8):
        intervals.append(next_interval(intervals[-1], took_s))
    assert intervals == [1.0, 0.01, 0.02, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0]


async def test_the_collector_ignores_what_existed_at_the_start() -> None:
    gc.unfreeze()
    freeze()
    try:
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
