"""Worker pools that start before the rest of the program."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.app.services import open_services
from proxy.app.workers import idle_worker, workers_starting
from proxy.runtime.supervised_task import UNCOUNTED
from tests.support.server import make_settings
from tests.support.waiting import eventually


async def test_the_first_worker_starts_before_anything_else_is_opened(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "data", workers={"count": 2})
    async with workers_starting(settings) as workers:
        await eventually(lambda: workers.pool.pids)
        (early,) = workers.pool.pids
        async with open_services(settings, workers=workers) as services:
            assert services.rendering.pool is workers.pool
            assert services.metrics is workers.metrics
            await eventually(lambda: len(workers.pool.pids) == 2)
            assert early in workers.pool.pids
    assert not workers.pool.pids


@pytest.mark.parametrize("idle", [True, False])
def test_finals_have_idle_priority_unless_settings_say_otherwise(
    *, idle: bool, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path / "data", upgrades={"idle_priority": idle})
    # Not started: while other programs use all processors, an idle worker would take minutes.
    assert idle_worker(settings, UNCOUNTED)._start_options.idle is idle


async def test_a_start_that_fails_ends_the_worker(tmp_path: Path) -> None:
    async with workers_starting(make_settings(tmp_path / "data")) as workers:
        await eventually(lambda: workers.pool.pids)
        (pid,) = workers.pool.pids
    assert not Path(f"/proc/{pid}").exists()
