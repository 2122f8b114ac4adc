"""The WebSockets of the metadata routes: messages, limits, hostile clients, and drains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from structlog.testing import capture_logs

from proxy.domain.errors import AccessDisabled, ExtractionFailed
from proxy.metadata.extraction import PROGRESS, Extraction, Progress
from proxy.metadata.progress import ProgressHub
from proxy.metadata.tiers import Tier
from proxy.settings import MetadataSettings, ServerSettings
from proxy.telemetry.metrics import Metrics
from proxy.web.handlers import metadata_sockets
from proxy.web.handlers.metadata_sockets import MetadataSocketHandler, OpenSockets
from proxy.web.metadata_input import Caller
from proxy.web.server.request_pipeline import RequestPipeline
from proxy.web.server.runner import ServerRunner
from tests.support.waiting import eventually
from tests.web.server.bench import NoCache
from tests.web.server.test_upgrades import UPGRADE, frame, socket_that_takes_little
from tests.web.wire import answers, exchange

HOST = "127.0.0.1"
SESSION = "session-0123456789"
ANALYZE = {"type": "analyze", "sessionId": SESSION, "mediaId": 1}
FOUND = Extraction({"width": 7, "ai_generation": {"source": "unknown"}}, {}, {})

Work = Callable[[Progress], Awaitable[Extraction]]


async def succeed(progress: Progress) -> Extraction:
    for stage, percent in PROGRESS.items():
        progress(percent, stage)
    return FOUND


class Files:
    """Stands for `StoredFiles`: runs ``work`` for each analysis."""

    def __init__(self) -> None:
        self.work: Work = succeed
        self.ended = 0

    async def extract(
        self, _caller: Caller, _message: Mapping[str, Any], progress: Progress
    ) -> Extraction:
        try:
            return await self.work(progress)
        finally:
            self.ended += 1


class Callers:
    """Stands for `CallerGuard`: the header X-User names the caller."""

    def check_page(self, request: web.BaseRequest) -> None:
        if request.headers.get("Origin", "http://ours") != "http://ours":
            raise AccessDisabled("a page of another origin")

    def caller_of(self, request: web.BaseRequest, *, anonymous: bool = False) -> Caller:
        del anonymous
        user = request.headers.get("X-User", "1")
        if user == "none":
            raise AccessDisabled("no token")
        if user == "key":
            return Caller(None, Tier.ENTERPRISE, is_admin=True)
        return Caller(int(user), Tier.ENTERPRISE)


@dataclass
class Bench:
    """A server with the two addresses."""

    max_sockets: int = 1000
    max_per_user: int = 20
    heartbeat_s: float = 600.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files, self.hub = Files(), ProgressHub()
        self.sockets = OpenSockets(max_sockets=self.max_sockets, max_per_user=self.max_per_user)
        handler = MetadataSocketHandler(
            callers=cast("Any", Callers()),
            sockets=self.sockets,
            hub=self.hub,
            files=cast("Any", self.files),
            heartbeat_s=self.heartbeat_s,
        )
        app = web.Application()
        app.router.add_get("/ws/analysis", handler.analysis_socket)
        app.router.add_get("/api/images_mvp/progress/{sessionId}", handler.progress_socket)
        app.on_shutdown.append(self.sockets.close)
        pipeline = RequestPipeline(
            response_cache=cast("Any", NoCache()), metrics=Metrics(), access_log=None
        )
        self.runner = ServerRunner(app, pipeline, ServerSettings(port=0, **self.settings))
        self.runner.on_drain.append(self.sockets.drain)

    @property
    def port(self) -> int:
        return int(self.runner.addresses[0][1])

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[aiohttp.ClientSession]:
        await self.runner.setup()
        try:
            await self.runner.listen()
            async with aiohttp.ClientSession(f"http://{HOST}:{self.port}") as client:
                yield client
        finally:
            await self.runner.cleanup()


PROGRESS_PATH = f"/api/images_mvp/progress/{SESSION}"
Socket = aiohttp.ClientWebSocketResponse


async def read(socket: Socket, count: int) -> list[dict[str, Any]]:
    return [await socket.receive_json(timeout=20) for _ in range(count)]


async def closed(socket: Socket) -> int | None:
    """Read until the server closes; return the code."""
    async with asyncio.timeout(20):
        async for _ in socket:
            pass
    return socket.close_code


async def test_an_analysis_reports_each_stage_once_and_then_the_metadata() -> None:
    bench = Bench()
    async with bench.listening() as client, client.ws_connect("/ws/analysis") as socket:
        await socket.send_json(ANALYZE)
        messages = await read(socket, 7)
        assert {one["sessionId"] for one in messages} == {SESSION}
        assert [one["type"] for one in messages] == [
            "analysis_started",
            *["progress"] * 5,
            "analysis_complete",
        ]
        assert [one["progress"] for one in messages[1:6]] == [10, 30, 50, 80, 100]
        assert messages[-1]["metadata"] == FOUND.metadata
    statistics = dict(bench.sockets.statistics())
    assert statistics.pop("open") in (0, 1)
    assert statistics == {
        "unsent_bytes": 0,
        "accepted": 1,
        "refused": 0,
        "analyses": 1,
        "failed": 0,
    }


async def test_a_stage_is_reported_when_it_is_reached_and_not_before() -> None:
    bench = Bench()
    steps = asyncio.Event()

    async def waits(progress: Progress) -> Extraction:
        progress(10, "received")
        await steps.wait()
        progress(30, "walked")
        return FOUND

    bench.files.work = waits
    async with bench.listening() as client, client.ws_connect("/ws/analysis") as socket:
        await socket.send_json(ANALYZE)
        assert [one.get("progress") for one in await read(socket, 2)] == [None, 10]
        await socket.send_json({"type": "ping"})
        assert await read(socket, 1) == [{"type": "pong"}], "nothing else has been sent"
        steps.set()
        assert (await read(socket, 1))[0]["progress"] == 30


async def test_a_failed_analysis_is_an_error_with_its_session_and_the_socket_stays() -> None:
    bench = Bench()

    async def fail(_progress: Progress) -> Extraction:
        raise ExtractionFailed("No engine could read the file.")

    async def break_down(_progress: Progress) -> Extraction:
        raise KeyError("a secret")

    async with bench.listening() as client, client.ws_connect("/ws/analysis") as socket:
        for work, sentence in (
            (fail, "No engine could read the file."),
            (break_down, metadata_sockets._UNEXPECTED),
        ):
            bench.files.work = work
            with capture_logs():
                await socket.send_json(ANALYZE)
                messages = await read(socket, 2)
            assert messages[1] == {
                "type": "analysis_error",
                "sessionId": SESSION,
                "error": sentence,
            }
        await socket.send_json({"type": "ping"})
        assert await read(socket, 1) == [{"type": "pong"}]
    assert bench.sockets.statistics()["failed"] == 2


@pytest.mark.parametrize(
    "sent",
    [
        "no JSON",
        "[1]",
        '"text"',
        "[" * 60_000,
        "{}",
        '{"type": "subscribe"}',
        '{"type": null}',
        '{"type": "analyze", "sessionId": "short", "mediaId": 1}',
        '{"type": "analyze", "sessionId": 1234567890123456, "mediaId": 1}'.replace("6, ", "é, "),
        '{"type": "analyze", "mediaId": 1}',
    ],
)
async def test_input_that_is_not_understood_is_an_error_and_the_socket_stays(sent: str) -> None:
    bench = Bench()
    async with bench.listening() as client:
        for path in ("/ws/analysis", PROGRESS_PATH):
            async with client.ws_connect(path) as socket:
                if path == PROGRESS_PATH:
                    assert (await read(socket, 1))[0]["type"] == "connected"
                await socket.send_str(sent)
                (error,) = await read(socket, 1)
                assert error.keys() == {"type", "error"}
                assert error["type"] == "error"
                await socket.send_json({"type": "ping"})
                assert await read(socket, 1) == [{"type": "pong"}]
    assert bench.files.ended == 0


async def test_bytes_that_are_json_are_read_like_text() -> None:
    bench = Bench()
    async with bench.listening() as client, client.ws_connect("/ws/analysis") as socket:
        await socket.send_bytes(b'{"type": "ping"}')
        assert await read(socket, 1) == [{"type": "pong"}]
        await socket.send_bytes(b"\xff\xfe")
        assert (await read(socket, 1))[0]["type"] == "error"


async def test_analyses_run_side_by_side_up_to_a_limit_and_pings_are_answered_meanwhile() -> None:
    bench = Bench()
    go = asyncio.Event()

    async def waits(_progress: Progress) -> Extraction:
        await go.wait()
        return FOUND

    bench.files.work = waits
    async with bench.listening() as client, client.ws_connect("/ws/analysis") as socket:
        for _ in range(5):
            await socket.send_json(ANALYZE)
        await socket.send_json({"type": "ping"})
        types = sorted(one["type"] for one in await read(socket, 6))
        assert types == ["analysis_error", *["analysis_started"] * 4, "pong"]
        go.set()
        assert {one["type"] for one in await read(socket, 4)} == {"analysis_complete"}
        await socket.send_json(ANALYZE)
        assert [one["type"] for one in await read(socket, 2)] == [
            "analysis_started",
            "analysis_complete",
        ]


async def test_a_client_that_leaves_ends_its_analyses() -> None:
    bench = Bench()
    started = asyncio.Event()

    async def forever(_progress: Progress) -> Extraction:
        started.set()
        await asyncio.Event().wait()
        return FOUND

    bench.files.work = forever
    async with bench.listening() as client:
        async with client.ws_connect("/ws/analysis") as socket:
            await socket.send_json(ANALYZE)
            await started.wait()
        await eventually(lambda: bench.files.ended == 1)
        await eventually(lambda: bench.sockets.statistics()["open"] == 0)


async def test_progress_is_that_of_the_session_and_ends_without_metadata() -> None:
    bench = Bench()
    async with bench.listening() as client, client.ws_connect(PROGRESS_PATH) as socket:
        assert await read(socket, 1) == [{"type": "connected", "sessionId": SESSION}]
        with bench.hub.reporting(SESSION) as report:
            for stage, percent in PROGRESS.items():
                report(percent, stage)
            report.complete({"confidence_score": 1.0})
        messages = await read(socket, 6)
        assert [one.get("percentage") for one in messages] == [10, 30, 50, 80, 100, None]
        assert messages[4]["quality_metrics"] == {"confidence_score": 1.0}
        assert messages[5] == {"type": "complete", "sessionId": SESSION}


async def test_who_connects_after_the_upload_gets_the_last_state() -> None:
    bench = Bench()
    async with bench.listening() as client:
        with bench.hub.reporting(SESSION) as report:
            report(10, "received")
        async with client.ws_connect(PROGRESS_PATH) as socket:
            connected, state = await read(socket, 2)
            assert (connected["type"], state["progress"]) == ("connected", 10)


async def test_an_upload_that_fails_is_an_error_of_its_session() -> None:
    bench = Bench()
    async with bench.listening() as client, client.ws_connect(PROGRESS_PATH) as socket:
        await read(socket, 1)
        report = bench.hub.reporting(SESSION)
        report.__enter__().fail("No engine could read the file.")
        assert await read(socket, 1) == [
            {"type": "error", "error": "No engine could read the file.", "sessionId": SESSION}
        ]


@pytest.mark.slow
async def test_heartbeats_are_sent_while_nothing_happens() -> None:
    bench = Bench(heartbeat_s=0.05)
    async with bench.listening() as client, client.ws_connect(PROGRESS_PATH) as socket:
        messages = await read(socket, 4)
        assert [one["type"] for one in messages] == ["connected", *["heartbeat"] * 3]
        # Ten minutes without an upload end the socket.
        assert await closed(socket) == 1000
    await eventually(lambda: bench.hub.statistics()["subscriptions"] == 0)


def test_the_heartbeat_of_a_handler_is_fifteen_seconds() -> None:
    assert metadata_sockets._HEARTBEAT_S == 15


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/images_mvp/progress/short", 400),
        ("/api/images_mvp/progress/" + "a" * 65, 400),
        ("/api/images_mvp/progress/" + "a" * 15 + "%0a", 400),
    ],
)
async def test_a_session_id_that_is_no_secret_is_rejected(path: str, status: int) -> None:
    bench = Bench()
    async with bench.listening() as client:
        with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
            await client.ws_connect(path)
        assert raised.value.status == status


async def test_a_page_of_another_origin_is_rejected() -> None:
    bench = Bench()
    async with bench.listening() as client:
        for path in ("/ws/analysis", PROGRESS_PATH):
            with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
                await client.ws_connect(path, origin="https://elsewhere.example")
            assert raised.value.status == 403
            async with client.ws_connect(path, origin="http://ours"):
                pass


async def test_a_request_that_is_no_handshake_is_a_426_that_says_what_is_needed() -> None:
    bench = Bench()
    async with bench.listening():
        told = await exchange(
            HOST,
            bench.port,
            b"GET /ws/analysis HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
        (answer,) = answers(told)
        assert answer.status == 426
        assert answer.headers["upgrade"] == "websocket"
        assert answer.headers["sec-websocket-version"] == "13"
        assert b"WebSocket" in answer.body
    assert bench.sockets.statistics()["refused"] == 1


async def test_a_missing_handshake_is_reported_before_a_missing_token() -> None:
    # So that the answer shows what a proxy has removed; see `smartserve doctor`.
    bench = Bench()
    headers = {"X-User": "none"}
    async with bench.listening() as client:
        async with client.get("/ws/analysis", headers=headers) as answer:
            assert answer.status == 426
        with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
            await client.ws_connect("/ws/analysis", headers=headers)
        assert raised.value.status == 403


async def test_without_a_handshake_the_last_state_is_returned() -> None:
    bench = Bench()
    async with bench.listening() as client:

        async def polled() -> dict[str, Any]:
            async with client.get(PROGRESS_PATH) as answer:
                assert answer.status == 200
                assert answer.headers["Cache-Control"] == "no-store"
                told: dict[str, Any] = await answer.json()
                return told

        unknown = {"type": "connected", "sessionId": SESSION, "quality_metrics": None}
        assert await polled() == unknown
        with bench.hub.reporting(SESSION) as report:
            report(50, "engine")
            assert (await polled())["percentage"] == 50
            report.complete({"confidence_score": 1})
        ended = {"type": "complete", "sessionId": SESSION}
        assert await polled() == {**ended, "quality_metrics": {"confidence_score": 1}}
        async with client.get(PROGRESS_PATH, headers={"Origin": "https://elsewhere.example"}) as no:
            assert no.status == 403


async def test_a_user_may_have_twenty_sockets_and_the_key_as_many_as_there_are() -> None:
    bench = Bench(max_per_user=2, max_sockets=6)
    async with bench.listening() as client:

        async def connect(user: str) -> Socket:
            return await client.ws_connect("/ws/analysis", headers={"X-User": user})

        mine = [await connect("1"), await connect("1")]
        with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
            await connect("1")
        assert raised.value.status == 429
        others = [await connect("2"), *[await connect("key") for _ in range(3)]]
        with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
            await connect("3")
        assert raised.value.status == 503
        await mine[0].close()
        await eventually(lambda: bench.sockets.statistics()["open"] == 5)
        others.append(await connect("1"))
        for socket in (mine[1], *others):
            await socket.close()
        await eventually(lambda: bench.sockets.statistics()["open"] == 0)
        assert not bench.sockets._owners


def test_the_limits_by_default_are_twenty_and_a_thousand() -> None:
    settings = MetadataSettings()
    assert (settings.sockets_per_user, settings.sockets) == (20, 1000)


async def test_idle_sockets_are_closed_with_1001_when_a_drain_begins() -> None:
    bench = Bench(settings={"lame_duck_s": 600})
    async with (
        bench.listening() as client,
        client.ws_connect("/ws/analysis") as socket,
        client.ws_connect(PROGRESS_PATH) as follower,
    ):
        await read(follower, 1)
        hurried = asyncio.Event()
        bench.runner.begin_drain(hurried)
        assert await closed(socket) == await closed(follower) == 1001
        with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
            await client.ws_connect("/ws/analysis")
        assert raised.value.status == 503
        hurried.set()
        await asyncio.wait_for(bench.runner.drain(), 20)


async def test_a_drain_lets_an_analysis_finish_and_then_closes_with_1001() -> None:
    bench = Bench(settings={"lame_duck_s": 0, "drain_s": 60})
    go = asyncio.Event()

    async def waits(progress: Progress) -> Extraction:
        progress(10, "received")
        await go.wait()
        return FOUND

    bench.files.work = waits
    async with bench.listening() as client, client.ws_connect("/ws/analysis") as socket:
        await socket.send_json(ANALYZE)
        await read(socket, 2)
        bench.runner.begin_drain(asyncio.Event())
        draining = asyncio.create_task(bench.runner.drain())
        await socket.send_json({"type": "ping"})
        assert await read(socket, 1) == [{"type": "pong"}]
        assert not draining.done()
        go.set()
        assert [one["type"] for one in await read(socket, 1)] == ["analysis_complete"]
        assert await closed(socket) == 1001
        await asyncio.wait_for(draining, 20)


async def test_a_drain_lets_the_progress_of_an_upload_finish() -> None:
    bench = Bench(settings={"lame_duck_s": 600})
    async with bench.listening() as client, client.ws_connect(PROGRESS_PATH) as socket:
        await read(socket, 1)
        with bench.hub.reporting(SESSION) as report:
            report(10, "received")
            await read(socket, 1)
            bench.runner.begin_drain(asyncio.Event())
            report(30, "walked")
            report.complete({})
        assert [one["type"] for one in await read(socket, 3)] == [
            "progress",
            "progress",
            "complete",
        ]
        assert await closed(socket) == 1001


async def test_an_analysis_that_outlives_the_drain_ends_with_1001_too() -> None:
    bench = Bench(settings={"lame_duck_s": 0, "drain_s": 0.1})

    async def forever(progress: Progress) -> Extraction:
        progress(10, "received")
        await asyncio.Event().wait()
        return FOUND

    bench.files.work = forever
    async with aiohttp.ClientSession() as client:
        async with bench.listening():
            socket = await client.ws_connect(f"http://{HOST}:{bench.port}/ws/analysis")
            await socket.send_json(ANALYZE)
            await read(socket, 2)
            closing = asyncio.create_task(closed(socket))
            await bench.runner.drain()
        assert await closing == 1001
    assert bench.files.ended == 1


async def test_results_that_slow_clients_do_not_read_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metadata_sockets, "_MAX_UNSENT_BYTES", 25_000_000)
    bench = Bench()
    large = Extraction({"text": "x" * 24_000_000}, {}, {})

    async def find(_progress: Progress) -> Extraction:
        return large

    bench.files.work = find
    async with (
        bench.listening() as client,
        client.ws_connect("/ws/analysis", max_msg_size=0) as other,
    ):
        slow = await connect_without_reading(bench)
        await eventually(lambda: bench.sockets.statistics()["unsent_bytes"] > 24_000_000)
        await other.send_json(ANALYZE)
        messages = await read(other, 2)
        assert messages[1]["type"] == "analysis_error"
        assert "slow clients" in messages[1]["error"]
        slow.transport.abort()
        await eventually(lambda: bench.sockets.statistics()["unsent_bytes"] == 0)
        await other.send_json(ANALYZE)
        assert [one["type"] for one in await read(other, 2)][1] == "analysis_complete"


async def connect_without_reading(bench: Bench) -> asyncio.StreamWriter:
    """Request an analysis on a socket whose client reads nothing."""
    client = socket_that_takes_little()
    await asyncio.get_running_loop().sock_connect(client, (HOST, bench.port))
    _, writer = await asyncio.open_connection(sock=client, limit=1024)
    request = UPGRADE.replace(b"GET /", b"GET /ws/analysis")
    message = b'{"type":"analyze","sessionId":"%b","mediaId":1}' % SESSION.encode()
    writer.write(request + frame(message))
    return writer


async def test_many_analyses_on_one_socket_start_four() -> None:
    bench = Bench()
    running = SimpleNamespace(now=0, most=0)
    go = asyncio.Event()

    async def waits(_progress: Progress) -> Extraction:
        running.now += 1
        running.most = max(running.most, running.now)
        await go.wait()
        running.now -= 1
        return FOUND

    bench.files.work = waits
    async with bench.listening() as client, client.ws_connect("/ws/analysis") as socket:
        for _ in range(150):
            await socket.send_json(ANALYZE)
        types = [one["type"] for one in await read(socket, 150)]
        assert types.count("analysis_error") == 146
        go.set()
        await read(socket, 4)
    assert running.most == 4


@pytest.mark.parametrize("flood", ["messages", "pings", "pongs", "no JSON"])
async def test_a_client_that_floods_is_disconnected_with_1008(flood: str) -> None:
    bench = Bench()
    async with bench.listening() as client, client.ws_connect("/ws/analysis") as other:
        for path in ("/ws/analysis", PROGRESS_PATH):
            async with client.ws_connect(path, autoping=False) as socket:
                with suppress(ConnectionError):
                    sends: dict[str, Callable[[], Awaitable[None]]] = {
                        "messages": partial(socket.send_json, {"type": "ping"}),
                        "pings": socket.ping,
                        "pongs": socket.pong,
                        "no JSON": partial(socket.send_str, "x"),
                    }
                    for _ in range(2000):
                        await sends[flood]()
                assert await closed(socket) == 1008
        await other.send_json({"type": "ping"})
        assert await read(other, 1) == [{"type": "pong"}]


async def test_pings_of_the_protocol_are_answered() -> None:
    bench = Bench()
    async with (
        bench.listening() as client,
        client.ws_connect("/ws/analysis", autoping=False) as socket,
    ):
        await socket.ping(b"are you there")
        message = await socket.receive(timeout=20)
        assert (message.type, message.data) == (WSMsgType.PONG, b"are you there")


async def test_a_message_above_64_kib_closes_its_socket_with_1009() -> None:
    bench = Bench()
    async with bench.listening() as client, client.ws_connect("/ws/analysis") as socket:
        await socket.send_str("x" * (64 * 1024))
        assert (await read(socket, 1))[0]["type"] == "error"
        await socket.send_str("x" * (64 * 1024 + 1))
        assert await closed(socket) == 1009
        message = await socket.receive()
        assert message.type is WSMsgType.CLOSED
