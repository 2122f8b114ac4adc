"""Logs: one line a request, in JSON that a machine reads, whatever a stranger sends."""

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
    """Counts how often it is written to."""

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


async def test_a_line_cannot_be_forged_from_outside() -> None:
    stream = Stream()
    access_log = AccessLog(LogSettings(), stream)
    access_log.line(target='/serve/1\n{"event": "forged"}\x1b[31m')
    access_log.flush()
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["target"].startswith("/serve/1\n")


async def test_lines_for_a_person_hold_the_same() -> None:
    stream = Stream()
    access_log = AccessLog(LogSettings(format="console"), stream)
    access_log.line(status=404)
    access_log.flush()
    assert b"status=404" in stream.getvalue()
    assert b"\x1b" not in stream.getvalue(), "no colours where nobody looks"


async def test_a_stream_that_is_gone_takes_its_lines_with_it() -> None:
    stream = Stream()
    access_log = AccessLog(LogSettings(), stream)
    stream.close()
    access_log.line(status=200)
    access_log.flush()


def test_a_strangers_malformed_request_fills_no_log() -> None:
    def record(error: BaseException) -> logging.LogRecord:
        info = (type(error), error, None)
        return logging.LogRecord("aiohttp.server", logging.ERROR, "", 0, "", None, info)

    assert not _is_relevant(record(BadStatusLine()))
    assert not _is_relevant(record(asyncio.CancelledError()))
    assert _is_relevant(record(ZeroDivisionError()))


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_other_libraries_lines_look_like_ours(fmt: str) -> None:
    script = (
        "import logging; from proxy.telemetry.logging import configure_logs;"
        " from proxy.settings import *;"
        f"configure_logs(LogSettings(format={fmt!r}));"
        "logging.getLogger('asyncio').warning('slow %s', 1)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stderr
    if fmt == "json":
        line = json.loads(told)
        assert (line["event"], line["level"], line["logger"]) == ("slow 1", "warning", "asyncio")
    else:
        assert "slow 1" in told
        assert "\x1b" not in told
