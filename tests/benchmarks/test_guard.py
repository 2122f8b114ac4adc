"""A benchmark that fails is reported with its cause, and ends with everything that it started."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.benchmarks.guard import guarded
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import Unmeasurable
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
PLACE = "SMARTSERVE_BENCH_TEST"
LIMIT_S = 120.0


def succeeding() -> Table:
    return Table("things", [Row("one", [1.0])])


def unmeasurable() -> NoReturn:
    raise Unmeasurable("wrk is not installed")


def failing() -> NoReturn:
    raise ValueError("a bug")


def dying() -> NoReturn:
    child = subprocess.Popen(["sleep", "1000"])
    Path(os.environ[PLACE]).write_text(str(child.pid))
    os._exit(3)


def hanging() -> NoReturn:
    while True:
        os.read(os.pipe()[0], 1)


def state(pid: str) -> str:
    """Return the state of a process; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_table_is_returned() -> None:
    assert guarded(succeeding, LIMIT_S) == succeeding()


@pytest.mark.parametrize(
    ("benchmark", "cause"),
    [(unmeasurable, "wrk is not installed"), (failing, "ValueError: a bug")],
    ids=["unmeasurable", "failing"],
)
def test_a_failure_is_reported_with_its_cause(
    benchmark: Callable[[], NoReturn], cause: str
) -> None:
    assert guarded(benchmark, LIMIT_S) == cause


def test_what_a_benchmark_leaves_behind_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path / "pid"))
    assert guarded(dying, LIMIT_S) == "its process ended with 3"
    pid = (tmp_path / "pid").read_text()
    wait_until(lambda: state(pid) in {"", "Z"})


def test_a_benchmark_that_hangs_is_ended_at_its_limit() -> None:
    assert guarded(hanging, 1.0) == "not finished within 1 s"
