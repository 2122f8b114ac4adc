"""Row 16: connections beyond the descriptor limit wait or get a 503, without a busy loop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import Launch
from tests.faults.responses import Answer, bodies, cpu_s, descriptors, fetch_all
from tests.faults.server import Sections, Server
from tests.faults.table import Figure, Record
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")
_QUIET: Sections = {
    "log": {"access": False},
    # As many connections as fit below the limit of descriptors.
    "server": {"max_connections": 0},
    "renditions": {"memory_max_bytes": 0},
    "database": {"pool_size": 2},
}
"""Hits are read from disk, so that they need descriptors too."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def limited(descriptors: int) -> list[str]:
    return ["prlimit", f"--nofile={descriptors}:{descriptors}"]


def targets(library: Library) -> list[str]:
    return [
        f"/serve/{library.ids[name]}?w={width}&format={kind}"
        for name in ("photo", "logo", "badge")
        for width in (64, 96, 128, 256)
        for kind in ("webp", "png")
    ]


async def arrive(server: Server, target: str) -> Stream:
    """Connect and send a request at once, while others do: accepting and opening files coincide."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return reader, writer


async def one_answer(reader: asyncio.StreamReader) -> Answer:
    """Return the response on a connection that stays open; status 0 if it is closed."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        status, length = _STATUS.match(head), _LENGTH.search(head)
        assert status is not None, head
        assert length is not None, head
        assert status[1] == b"200" or b"\r\nRetry-After: " in head
        headers = {"Cache-Status": "detail=fallback"} if b"detail=fallback" in head else {}
        return Answer(int(status[1]), await reader.readexactly(int(length[1])), headers)
    except ConnectionError:
        # The server closed before the request was sent, so the kernel reports a reset. asyncio
        # then raises although the answer had arrived.
        early = _STATUS.match(bytes(reader._buffer))  # type: ignore[attr-defined]
        return Answer(int(early[1]) if early is not None else 0)
    except asyncio.IncompleteReadError:
        return Answer(0)


@asynccontextmanager
async def herd(
    server: Server, targets: Sequence[str], count: int
) -> AsyncIterator[list[tuple[str, Answer]]]:
    """Open ``count`` connections that request images at once and stay open; none waits for ever."""
    asked = [targets[place % len(targets)] for place in range(count)]
    streams = await asyncio.gather(*[arrive(server, target) for target in asked])
    try:
        async with asyncio.timeout(90):
            answers = await asyncio.gather(*[one_answer(reader) for reader, _ in streams])
        yield list(zip(asked, answers, strict=True))
    finally:
        for _, writer in streams:
            writer.close()


async def until_fewer(server: Server, count: int) -> None:
    await eventually(lambda: descriptors(server.pid) <= count, timeout_s=30)


def in_order(target: str, answer: Answer, right: Mapping[str, bytes]) -> bool:
    """Return whether a response is a refusal, the requested image, or a declared fallback."""
    stands_in = answer.status == 200 and answer.headers
    return answer.status != 200 or answer.body in (right.values() if stands_in else [right[target]])


def forget(server: Server, *, part: int) -> None:
    """Delete every ``part``-th rendition, so that it must be rendered again."""
    for path in list((server.data_dir / "renditions").glob("??/*/*"))[::part]:
        path.unlink()


async def starved(server: Server, targets: Sequence[str], *, limit: int, turns: int) -> list[int]:
    """Use up all descriptors, then nearly all, repeatedly; return the statuses.

    Asserts that images are correct, that the server sleeps while starved, and recovers.
    """
    # Two connections to the database and the pipes of the background worker come and go.
    idle = descriptors(server.pid) + 14
    found: list[tuple[str, Answer]] = []
    for _ in range(turns):
        forget(server, part=1)
        async with herd(server, targets, 3 * limit) as answers:
            found += answers
            before = cpu_s(server.pid)
            # A busy loop would use most of this second.
            await asyncio.sleep(1)
            assert cpu_s(server.pid) - before < 0.25
            assert descriptors(server.pid) < limit, "some are left for files"
        await until_fewer(server, idle)
        forget(server, part=2)
        async with herd(server, targets, limit - idle - 4) as answers:
            found += answers
        await until_fewer(server, idle)
    async with server.client(force_close=True) as client:
        right = bodies(await fetch_all(client, targets, at_once=1))
    await server.until_workers(2)
    await server.until_ready()
    assert [one for one, answer in found if not in_order(one, answer, right)] == []
    statuses = [answer.status for _, answer in found]
    assert set(statuses) == {200, 503}
    return statuses


async def test_a_server_out_of_descriptors_refuses_and_recovers(
    launch: Launch, library: Library
) -> None:
    server = await launch(_QUIET, prefix=limited(64))
    found = await starved(server, targets(library), limit=64, turns=1)
    assert found.count(503) > 100
    assert await server.metric("smartserve_requests_total", route="over_limit", status="503") > 100


async def test_a_server_without_descriptors_for_its_workers_exits_with_a_message(
    data_dir: Path,
) -> None:
    server = Server(data_dir, {}, prefix=limited(16))
    await server.start(fails=True)
    assert await server.ended() == 2
    assert "Too many open files" in server.output()


@pytest.mark.drill
@pytest.mark.timeout(600)
@pytest.mark.parametrize("limit", [40, 256])
async def test_many_connections_on_few_descriptors_cause_no_busy_loop(
    launch: Launch, library: Library, record: Record, limit: int
) -> None:
    server = await launch(_QUIET, prefix=limited(limit))
    found = await starved(server, targets(library), limit=limit, turns=2)
    measured = ", ".join(f"{found.count(status)} x {status}" for status in (200, 503))
    record(Figure(16, f"connections and renders on {limit} descriptors", len(found), 0, measured))
