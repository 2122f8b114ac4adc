"""The bulk commands, with real workers, real kills and a real Dask cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.cli.bulk import line_of
from proxy.domain.bulk import BulkPlan, BulkTask, PlanStatus
from tests.cli.conftest import Invoke
from tests.support.commands import SMARTSERVE
from tests.support.server import SAMPLES

QUICK = {"SMARTSERVE_INGEST__LEASE_S": "10", "SMARTSERVE_WORKERS__COUNT": "1"}


@pytest.fixture
def data(invoke: Invoke, tmp_path: Path) -> Path:
    """A library of eight images."""
    folder, files = tmp_path / "data", tmp_path / "files"
    files.mkdir()
    samples = [one for one in sorted(SAMPLES.iterdir()) if one.suffix == ".jpg"]
    for number in range(8):
        # Another file each time: equal ones are stored once.
        (files / f"{number}.jpg").write_bytes(samples[0].read_bytes() + bytes([number]))
    assert invoke("import", "--data-dir", folder, files).code == 0
    return folder


def started(invoke: Invoke, data: Path, task: str, *options: str) -> str:
    return invoke("bulk", "start", task, *options, "--data-dir", data).stdout.strip()


def status(invoke: Invoke, data: Path, plan: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        invoke("bulk", "status", plan, "--json", "--data-dir", data).stdout
    )
    return found


@contextmanager
def worker(data: Path, plan: str) -> Iterator[subprocess.Popen[str]]:
    """Run a worker, and kill it at the end."""
    with subprocess.Popen(
        [*SMARTSERVE, "bulk", "work", plan, "--data-dir", data],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **QUICK},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(done: Any, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("plan", "line"),
    [
        (
            BulkPlan(7, BulkTask.WARM, PlanStatus.RUNNING, 2000, 990, 10, 1, None, 4.0),
            "7\twarm\trunning\t1,000 of 2,000 (50%), 10 failed\t1 worker\t4.0/s\t0:04:10 left",
        ),
        (
            BulkPlan(8, BulkTask.CHECK, PlanStatus.DONE, 0, 0, 0, 0, None, None),
            "8\tcheck\tdone\t0 of 0 (100%), 0 failed\t0 workers",
        ),
    ],
)
def test_a_plan_is_one_line(plan: BulkPlan, line: str) -> None:
    assert line_of(plan) == line


@pytest.mark.slow
def test_a_check_names_the_original_that_is_damaged(invoke: Invoke, data: Path) -> None:
    plan = started(invoke, data, "check", "--part-size", "3")
    damaged = min(one for one in (data / "originals").rglob("*") if one.is_file())
    damaged.write_bytes(damaged.read_bytes()[:2000])
    assert invoke("bulk", "work", plan, "--data-dir", data, **QUICK).code == 0
    found = status(invoke, data, plan)
    assert (found["status"], found["done"], found["failed"]) == ("done", 7, 1)
    listed = invoke("bulk", "status", plan, "--failures", "--data-dir", data).stdout
    assert len(listed.splitlines()) == 2


@pytest.mark.slow
def test_a_plan_is_paused_resumed_and_cancelled(invoke: Invoke, data: Path) -> None:
    plan = started(invoke, data, "warm", "--rate", "0.5")
    assert invoke("bulk", "pause", plan, "--data-dir", data).code == 0
    assert invoke("bulk", "pause", plan, "--data-dir", data).code == 1
    assert status(invoke, data, plan)["status"] == "paused"
    assert invoke("bulk", "resume", plan, "--data-dir", data).code == 0
    assert invoke("bulk", "cancel", plan, "--data-dir", data).code == 0
    # Nothing is done for it any more, and this is no failure.
    assert invoke("bulk", "work", plan, "--data-dir", data, **QUICK).code == 0
    found = status(invoke, data, plan)
    assert (found["status"], found["done"]) == ("cancelled", 0)
    lines = invoke("bulk", "status", "--data-dir", data).stdout.splitlines()
    assert [line.split("\t")[:3] for line in lines] == [[plan, "warm", "cancelled"]]


@pytest.mark.slow
def test_a_plan_that_does_not_exist_is_an_error(invoke: Invoke, data: Path) -> None:
    for arguments in (("work", "9"), ("status", "9"), ("cancel", "9")):
        done = invoke("bulk", *arguments, "--data-dir", data)
        assert done.code == 2
        assert "there is no plan 9" in done.stderr
    listed = invoke("bulk", "status", "--data-dir", data)
    assert (listed.code, listed.stdout) == (0, "")
    assert "no plan has been started" in listed.stderr


@pytest.mark.slow
def test_a_killed_worker_costs_at_most_its_part_and_nothing_counts_twice(
    invoke: Invoke, data: Path
) -> None:
    plan = started(invoke, data, "check", "--part-size", "4", "--rate", "1")
    with worker(data, plan) as first:
        until(lambda: status(invoke, data, plan)["workers"] == 1)
        first.send_signal(signal.SIGKILL)
        first.wait()
    with worker(data, plan) as second:
        assert second.wait(240) == 0
    found = status(invoke, data, plan)
    assert (found["status"], found["done"], found["failed"]) == ("done", 8, 0)


@pytest.mark.slow
def test_a_worker_that_is_stopped_gives_its_part_back(invoke: Invoke, data: Path) -> None:
    plan = started(invoke, data, "check", "--rate", "0.2")
    with worker(data, plan) as process:
        until(lambda: status(invoke, data, plan)["workers"] == 1)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert status(invoke, data, plan)["workers"] == 0


@pytest.mark.slow
def test_a_dask_cluster_processes_the_parts(
    invoke: Invoke, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    # The machines of the cluster have their settings.
    monkeypatch.setenv("SMARTSERVE_DATA_DIR", str(data))
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    plan = started(invoke, data, "check", "--part-size", "3")
    work = ("bulk", "work", plan, "--engine", "dask")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, processes=True
    ) as cluster:
        done = subprocess.run(
            [*SMARTSERVE, *work, "--scheduler", cluster.scheduler_address],
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
    assert done.returncode == 0, done.stderr
    found = status(invoke, data, plan)
    assert (found["status"], found["done"]) == ("done", 8)


def test_dask_without_the_address_of_its_scheduler_is_refused(
    invoke: Invoke, tmp_path: Path
) -> None:
    done = invoke("bulk", "work", "1", "--engine", "dask", "--data-dir", tmp_path)
    assert done.code == 2
    assert "--scheduler" in done.stderr


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_named(
    invoke: Invoke, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cli.bulk_dask._CONNECT_S", 1)
    plan = started(invoke, data, "check")
    address = ("--engine", "dask", "--scheduler", "tcp://127.0.0.1:9")
    done = invoke("bulk", "work", plan, *address, "--data-dir", data)
    assert done.code == 2
    assert "tcp://127.0.0.1:9" in done.stderr
