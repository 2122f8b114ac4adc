"""Occupancy: a job counts from when a worker has taken it until it is over."""

from __future__ import annotations

from contextlib import suppress

from proxy.rendering.pool.usage import WorkerUsage


def test_a_job_that_waits_holds_no_worker() -> None:
    occupancy = WorkerUsage()
    with occupancy.job():
        assert occupancy.statistics() == {"busy": 0}


def test_a_job_holds_one_worker_however_often_it_is_tried() -> None:
    occupancy = WorkerUsage()
    with occupancy.job() as taken, occupancy.job() as other:
        taken()
        taken()
        assert occupancy.statistics() == {"busy": 1}
        other()
        assert occupancy.statistics() == {"busy": 2}
    assert occupancy.statistics() == {"busy": 0}


def test_a_job_that_fails_lets_go() -> None:
    occupancy = WorkerUsage()
    with suppress(LookupError), occupancy.job() as taken:
        taken()
        raise LookupError
    assert occupancy.statistics() == {"busy": 0}
