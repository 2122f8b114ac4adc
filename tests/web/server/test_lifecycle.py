"""The lifecycle: what happens when the server starts to listen, gets a signal, and stops."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from typing import Any, cast

import pytest
from aiohttp import web

from proxy.domain.errors import ConfigurationError
from proxy.settings import ServerSettings
from proxy.telemetry.metrics import Metrics
from proxy.web.handlers.health import HealthHandler
from proxy.web.server.lifecycle import freeze, interruptible, listening, stop_signals
from proxy.web.server.request_pipeline import RequestPipeline
from proxy.web.server.runner import ServerRunner
from tests.support.waiting import eventually
from tests.web.server.bench import NoCache, healthy

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def a_runner(settings: ServerSettings, handler: Any = healthy) -> ServerRunner:
    app = web.Application()
    app.router.add_get("/", handler)
    pipeline = RequestPipeline(
        response_cache=cast("Any", NoCache()), metrics=Metrics(), access_log=None
    )
    return ServerRunner(app, pipeline, settings)


async def test_a_server_listens_on_a_free_port_and_answers() -> None:
    settings = ServerSettings(port=0)
    async with listening(a_runner(settings), HealthHandler({}), settings) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        writer.close()


async def test_a_port_in_use_is_named_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = ServerSettings(port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match=f"cannot listen on .*:{settings.port}: "):
            async with listening(a_runner(settings), HealthHandler({}), settings):
                pytest.fail("it listens")


@pytest.mark.parametrize("finishes", [True, False])
async def test_stopping_waits_for_running_responses_up_to_the_limit(*, finishes: bool) -> None:
    settings = ServerSettings(port=0, drain_s=30 if finishes else 0.05)
    done, started = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> Any:
        started.set()
        await done.wait()
        return await healthy(request)

    runner, health = a_runner(settings, slow), HealthHandler({})
    async with listening(runner, health, settings) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        await started.wait()
        if finishes:
            # As soon as the server accepts no more connections.
            waiting = asyncio.create_task(eventually(lambda: not runner.addresses))
            waiting.add_done_callback(lambda _: done.set())
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ") == finishes
    assert finishes or answer == b""


async def test_a_signal_sets_the_event_and_a_hangup_without_terminal_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _descriptor: False)
    loop = asyncio.get_running_loop()
    stopped = stop_signals()
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            await stopped.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


async def test_a_set_event_aborts_the_block_and_nothing_after_it() -> None:
    stopped, reached = asyncio.Event(), []
    asyncio.get_running_loop().call_soon(stopped.set)
    async with interruptible(stopped):
        await asyncio.Future()
        reached.append("inside")
    reached.append("after")
    assert reached == ["after"]


async def test_a_timeout_inside_the_block_is_raised() -> None:
    with pytest.raises(TimeoutError):
        async with interruptible(asyncio.Event()):
            raise TimeoutError


async def test_the_collector_ignores_what_existed_at_the_start() -> None:
    gc.unfreeze()
    freeze()
    try:
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
