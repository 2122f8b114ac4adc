"""Row 19: a server that is stopped completes its responses and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import socket
import time
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import DEVNULL
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing, suppress
from itertools import cycle
from pathlib import Path

import aiohttp
import pytest

from tests.benchmarks.servers import command, environment
from tests.deploy.front import nginx
from tests.faults.conftest import Launch
from tests.faults.server import Server, ended, variables
from tests.faults.table import Figure, Record
from tests.support.mounts import dead
from tests.support.server import Library
from tests.support.waiting import eventually, pause_between_pieces

pytestmark = pytest.mark.slow

_DRAIN_S = 20
_LITTLE_S = 5.0
"""Time that a server may need beyond its drain time, on a busy machine."""
_CLOSE_S = 5.0
"""Time that a server has to close everything after its last response."""
_WIDTHS = (48, 64, 96, 128, 256, 384, 640)
_SLOW_READER_S = 3.0
_TWO_STAGES = {
    # No final is fast enough to be rendered at once, so the first response is a draft everywhere.
    "upgrades": {"enabled": True, "budget_s": 0},
    "workers": {"count": 2, "max_queue": 200, "max_queue_wait_s": 60},
}


def _targets(library: Library) -> list[str]:
    """Return a hundred targets; five are large and are streamed while they are rendered."""
    many = [
        f"/serve/{library.ids[name]}?w={width}&format={fmt}"
        for width in _WIDTHS
        for fmt in ("jpeg", "webp", "avif", "png")
        for name in ("photo", "logo", "large", "badge")
        if not (name == "badge" and fmt == "jpeg")
    ]
    streamed = [f"/serve/{library.ids['large']}?w={w}&format=jpeg" for w in (750, 828, 1080, 1920)]
    return [*streamed, *many][:100]


async def _references(server: Server, targets: Sequence[str]) -> dict[str, bytes]:
    async with server.client() as client:

        async def body(target: str) -> bytes:
            async with client.get(target) as answer:
                assert answer.status == 200
                return await answer.read()

        bodies = await asyncio.gather(*map(body, targets))
    return dict(zip(targets, bodies, strict=True))


async def _read(client: aiohttp.ClientSession, target: str) -> tuple[int, bytes]:
    """Return status and body; the connection is given back also after an error."""
    async with client.get(target) as answer:
        return answer.status, await answer.read()


async def _outcome(
    client: aiohttp.ClientSession, target: str, references: Mapping[str, bytes]
) -> str:
    """Return the outcome of a request: whole, refused, unanswered, or truncated or wrong."""
    try:
        answer = await client.get(target)
    except aiohttp.ClientError:
        return "unanswered"
    try:
        body = await answer.read()
    except aiohttp.ClientError:
        return "truncated"
    if answer.status == 503:
        return "refused"
    return "whole" if (answer.status, body) == (200, references[target]) else "wrong"


async def _slow_reader(port: int, target: str, reference: bytes) -> str:
    """Return the outcome for a client that lets its response wait before it reads it."""
    reader, writer = await _asked(port, target)
    with closing(writer):
        await asyncio.sleep(_SLOW_READER_S)
        with suppress(ConnectionError):
            received = await reader.read()
            return "whole" if _unchunked(received) == reference else "truncated"
    return "truncated"


def _unchunked(answer: bytes) -> bytes:
    """Return the body of a response, chunked or with a length, as far as it was received."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"chunked" not in head.lower():
        return rest
    body = bytearray()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return bytes(body)
        body += rest[:length]
        rest = rest[length + 2 :]
    return b""


async def _asked(port: int, target: str) -> tuple[StreamReader, StreamWriter]:
    """Return a connection with a small buffer that has sent its request and read nothing."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.setblocking(False)  # noqa: FBT003 - setblocking has a positional flag
    await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=narrow, limit=4096)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return reader, writer


async def _until(server: Server, metric: str, least: float) -> None:
    async def reached() -> bool:
        return await server.metric(metric) >= least

    await eventually(reached, timeout_s=20)


async def _until_refused(port: int) -> None:
    async def refused() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return True
        writer.close()
        return False

    await eventually(refused, timeout_s=_LITTLE_S)


def _leftovers(data_dir: Path, workers: Sequence[int]) -> list[str]:
    """Return the processes and temporary files that a stopped server leaves behind."""
    processes = [str(pid) for pid in workers if not ended(pid)]
    return processes + [str(path) for path in (data_dir / "renditions" / "tmp").rglob("*")]


@pytest.mark.drill
async def test_a_hundred_renders_complete_after_sigterm(
    launch: Launch, library: Library, record: Record, tmp_path: Path
) -> None:
    """About 15 s."""
    targets = _targets(library)
    big = f"/serve/{library.ids['large']}?w=1920&format=png"
    first = await launch(_TWO_STAGES, data_dir=library.copy(tmp_path / "first"))
    references = await _references(first, [*targets, big])
    await first.stop()
    server = await launch(_TWO_STAGES)
    async with server.client() as probe, server.client() as client:
        await (await probe.get("/readyz")).read()
        slow = asyncio.create_task(_slow_reader(server.port, big, references[big]))
        # The probe, the slow reader and the client of the metrics.
        await _until(server, "smartserve_connections", 3)
        asked = [asyncio.create_task(_outcome(client, one, references)) for one in targets]
        await _until(server, "smartserve_queue_depth", 60)
        workers = server.workers()
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        async with asyncio.timeout(_LITTLE_S):
            while (answer := await probe.get("/readyz")).status == 200:
                await answer.read()
        assert (await answer.json())["status"] == "draining"
        await _until_refused(server.port)
        outcomes = Counter(await asyncio.gather(*asked, slow))
        code = await server.ended(_DRAIN_S + _LITTLE_S)
    took_s = time.monotonic() - began
    assert outcomes == {"whole": len(targets) + 1}
    assert code == 0
    assert _leftovers(server.data_dir, workers) == []
    record(Figure(19, "SIGTERM with a hundred renders running", 1, 0, f"ended in {took_s:.1f} s"))


@pytest.mark.drill
async def test_a_hundred_renders_that_take_too_long_do_not_prevent_the_exit(
    launch: Launch, library: Library, record: Record
) -> None:
    server = await launch({**_TWO_STAGES, "server": {"drain_s": 1}})
    big = library.ids["large"]
    targets = [f"/serve/{big}?w=1920&format=avif&v={number}" for number in range(10)]
    targets += [f"/serve/{big}?w={w}&format={f}" for w in _WIDTHS for f in ("avif", "png", "webp")]
    async with server.client() as client:
        asked = [asyncio.create_task(_read(client, target)) for target in (targets * 4)[:100]]
        await _until(server, "smartserve_queue_depth", 10)
        workers, began = server.workers(), time.monotonic()
        server.signal(signal.SIGTERM)
        code = await server.ended(1 + _CLOSE_S + _LITTLE_S)
        took_s = time.monotonic() - began
        await asyncio.gather(*asked, return_exceptions=True)
    assert code == 0
    assert _leftovers(server.data_dir, workers) == []
    record(Figure(19, "SIGTERM with renders that take too long", 1, 0, f"ended in {took_s:.1f} s"))


@pytest.mark.drill
async def test_a_client_that_never_reads_does_not_prevent_the_exit(
    launch: Launch, library: Library, record: Record
) -> None:
    """Also after repeated signals; waiting clients receive a whole response or none."""
    sections = {"server": {"drain_s": 1}, "workers": {"count": 1, "max_queue": 200}}
    server = await launch(sections)
    large = library.ids["large"]
    _, stuck = await _asked(server.port, f"/serve/{large}?w=1920&format=png")
    targets = [f"/serve/{large}?w={width}&format=avif" for width in (1920, 1200, 1080, 828, 750)]
    async with server.client() as client:
        asked = [asyncio.create_task(_read(client, target)) for target in targets]
        await _until(server, "smartserve_queue_depth", 1)
        workers = server.workers()
        server.signal(signal.SIGTERM)
        # A second SIGTERM would be merged with a pending one.
        await eventually(lambda: '"stopping"' in server.output())
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        code = await server.ended(1 + _LITTLE_S)
        truncated = 0
        for task in asked:
            with suppress(aiohttp.ClientConnectionError):
                status, body = await task
                truncated += status == 200 and not body
    stuck.transport.abort()
    assert (code, truncated) == (0, 0)
    assert _leftovers(server.data_dir, workers) == []
    record(Figure(19, "SIGTERM, twice, with a client that never reads", 1, truncated))


_RESTARTS = 10
_CLIENTS = 6
_PACE_S = 0.03


class _Pool:
    """Two servers behind a balancer that sends requests to those that are ready."""

    def __init__(self, servers: Sequence[Server], references: Mapping[str, bytes]) -> None:
        self.servers = servers
        self.references = references
        self.ready = dict.fromkeys(servers, True)
        self.stopped = False
        self.outcomes: Counter[str] = Counter()

    async def balance(self) -> None:
        """Request the readiness of each server all the time."""
        async with aiohttp.ClientSession() as probe:
            while not self.stopped:
                for server in self.servers:
                    try:
                        async with probe.get(f"{server.base}/readyz") as answer:
                            self.ready[server] = answer.status == 200
                    except aiohttp.ClientError:
                        self.ready[server] = False
                await pause_between_pieces(0.05)

    async def send_all(self, send: Callable[[str], Awaitable[bytes]]) -> None:
        """Send requests until the end, each at the response of the one before."""
        for target in cycle(self.references):
            if self.stopped:
                return
            try:
                right = await send(target) == self.references[target]
                self.outcomes["whole" if right else "wrong"] += 1
            except (aiohttp.ClientError, OSError, EOFError) as error:
                self.outcomes[repr(error)] += 1
            await pause_between_pieces(_PACE_S)

    async def keep(self, first: int) -> None:
        """Send requests on a kept connection, and on another one after ``Connection: close``."""
        kept: list[tuple[StreamReader, StreamWriter]] = []
        order = cycle(self.servers)
        if first:
            next(order)

        async def send(target: str) -> bytes:
            if not kept:
                server = next(one for one in order if self.ready[one])
                kept.append(await asyncio.open_connection("127.0.0.1", server.port))
            reader, writer = kept[0]
            writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
            if b"connection: close" in head:
                kept.clear()
                await _closed(writer)
            return body

        await self.send_all(send)
        for _, writer in kept:
            await _closed(writer)

    async def pass_proxy(self, base: str) -> None:
        """Send requests through nginx, which keeps connections to both servers."""
        async with aiohttp.ClientSession(base) as client:

            async def send(target: str) -> bytes:
                async with client.get(target) as answer:
                    return await answer.read()

            await self.send_all(send)


async def _closed(writer: StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.drill
async def test_ten_rolling_restarts_under_load_lose_no_request(
    launch: Launch, library: Library, record: Record, tmp_path: Path
) -> None:
    """About 90 s."""
    sections = {"server": {"lame_duck_s": 2}, "workers": {"count": 1}}
    servers = [
        await launch(sections, data_dir=library.copy(tmp_path / name)) for name in ("one", "two")
    ]
    targets = [
        f"/serve/{library.ids[name]}?w={width}&format={form}"
        for name in ("photo", "logo")
        for width in (64, 256)
        for form in ("webp", "png")
    ]
    pool = _Pool(servers, await _references(servers[0], targets))
    await _references(servers[1], targets)
    ports = "".join(f"server 127.0.0.1:{one.port} max_fails=0; " for one in servers)
    changes = [("upstream.conf", f"server 127.0.0.1:{servers[0].port} max_fails=0;", ports)]
    with nginx(tmp_path / "nginx", "files", upstream=servers[0].port, changes=changes) as front:
        async with asyncio.TaskGroup() as group:
            group.create_task(pool.balance())
            for number in range(_CLIENTS):
                group.create_task(pool.keep(number % 2))
                group.create_task(pool.pass_proxy(front.base))
            try:
                for number in range(_RESTARTS):
                    server = servers[number % 2]
                    server.signal(signal.SIGTERM)
                    assert await server.ended() == 0
                    await server.start()
                    await eventually(lambda server=server: pool.ready[server])  # type: ignore[misc]
            finally:
                pool.stopped = True
    whole = pool.outcomes.pop("whole")
    assert pool.outcomes == {}
    assert whole > 50 * _RESTARTS
    assert not any("exit_forced" in server.output() for server in servers)
    record(Figure(19, "rolling restarts under load", _RESTARTS, 0, f"{whole} requests"))


@pytest.mark.parametrize("part", ["originals", "renditions"])
async def test_a_file_system_that_does_not_respond_does_not_prevent_the_exit(
    launch: Launch, library: Library, record: Record, part: str
) -> None:
    sections = {"storage": {"open_timeout_s": 1}, "server": {"drain_s": 1}}
    server = await launch(sections)
    photo, logo = library.ids["photo"], library.ids["logo"]
    async with server.client() as client:
        async with client.get(f"/serve/{photo}?w=64") as answer:
            body = await answer.read()
        with dead(server.data_dir / part):
            asked = [
                asyncio.create_task(_read(client, f"/serve/{logo}?w={width}")) for width in _WIDTHS
            ]
            await _until(server, "smartserve_requests_total", 1)
            async with client.get(f"/serve/{photo}?w=64") as answer:
                assert await answer.read() == body, "from memory"
            workers, began = server.workers(), time.monotonic()
            server.signal(signal.SIGTERM)
            code = await server.ended(1 + _CLOSE_S + _LITTLE_S)
            took_s = time.monotonic() - began
        await asyncio.gather(*asked, return_exceptions=True)
    assert code == 0
    assert _leftovers(server.data_dir, workers) == []
    record(Figure(19, f"SIGTERM with dead {part}", 1, 0, f"ended in {took_s:.1f} s"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_stopped_while_it_starts_exits_cleanly(
    data_dir: Path, record: Record, number: signal.Signals
) -> None:
    server = Server(data_dir, {})
    starting = asyncio.create_task(server.start(fails=True))
    await server.until_workers(1)
    workers = server.workers()
    server.signal(number)
    await starting
    assert await server.ended(_LITTLE_S) == 0
    assert "Traceback" not in server.output()
    await eventually(lambda: _leftovers(data_dir, workers) == [], timeout_s=_LITTLE_S)
    record(Figure(19, f"{number.name} while it starts", 1, 0))


async def test_a_service_logs_sighup_and_keeps_running(
    launch: Launch, library: Library, record: Record
) -> None:
    server = await launch()
    server.signal(signal.SIGHUP)
    await eventually(lambda: "hangup_ignored" in server.output(), timeout_s=_LITTLE_S)
    async with server.client() as client:
        assert (await client.get(f"/serve/{library.ids['photo']}?w=64")).status == 200
    record(Figure(19, "SIGHUP to a service", 1, 0))


async def test_a_server_exits_cleanly_when_its_terminal_closes(data_dir: Path) -> None:
    ours, terminal = pty.openpty()
    settings = environment(**variables({"workers": {"count": 1}}))
    server = await asyncio.create_subprocess_exec(
        *command("serve", "--port", "0", "--data-dir", data_dir),
        stdin=terminal,
        stdout=asyncio.subprocess.PIPE,
        stderr=DEVNULL,
        env=settings,
    )
    os.close(terminal)
    assert server.stdout is not None
    assert b"smartserve" in await server.stdout.readline()
    server.send_signal(signal.SIGHUP)
    assert await server.wait() == 0
    os.close(ours)
