"""Several server processes: killed, stopped, replaced under load; and the end of their parent."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from tests.benchmarks.processes import family
from tests.faults.conftest import Launch
from tests.faults.server import Server, until_ended
from tests.faults.table import Figure, Record
from tests.support.commands import KEY
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_TWO = {"server": {"processes": 2, "lame_duck_s": 0}, "workers": {"count": 2}}
_LONG_S = 120.0
"""For starts of processes on a busy machine."""


def children(server: Server) -> list[int]:
    """Return the process ids of the server processes."""
    return [pid for pid in family(server.pid)[1:] if _module(pid) == "proxy.cli.server_process"]


def _module(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").rpartition(b"\0")[2].decode()
    return ""


async def replaced(server: Server, old: list[int]) -> None:
    """Return when all these processes have ended and two others serve."""
    await until_ended(old, within_s=_LONG_S)
    await serving(server)


async def serving(server: Server, processes: int = 2) -> None:
    """Return when so many processes serve."""

    async def all_serve() -> bool:
        with suppress(aiohttp.ClientError):
            return await server.metric("smartserve_processes") == processes
        return False

    await eventually(all_serve, timeout_s=_LONG_S)


class Crowd:
    """Clients with a connection each, which they keep; each pauses for a moment between requests.

    A failure is every response that is not whole, and every request without one: no client of
    these repeats a request.
    """

    def __init__(self, server: Server, target: str, body: bytes) -> None:
        self._address = "127.0.0.1", server.port
        self._request = f"GET {target} HTTP/1.1\r\nHost: x\r\nAccept: image/jpeg\r\n\r\n".encode()
        self._body = body
        self._stop = asyncio.Event()
        self.outcomes: Counter[str] = Counter()
        self.connects = 0

    @asynccontextmanager
    async def asking(self, clients: int, *, pause_s: float) -> AsyncIterator[None]:
        """Request continuously while the block runs."""
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                # Some pause for seconds: their connections are idle when the processes change.
                slow = 40 if number % 10 == 0 else 1
                group.create_task(self._ask(pause_s * slow))
            try:
                yield
            finally:
                self._stop.set()

    async def _ask(self, pause_s: float) -> None:
        paces = random.Random(0)
        while not self._stop.is_set():
            try:
                reader, writer = await asyncio.open_connection(*self._address)
            except OSError as error:
                self.outcomes[repr(error)] += 1
                return
            self.connects += 1
            kept = True
            while kept and not self._stop.is_set():
                outcome, kept = await self._response(reader, writer)
                self.outcomes[outcome] += 1
                with suppress(TimeoutError):
                    async with asyncio.timeout(paces.uniform(0, 2 * pause_s)):
                        await self._stop.wait()
            writer.close()

    async def _response(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, bool]:
        """Return the outcome, and whether the connection stays open."""
        try:
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            lines = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:-2])
            body = await reader.readexactly(int(lines[b"content-length"]))
        except (OSError, EOFError, KeyError) as error:
            return repr(error), False
        whole = head.startswith(b"HTTP/1.1 200 ") and body == self._body
        return ("whole" if whole else f"wrong: {head!r}"), lines.get(b"connection") != b"close"


async def crowd(server: Server, library: Library) -> Crowd:
    """Return a crowd that requests a photo, which is in the cache."""
    target = f"/serve/{library.ids['photo']}?w=320"
    async with server.client() as client, client.get(target) as answer:
        assert answer.status == 200
        return Crowd(server, target, await answer.read())


async def _reload_under_load(
    launch: Launch, library: Library, clients: int, pause_s: float
) -> Crowd:
    server = await launch(_TWO)
    await serving(server)
    before, people = children(server), await crowd(server, library)
    async with people.asking(clients, pause_s=pause_s):
        await eventually(lambda: people.outcomes.total() > 2 * clients, timeout_s=_LONG_S)
        server.signal(signal.SIGHUP)
        await replaced(server, before)
        served = people.outcomes.total()
        await eventually(lambda: people.outcomes.total() > served + clients, timeout_s=_LONG_S)
    assert len(children(server)) == 2
    assert not set(before) & set(children(server))
    assert await server.metric("smartserve_process_restarts_total", reason="reload") == 2
    assert await server.metric("smartserve_process_restarts_total", reason="crash") == 0
    return people


async def test_a_reload_replaces_the_processes_and_no_kept_connection_notices(
    launch: Launch, library: Library, record: Record
) -> None:
    people = await _reload_under_load(launch, library, 40, 0.05)
    assert set(people.outcomes) == {"whole"}
    # Every connection was passed on: none was closed, not even politely.
    assert people.connects == 40
    record(Figure(19, "processes replaced under 40 kept connections", 1, 0))


@pytest.mark.drill
async def test_a_reload_under_a_thousand_connections_fails_no_request(
    launch: Launch, library: Library, record: Record
) -> None:
    people = await _reload_under_load(launch, library, 1000, 0.5)
    assert set(people.outcomes) == {"whole"}
    assert people.connects == 1000
    record(Figure(19, "processes replaced under 1,000 kept connections", 1, 0))


async def test_settings_that_are_wrong_replace_nothing(
    launch: Launch, data_dir: Path, tmp_path: Path
) -> None:
    config = tmp_path / "settings.toml"
    config.write_text("[log]\naccess = false\n")
    server = await launch(_TWO, extra={"SMARTSERVE_CONFIG": str(config)})
    await serving(server)
    before = children(server)
    config.write_text("[log]\naccess = 7\n")
    server.signal(signal.SIGHUP)
    await eventually(lambda: "reload_refused" in server.output())
    assert "log.access" in server.output()
    assert children(server) == before
    # With right ones it works, and what only a restart can change is named.
    config.write_text("[log]\naccess = true\n[server]\nport = 1\n")
    server.signal(signal.SIGHUP)
    await replaced(server, before)
    assert "server.port" not in server.output().partition("restart_required")[0]


async def test_a_killed_process_is_replaced_and_counters_do_not_go_backwards(
    launch: Launch, library: Library
) -> None:
    server = await launch(_TWO)
    await serving(server)
    target = f"/serve/{library.ids['photo']}?w=320"
    async with server.client(force_close=True) as client:
        for _ in range(30):
            async with client.get(target) as answer:
                assert answer.status == 200
        counted = await server.metric("smartserve_requests_total", route="serve")
        assert counted == 30
        victims, workers = children(server), server.workers()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
            await until_ended([victim], within_s=_LONG_S)
            # New connections wait for the other process, or for the new one.
            async with client.get(target) as answer:
                assert answer.status == 200
            await serving(server)
    await until_ended(workers, within_s=_LONG_S)
    assert await server.metric("smartserve_requests_total", route="serve") >= counted
    assert await server.metric("smartserve_process_restarts_total", reason="crash") == 2
    assert '"cause":"SIGKILL"' in server.output()


async def test_new_connections_of_a_stopped_process_are_answered_by_another(
    launch: Launch, library: Library
) -> None:
    server = await launch(_TWO)
    await serving(server)
    stopped = children(server)[1]
    os.kill(stopped, signal.SIGSTOP)
    try:
        target = f"/serve/{library.ids['photo']}?w=320"
        async with server.client(force_close=True) as client:
            # Half of them arrive at the socket of the stopped process.
            for _ in range(20):
                async with client.get(target) as answer:
                    assert answer.status == 200
    finally:
        with suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGCONT)


async def test_a_purge_reaches_the_other_process_at_once(launch: Launch, library: Library) -> None:
    server = await launch({**_TWO, "admin": {"key": KEY}})
    await serving(server)
    media_id = library.ids["photo"]
    target, admin = f"/serve/{media_id}?w=320", {"Authorization": f"Bearer {KEY}"}

    async def origins(times: int) -> set[str]:
        async with server.client(force_close=True) as client:
            found = set()
            for _ in range(times):
                async with client.get(target) as answer:
                    assert answer.status == 200
                    found.add(answer.headers["Cache-Status"])
            return found

    async def in_both_memories() -> bool:
        return await origins(20) == {"smartserve; hit; detail=memory"}

    await eventually(in_both_memories, timeout_s=_LONG_S)
    path = f"/api/media/{media_id}/renditions"
    async with server.client(headers=admin) as client, client.delete(path) as answer:
        assert answer.status == 200, await answer.text()

    async def applied() -> bool:
        return await server.metric("smartserve_purges_applied_total") >= 1

    await eventually(applied, timeout_s=_LONG_S)
    assert await server.metric("smartserve_purge_wake_ups_total") >= 1


@pytest.mark.drill
async def test_a_process_that_hangs_is_killed_and_replaced(launch: Launch) -> None:
    server = await launch(_TWO)
    await serving(server)
    stopped = children(server)[0]
    os.kill(stopped, signal.SIGSTOP)
    await until_ended([stopped], within_s=_LONG_S)
    await serving(server)
    assert await server.metric("smartserve_process_restarts_total", reason="hang") == 1


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
async def test_nothing_outlives_the_parent_and_its_port_is_free(
    launch: Launch, *, stopped: bool
) -> None:
    server = await launch(_TWO)
    await serving(server)
    members = family(server.pid)
    if stopped:
        os.kill(children(server)[1], signal.SIGSTOP)
    await server.kill()
    await until_ended(members, within_s=_LONG_S)
    await server.start()
    await serving(server)


async def test_sigterm_ends_all_processes_after_their_responses(
    launch: Launch, library: Library
) -> None:
    server = await launch(_TWO)
    await serving(server)
    members, people = family(server.pid), await crowd(server, library)
    async with people.asking(20, pause_s=0.01):
        await eventually(lambda: people.outcomes.total() > 100, timeout_s=_LONG_S)
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0
    await until_ended(members)
    # No response is cut. An idle connection is closed, at which its client may just send a request.
    assert set(map(_kind, people.outcomes)) <= {"whole", "refused", "closed"}
    assert '"process_killed"' not in server.output()


def _kind(outcome: str) -> str:
    closed = "0 bytes read" in outcome or "ConnectionReset" in outcome
    refused = "ConnectionRefused" in outcome or "Connect call failed" in outcome
    return "closed" if closed else "refused" if refused else outcome


async def test_a_port_in_use_and_wrong_settings_are_reported_once(
    launch: Launch, data_dir: Path
) -> None:
    server = await launch(_TWO)
    second = Server(data_dir.with_name("second"), _TWO)
    second.port = server.port
    await second.start(fails=True)
    assert await second.ended() == 2
    assert second.output().count("cannot listen on 127.0.0.1") == 1


async def test_one_process_has_no_parent(launch: Launch) -> None:
    server = await launch({"server": {"processes": 1}})
    assert children(server) == []
    assert await server.metric("smartserve_processes") == 0
