"""The server of ``smartserve serve``: how it begins to stop."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.cli.run_server import _begin_to_stop
from proxy.runtime.stop_signals import StopSignals


@pytest.mark.parametrize(
    ("process", "calls"),
    [
        (None, ["not ready", "drain"]),
        (SimpleNamespace(replaced=False), ["not ready", "drain"]),
        # Its successor serves: a load balancer must not notice.
        (SimpleNamespace(replaced=True), ["pass on"]),
    ],
    ids=["alone", "stopped", "replaced"],
)
async def test_a_server_that_is_replaced_stays_ready(process: Any, calls: list[str]) -> None:
    called: list[str] = []

    def calling(name: str) -> Any:
        return lambda *_: called.append(name)

    surface = SimpleNamespace(
        health=SimpleNamespace(drain=calling("not ready")),
        runner=SimpleNamespace(begin_drain=calling("drain"), begin_passing_on=calling("pass on")),
    )
    _begin_to_stop(cast("Any", surface), StopSignals(asyncio.Event(), asyncio.Event()), process)
    assert called == calls
