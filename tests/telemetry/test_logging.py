"""The access log, and log lines of other libraries."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import BinaryIO

import pytest
from aiohttp.http_exceptions import BadStatusLine

from proxy.settings import LogSettings
from proxy.telemetry.logging import AccessLog, LogWriter, _is_relevant
from tests.support.waiting import eventually


class Stream(io.BytesIO):
    """Counts its writes."""

    writes = 0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.writes += 1
        return super().write(data)


async def test_lines_are_collected_and_written_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.telemetry.logging._FLUSH_S", 0)
    stream = Stream()
    access_log = AccessLog(LogSettings(), LogWriter(stream))
    for number in range(100):
        access_log.line(status=200, number=number)
    assert stream.writes == 0
    await eventually(lambda: stream.writes)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert stream.writes == 1
    assert [line["number"] for line in lines] == list(range(100))
    assert {line["event"] for line in lines} == {"request"}


async def test_a_client_cannot_forge_a_line() -> None:
    stream = Stream()
    access_log = AccessLog(LogSettings(), LogWriter(stream))
    access_log.line(target='/serve/1\n{"event": "forged"}\x1b[31m')
    access_log.flush()
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["target"].startswith("/serve/1\n")


async def test_console_lines_have_the_same_fields() -> None:
    stream = Stream()
    access_log = AccessLog(LogSettings(format="console"), LogWriter(stream))
    access_log.line(status=404)
    access_log.flush()
    assert b"status=404" in stream.getvalue()
    assert b"\x1b" not in stream.getvalue(), "no colours outside a terminal"


def test_tracebacks_in_a_console_have_no_local_variables() -> None:
    script = (
        "import rich, structlog; from proxy.telemetry.logging import configure_logs;"
        " from proxy.settings import *;"
        "configure_logs(LogSettings(format='console'))\n"
        "def fails():\n    key = 'val' + 'ue of a key'\n    raise ZeroDivisionError\n"
        "try:\n    fails()\n"
        "except ZeroDivisionError:\n    structlog.get_logger().exception('failed')\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stderr
    assert "ZeroDivisionError" in output
    assert "value of a key" not in output


async def test_lines_for_a_closed_stream_are_dropped() -> None:
    stream = Stream()
    access_log = AccessLog(LogSettings(), LogWriter(stream))
    stream.close()
    access_log.line(status=200)
    access_log.flush()


@pytest.fixture
def pipe() -> Iterator[tuple[LogWriter, BinaryIO]]:
    """Yield a writer of a pipe, and the end that somebody may read."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", 0) as reader, os.fdopen(writing, "wb", 0) as stream:
        yield LogWriter(stream), reader


def numbered(count: int) -> list[bytes]:
    return [b'{"number":%d,"padding":"%s"}\n' % (number, b"x" * 80) for number in range(count)]


def test_without_a_reader_writes_do_not_block_and_the_oldest_lines_are_dropped(
    pipe: tuple[LogWriter, BinaryIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.telemetry.logging._MAX_QUEUE_BYTES", 100_000)
    writer, reader = pipe
    count = 10_000
    with writer.in_background():
        for line in numbered(count):
            writer.write(line)
        assert not writer.drain(0)
        dropped = int(writer.statistics()["dropped"])
        assert dropped > count / 2
        text = b""
        while b'"number":%d' % (count - 1) not in text:
            text += reader.read(65536)
        assert writer.drain(5)
    expected = 0
    for line in map(json.loads, text.splitlines()):
        if line.get("event") == "log_lines_dropped":
            assert line["level"] == "warning"
            expected += line["lines"]
            dropped -= line["lines"]
        else:
            assert line["number"] == expected, "a gap that no line reports"
            expected += 1
    assert (expected, dropped) == (count, 0)
    writer.write(b'{"number":0}\n')
    assert reader.read(100) == b'{"number":0}\n', "written at once after the block"


def test_a_process_ends_although_nobody_reads_its_log(
    pipe: tuple[LogWriter, BinaryIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.telemetry.logging._EXIT_S", 0.05)
    writer, reader = pipe
    with writer.in_background():
        for line in numbered(2000):
            writer.write(line)
    writer.write(b"later\n")
    assert reader.read(10) == b'{"number":'


def test_lines_for_a_reader_that_has_left_are_counted(
    pipe: tuple[LogWriter, BinaryIO],
) -> None:
    writer, reader = pipe
    with writer.in_background():
        reader.close()
        writer.write(b"one\ntwo\n")
        assert writer.drain(5)
    assert writer.statistics() == {"dropped": 2}


def test_warnings_and_tracebacks_of_the_interpreter_use_the_thread_too() -> None:
    script = (
        "import sys, warnings; from proxy.telemetry.logging import OUTPUT\n"
        "with OUTPUT.in_background():\n"
        "    print('printed', file=sys.stderr)\n"
        "    assert OUTPUT.drain(5)\n"
        "    OUTPUT._write_at_once = None\n"
        "    warnings.warn('warned')\n"
        "print('after', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    lines = done.stderr.splitlines()
    assert (lines[0], lines[-1]) == (b"printed", b"after")
    assert b"UserWarning: warned" in done.stderr


def test_malformed_requests_and_cancellations_are_not_logged() -> None:
    def record(error: BaseException) -> logging.LogRecord:
        info = (type(error), error, None)
        return logging.LogRecord("aiohttp.server", logging.ERROR, "", 0, "", None, info)

    assert not _is_relevant(record(BadStatusLine()))
    assert not _is_relevant(record(asyncio.CancelledError()))
    assert _is_relevant(record(ZeroDivisionError()))


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_lines_of_other_libraries_have_the_same_format(fmt: str) -> None:
    script = (
        "import logging; from proxy.telemetry.logging import configure_logs;"
        " from proxy.settings import *;"
        f"configure_logs(LogSettings(format={fmt!r}));"
        "logging.getLogger('asyncio').warning('slow %s', 1)"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stderr
    if fmt == "json":
        line = json.loads(output)
        assert (line["event"], line["level"], line["logger"]) == ("slow 1", "warning", "asyncio")
    else:
        assert "slow 1" in output
        assert "\x1b" not in output
