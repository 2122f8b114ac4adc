"""The access log, and log lines of other libraries."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, BinaryIO

import pytest
from aiohttp.http_exceptions import BadStatusLine

from proxy.domain.formats import Format
from proxy.domain.request import Origin, Outcome
from proxy.settings import LogSettings
from proxy.telemetry.logging import AccessLog, LogWriter, _is_relevant
from tests.support.waiting import eventually


class Stream(io.BytesIO):
    """Counts its writes."""

    writes = 0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.writes += 1
        return super().write(data)


HIT = Outcome("serve", "thumbnail", Format.AVIF, Origin.MEMORY, 7)
HOSTILE = '/serve/1\n{"event": "forged"}\x1b[31m\\%s\x00\x7f\u2028\U0001f600'


def add(access_log: AccessLog, **changes: Any) -> None:
    """Add the line of a hit with these differences."""
    fields: dict[str, Any] = {
        "request_id": "12ab-1",
        "remote": "192.0.2.1",
        "method": "GET",
        "target": "/serve/7",
        "status": 200,
        "sent": 22_000,
        "seconds": 0.00012345,
        "outcome": HIT,
    }
    access_log.line(**fields | changes)


async def test_lines_are_collected_and_written_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.telemetry.logging._FLUSH_S", 0)
    stream = Stream()
    access_log = AccessLog(LogSettings(), LogWriter(stream))
    for number in range(100):
        add(access_log, sent=number)
    assert stream.writes == 0
    await eventually(lambda: stream.writes)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert stream.writes == 1
    assert [line["bytes"] for line in lines] == list(range(100))
    assert {line["event"] for line in lines} == {"request"}


@pytest.mark.parametrize(
    ("changes", "logged"),
    [
        ({}, {}),
        ({"trace_id": "0af7"}, {"trace_id": "0af7"}),
        ({"remote": None, "outcome": Outcome("other")}, {"remote": None, "media_id": None}),
        ({"seconds": 1e-9}, {"seconds": 0.0}),
        ({"seconds": 86_400.5}, {"seconds": 86_400.5}),
    ],
)
async def test_a_line_has_these_fields_in_this_order(
    changes: dict[str, Any], logged: dict[str, Any]
) -> None:
    stream = Stream()
    access_log = AccessLog(LogSettings(), LogWriter(stream))
    add(access_log, **changes)
    access_log.flush()
    line = json.loads(stream.getvalue())
    outcome = changes.get("outcome", HIT)
    expected = {
        "event": "request",
        "level": "info",
        "timestamp": line["timestamp"],
        "request_id": "12ab-1",
        "remote": "192.0.2.1",
        "method": "GET",
        "target": "/serve/7",
        "status": 200,
        "bytes": 22_000,
        "seconds": 0.000123,
        "source": str(outcome.source),
        "format": str(outcome.format),
        "media_id": outcome.media_id,
        **logged,
    }
    assert list(line.items()) == list(expected.items())
    moment = datetime.fromisoformat(line["timestamp"])
    assert re.fullmatch(r".{19}\.\d{3}Z", line["timestamp"])
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 3600


async def test_time_stamps_follow_the_clock_to_the_millisecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Stream()
    access_log = AccessLog(LogSettings(), LogWriter(stream))
    for now in (1_700_000_000.0, 1_700_000_000.0004, 1_700_000_000.001, 1_700_000_001.9999):
        monkeypatch.setattr("proxy.telemetry.logging.time.time", partial(float, now))
        add(access_log)
    access_log.flush()
    stamps = [json.loads(line)["timestamp"] for line in stream.getvalue().splitlines()]
    assert [stamp.rpartition(":")[2] for stamp in stamps] == [
        "20.000Z",
        "20.000Z",
        "20.001Z",
        "21.999Z",
    ]


@pytest.mark.parametrize("field", ["remote", "method", "target"])
@pytest.mark.parametrize("text", [HOSTILE, "/serve/1\udcff", '"', ""])
@pytest.mark.parametrize("fmt", ["json", "console"])
async def test_a_client_cannot_forge_a_line(fmt: Any, text: str, field: str) -> None:
    stream = Stream()
    access_log = AccessLog(LogSettings(format=fmt), LogWriter(stream))
    add(access_log, **{field: text})
    access_log.flush()
    (line,) = stream.getvalue().splitlines()
    assert b"\x1b" not in line, "no control characters for a terminal"
    if fmt == "json":
        assert json.loads(line)[field] == text


async def test_console_lines_have_the_same_fields() -> None:
    stream = Stream()
    access_log = AccessLog(LogSettings(format="console"), LogWriter(stream))
    add(access_log, status=404, trace_id="0af7")
    access_log.flush()
    line = stream.getvalue()
    for field in (b"status=404", b"bytes=22000", b"seconds=0.000123", b"media_id=7", b"source="):
        assert field in line
    assert b"trace_id=0af7" in line
    assert b"\x1b" not in line, "no colours outside a terminal"


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_any_text_of_a_client_can_be_logged(fmt: str) -> None:
    script = (
        "import logging, structlog; from proxy.telemetry.logging import configure_logs\n"
        "from proxy.settings import *; from proxy.domain.formats import Format\n"
        f"configure_logs(LogSettings(format={fmt!r})); log = structlog.get_logger()\n"
        "text = '/\\udcff\\ud800\\0\"'\n"
        "try:\n    raise ValueError(text)\n"
        "except ValueError:\n"
        "    log.exception('failed', target=text, number=2**70, fmt=Format.AVIF)\n"
        "log.info(text, nested={text: [text, 1.5, None, {1}]})\n"
        "logging.getLogger('asyncio').warning('slow %s', text)\n"
        "log.info('after')\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stderr
    assert "Logging error" not in output
    if fmt == "console":
        assert "after" in output.splitlines()[-1]
        return
    text = '/\udcff\ud800\0"'
    failed, told, slow, after = map(json.loads, output.splitlines())
    assert (failed["target"], failed["number"], failed["fmt"]) == (text, 2**70, "avif")
    assert "ValueError: /" in failed["exception"]
    assert (told["event"], told["nested"]) == (text, {text: [text, 1.5, None, "{1}"]})
    assert (slow["event"], after["event"]) == (f"slow {text}", "after")


def test_lines_with_a_category_have_time_process_request_and_event() -> None:
    script = (
        "import os, structlog; from structlog.contextvars import bind_contextvars\n"
        "from proxy.telemetry.logging import configure_logs; from proxy.settings import *\n"
        "configure_logs(LogSettings(format='json')); log = structlog.get_logger()\n"
        "bind_contextvars(request_id='12ab-1')\n"
        "log.info('metadata_extracted', category='result'); log.info('other')\n"
        "print(os.getpid())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    line, other = map(json.loads, done.stderr.splitlines())
    assert datetime.fromisoformat(line.pop("timestamp")).tzinfo is not None
    assert line == {
        "event": "metadata_extracted",
        "category": "result",
        "level": "info",
        "request_id": "12ab-1",
        "pid": int(done.stdout),
    }
    assert "pid" not in other


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
    add(access_log)
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


def test_lines_that_processes_write_to_one_pipe_are_not_mixed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces: list[bytes] = []
    monkeypatch.setattr(
        "proxy.telemetry.logging._write_all", lambda _descriptor, piece: pieces.append(piece)
    )
    lines = [b"%d" % number * 300 + b"\n" for number in range(10, 60)]
    long = b"x" * 3 * select.PIPE_BUF + b"\n"
    with open(os.devnull, "wb") as stream:  # noqa: PTH123 - no path of this machine
        writer = LogWriter(stream)
        with writer.in_background(shared=True):
            # As the access log, which passes on many lines at once.
            writer.write(b"".join(lines) + long)
            assert writer.drain(20)
    assert b"".join(pieces) == b"".join(lines) + long
    assert [piece for piece in pieces if len(piece) > select.PIPE_BUF] == [long]
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert len(pieces) < len(lines) / 2


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
