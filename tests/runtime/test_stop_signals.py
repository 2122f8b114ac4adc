"""Signals that stop a process, and blocks that end at the first one."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from proxy.runtime.stop_signals import StopSignals, interruptible


async def test_a_signal_sets_the_event_and_a_hangup_without_terminal_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _descriptor: False)
    loop = asyncio.get_running_loop()
    stopped = StopSignals.listen().received
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            await stopped.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


async def test_a_hangup_reloads_a_service_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda _descriptor: False)
    loop, reloaded = asyncio.get_running_loop(), asyncio.Event()
    signals = StopSignals.listen(reload=reloaded.set)
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(20):
            await reloaded.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
    assert not signals.received.is_set()


@pytest.mark.parametrize(
    ("numbers", "hurried"),
    [
        ([signal.SIGTERM], False),
        ([signal.SIGINT], True),
        ([signal.SIGTERM, signal.SIGTERM], True),
    ],
)
async def test_ctrl_c_and_a_second_signal_end_the_time_in_which_connections_are_accepted(
    numbers: list[signal.Signals], *, hurried: bool
) -> None:
    loop, firsts = asyncio.get_running_loop(), []
    signals = StopSignals.listen(lambda: firsts.append(1))
    try:
        for number in numbers:
            os.kill(os.getpid(), number)
            # A second SIGTERM would be merged with a pending one.
            async with asyncio.timeout(10):
                await signals.received.wait()
        async with asyncio.timeout(10):
            await (signals.hurried if hurried else signals.received).wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
    assert (signals.hurried.is_set(), firsts) == (hurried, [1])


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
