"""Row 6: a low limit of open files lowers the connection limit, with a log line."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.conftest import Launch
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


async def test_a_low_limit_of_open_files_lowers_the_connection_limit(launch: Launch) -> None:
    server = await launch(prefix=["prlimit", "--nofile=256"])
    await eventually(lambda: '"event":"fewer_connections"' in server.output())
    assert '"allowed":128' in server.output()
    held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(200)]
    try:
        async with server.client(force_close=True) as client:
            async with client.get("/healthz") as answer:
                assert answer.status == 200
            async with client.get("/serve/1") as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"] == "5"
    finally:
        for _, writer in held:
            writer.transport.abort()
    assert "Traceback" not in server.output()
