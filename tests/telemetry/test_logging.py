"""The access log, and log lines of other libraries."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys

import pytest
from aiohttp.http_exceptions import BadStatusLine

from proxy.settings import LogSettings
from proxy.telemetry.logging import AccessLog, _is_relevant
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
    access_log = AccessLog(LogSettings(), stream)
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
    access_log = AccessLog(LogSettings(), stream)
    access_log.line(target='/serve/1\n{"event": "forged"}\x1b[31m')
    access_log.flush()
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["target"].startswith("/serve/1\n")


async def test_console_lines_have_the_same_fields() -> None:
    stream = Stream()
    access_log = AccessLog(LogSettings(format="console"), stream)
    access_log.line(status=404)
    access_log.flush()
    assert b"status=404" in stream.getvalue()
    assert b"\x1b" not in stream.getvalue(), "no colours outside a terminal"


async def test_lines_for_a_closed_stream_are_dropped() -> None:
    stream = Stream()
    access_log = AccessLog(LogSettings(), stream)
    stream.close()
    access_log.line(status=200)
    access_log.flush()


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
