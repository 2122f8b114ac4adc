"""A server process that has a parent."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.app.server_process import ServerProcess
from proxy.runtime.process_link import Handler, ProcessLink
from proxy.runtime.supervised_task import ONCE_PER_MACHINE, cancel
from proxy.settings import ServerSettings
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.summed_metrics import snapshot_of
from proxy.web.server.inherited_sockets import SocketOwner
from tests.support.waiting import eventually


class Parent:
    """The other end of the connection, which records notices."""

    def __init__(self) -> None:
        self.received: list[tuple[str, Any]] = []

    def handlers(self, **more: Handler) -> dict[str, Handler]:
        def noting(kind: str) -> Handler:
            async def note(value: object) -> None:
                self.received.append((kind, value))

            return note

        return {kind: noting(kind) for kind in ("ready", "alive", "last", "purged")} | more

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.received]


@asynccontextmanager
async def process(
    parent: Parent, *, slot: int = 0, **handlers: Handler
) -> AsyncIterator[tuple[ServerProcess, ProcessLink]]:
    """Yield a process and the parent's end of its connection."""
    owner = SocketOwner()
    await owner.bind(ServerSettings(port=0), 2)
    sockets = owner.of(slot)
    ours, theirs = socket.socketpair()
    order = {
        "slot": slot,
        "link": os.dup(theirs.fileno()),
        "samples": False,
        "watchdog_s": 30,
        "sockets": {
            "own": [os.dup(one.fileno()) for one in sockets.own],
            "others": [os.dup(one.fileno()) for one in sockets.others],
            "arriving": os.dup(sockets.arriving.fileno()),
            "leaving": os.dup(sockets.leaving.fileno()),
        },
    }
    theirs.close()
    link = await ProcessLink.open(ours)
    messages = asyncio.create_task(link.run(parent.handlers(**handlers)))
    found = await ServerProcess.of(order)
    try:
        yield found, link
    finally:
        await cancel(messages)
        link.close()
        inherited = found.sockets
        for one in (*inherited.own, *inherited.others, inherited.arriving, inherited.leaving):
            one.close()
        owner.close()


async def test_only_the_first_process_runs_what_a_machine_needs_once() -> None:
    async with process(Parent(), slot=0) as (first, _), process(Parent(), slot=1) as (second, _):
        assert first.elsewhere == frozenset()
        assert second.elsewhere == ONCE_PER_MACHINE
        await first.close()
        await second.close()


async def test_it_reports_its_start_its_life_and_its_last_figures() -> None:
    parent, metrics = Parent(), Metrics()
    async with process(parent) as (one, link):
        one.start()
        one.manager.notify("READY=1")
        one.manager.notify("WATCHDOG=1")
        one.ready(metrics, ["a line"])
        one.notify_others("purged", 3)
        await eventually(lambda: len(parent.received) == 3)
        found = await link.request("snapshot", timeout_s=60)
        assert {entry["name"] for entry in found} == {
            entry["name"] for entry in snapshot_of(metrics.registry.collect())
        }
        await one.close()
        await eventually(lambda: len(parent.received) == 4)
    assert parent.kinds() == ["alive", "ready", "purged", "last"]
    assert dict(parent.received)["ready"] == ["a line"]


async def test_metrics_are_those_that_the_parent_has_added() -> None:
    async def metrics(_: object) -> object:
        sample = ["requests_total", {"route": "serve"}, 12, None]
        documented = {"name": "requests", "documentation": "R.", "unit": ""}
        return [{**documented, "type": "counter", "samples": [sample]}]

    async with process(Parent(), metrics=metrics) as (one, _):
        one.start()
        one.ready(Metrics(), [])
        body, media_type = await one.exposition("text/plain")
        assert b'requests_total{route="serve"} 12.0' in body
        assert media_type.startswith("text/plain")
        await one.close()


async def test_without_a_parent_that_responds_there_are_no_metrics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.app.server_process._METRICS_S", 0.01)
    async with process(Parent()) as (one, _):
        one.start()
        one.ready(Metrics(), [])
        with pytest.raises(TimeoutError):
            await one.exposition("")
        await one.close()
