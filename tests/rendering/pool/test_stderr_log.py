"""What a worker prints reaches the log, whole lines together, and no flood of it."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from proxy.rendering.pool.process import _log_stderr


async def test_lines_that_come_together_are_one_entry() -> None:
    stream = asyncio.StreamReader()
    with capture_logs() as entries:
        listening = asyncio.create_task(_log_stderr(stream, 7))
        for line in (b"Traceback (most recent call last):\n", b"MemoryError\n"):
            stream.feed_data(line)
            await asyncio.sleep(0)
        stream.feed_eof()
        await listening
    (entry,) = entries
    assert entry["event"] == "worker_printed"
    assert entry["pid"] == 7
    assert entry["text"] == "Traceback (most recent call last):\nMemoryError"


async def test_a_flood_is_read_to_its_end_and_not_all_of_it_logged() -> None:
    stream = asyncio.StreamReader(limit=2**20)
    stream.feed_data(b"x" * 2**20)
    stream.feed_eof()
    with capture_logs() as entries:
        await _log_stderr(stream, 7)
    assert len(entries) == 20
    assert sum(len(entry["text"]) for entry in entries) < 2**20


async def test_bytes_that_are_no_text_are_logged_all_the_same() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(b"\xff\xfe\n")
    stream.feed_eof()
    with capture_logs() as entries:
        await _log_stderr(stream, 7)
    assert entries[0]["text"] == "\ufffd\ufffd"
