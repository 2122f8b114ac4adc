"""What a worker prints is logged, within limits."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from proxy.rendering.pool import worker_start
from proxy.rendering.pool.worker_start import log_stderr
from tests.support.waiting import eventually

HOUR_S = 3600.0


async def test_lines_that_are_printed_together_are_one_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_start, "_STDERR_BATCH_S", HOUR_S)
    stream = asyncio.StreamReader()

    def stream_is_empty() -> bool:
        return not stream._buffer  # type: ignore[attr-defined]

    with capture_logs() as entries:
        logging = asyncio.create_task(log_stderr(stream, 7))
        for line in (b"Traceback (most recent call last):\n", b"MemoryError\n"):
            stream.feed_data(line)
            await eventually(stream_is_empty)
        stream.feed_eof()
        await logging
    (entry,) = entries
    assert entry["event"] == "worker_printed"
    assert entry["pid"] == 7
    assert entry["text"] == "Traceback (most recent call last):\nMemoryError"


async def test_a_flood_is_read_to_its_end_but_not_logged_completely() -> None:
    stream = asyncio.StreamReader(limit=2**20)
    stream.feed_data(b"x" * 2**20)
    stream.feed_eof()
    with capture_logs() as entries:
        await log_stderr(stream, 7)
    assert len(entries) == 20
    assert sum(len(entry["text"]) for entry in entries) < 2**20


async def test_bytes_that_are_not_text_are_logged() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(b"\xff\xfe\n")
    stream.feed_eof()
    with capture_logs() as entries:
        await log_stderr(stream, 7)
    assert entries[0]["text"] == "\ufffd\ufffd"
