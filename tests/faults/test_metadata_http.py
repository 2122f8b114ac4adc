"""Bombs and a killed engine in a real server: it does not restart or grow, and leaves no file."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections import Counter
from itertools import count
from pathlib import Path

import aiohttp
import pytest

from tests.benchmarks.processes import family, peak_bytes, resident_bytes
from tests.faults.conftest import Launch
from tests.faults.hostile_metadata import NAMES, REFUSED, fuzzed, mutants
from tests.faults.server import Server
from tests.metadata.files import MAKE, jpeg, require_exiftool
from tests.platform.sending import SECRET, token
from tests.support.waiting import eventually

# exiftool has the lowest priority: a machine that is busy with other work hardly runs it.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MIB = 1024**2
_LATE_S = 120.0


@pytest.fixture
async def server(launch: Launch, tmp_path: Path) -> Server:
    """Start a server whose engines run."""
    require_exiftool()
    server = await launch(
        {
            "users": {"jwt_secret": SECRET},
            "metadata": {
                "temp_root": tmp_path / "files",
                "engines": 1,
                # A busy machine must not let a file fail.
                "engine_timeout_s": 600,
                "timeout_s": 3600,
            },
        }
    )
    status, body = await post(server, jpeg(), "photo.jpg")
    assert status == 200, body
    return server


async def post(server: Server, content: bytes, name: str) -> tuple[int, dict[str, object]]:
    form = aiohttp.FormData()
    shown = name.encode(errors="replace").decode() or "file"
    form.add_field("file", io.BytesIO(content), filename=shown)
    headers = {"Authorization": f"Bearer {token(1)}"}
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        server.client(timeout=timeout) as client,
        client.post("/api/extract", data=form, headers=headers) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


async def post_raw(server: Server, content: bytes, name: bytes) -> int:
    """Send a form whose file name is not escaped; return the status of the answer."""
    disposition = b'Content-Disposition: form-data; name="file"; filename="' + name + b'"'
    form = b"--x\r\n" + disposition + b"\r\n\r\n" + content + b"\r\n--x--\r\n"
    headers = {
        "Authorization": f"Bearer {token(1)}",
        "Content-Type": "multipart/form-data; boundary=x",
    }
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        server.client(timeout=timeout) as client,
        client.post("/api/extract", data=form, headers=headers) as answer,
    ):
        await answer.read()
        return answer.status


def engines(server: Server) -> list[int]:
    return [pid for pid in family(server.pid) if b"exiftool" in _arguments(pid)]


def _arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


async def assert_healthy(server: Server, pid: int, tmp_path: Path) -> None:
    """Assert that the server is the same process, its pool works, and nothing is left."""
    await eventually(lambda: bool(engines(server)), timeout_s=_LATE_S)

    async def by_exiftool() -> bool:
        # Each time another file, because extractions are cached.
        status, body = await post(server, jpeg(comment=os.urandom(8).hex().encode()), "a.jpg")
        assert status == 200, body
        insights = body["processing_insights"]
        assert isinstance(insights, dict)
        return not insights["fallback_extraction"]

    await eventually(by_exiftool, timeout_s=_LATE_S)
    assert server.pid == pid
    left = [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
    assert left == []


async def test_bombs_are_answered_with_422_and_the_server_does_not_grow(
    server: Server, tmp_path: Path
) -> None:
    pid, (engine,) = server.pid, engines(server)
    before = resident_bytes(pid)
    peak = peak_bytes(engine)
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    for name, content in REFUSED.items():
        status, body = await post(server, content, "a.png")
        assert status in (400, 422), (name, body)
        assert body["code"] in ("METADATA_TOO_LARGE", "INVALID_FILE_TYPE"), name
    assert peak_bytes(pid) - before < 48 * MIB
    assert engines(server) == [engine]
    # It was not given any of them. Reading a time or a signal may cost it a page.
    assert peak_bytes(engine) - peak < MIB
    await assert_healthy(server, pid, tmp_path)


async def test_an_engine_that_is_killed_during_a_file_is_replaced(
    server: Server, tmp_path: Path
) -> None:
    pid, (engine,) = server.pid, engines(server)
    os.kill(engine, signal.SIGSTOP)
    running = asyncio.create_task(post(server, jpeg(comment=b"another"), "photo.jpg"))

    async def busy() -> bool:
        return await server.metric("smartserve_metadata_in_progress") == 1

    await eventually(busy, timeout_s=_LATE_S)
    linked = tmp_path / "files"
    await eventually(lambda: len([*linked.rglob("*.jpg")]) == 1, timeout_s=_LATE_S)
    os.kill(engine, signal.SIGKILL)
    status, body = await running
    assert status == 200, body
    insights, metadata = body["processing_insights"], body["metadata"]
    assert isinstance(insights, dict)
    assert isinstance(metadata, dict)
    assert insights["fallback_extraction"] is True
    assert metadata["exif"]["make"] == MAKE
    restarts = "smartserve_metadata_engine_restarts_total"
    assert await server.metric(restarts, reason="crash") == 1
    assert await server.metric("smartserve_metadata_fallbacks_total", reason="died") == 1
    await assert_healthy(server, pid, tmp_path)


async def test_hostile_names_and_mutants_are_refused_or_read_and_leave_nothing(
    server: Server, tmp_path: Path
) -> None:
    """One after the other: several at once would be answered with 429."""
    pid = server.pid
    statuses: Counter[int] = Counter()
    # Extractions are cached by content.
    contents = (jpeg(comment=f"{number}".encode()) for number in count())
    for name in NAMES:
        raw = name.encode(errors="surrogatepass")
        # As browsers escape it (WHATWG HTML, multipart/form-data).
        escaped = raw.replace(b"\r", b"%0D").replace(b"\n", b"%0A").replace(b'"', b"%22")
        assert await post_raw(server, next(contents), escaped) in (200, 400), name
        statuses[await post_raw(server, next(contents), raw)] += 1
        # The name ends the header, and begins another one or the content.
        for tail in (b'"\r\nContent-Type: text/html\r\n\r\n', b"\"; filename*=UTF-8''%00", b"\\"):
            statuses[await post_raw(server, b"x" * 100, raw + tail)] += 1
    for number, content in enumerate([*mutants(16, 60), *fuzzed(16, 20)]):
        raw = NAMES[number % len(NAMES)].encode(errors="surrogatepass")
        statuses[await post_raw(server, content, raw.replace(b"\n", b"%0A"))] += 1
    assert max(statuses) < 500, statuses
    assert statuses[200] > 0
    assert not Path("/tmp/injected").exists()
    restarts = "smartserve_metadata_worker_restarts_total"
    assert await server.metric(restarts, reason="crash") == 0
    await assert_healthy(server, pid, tmp_path)
