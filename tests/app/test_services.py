"""Opening and closing all services of a process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.app.services import open_services
from proxy.app.startup_checks import FLOORS
from proxy.domain.errors import ConfigurationError
from proxy.runtime.supervised_task import BackgroundTask
from tests.support.server import make_settings


async def test_nothing_opens_over_workers_that_are_below_a_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FLOORS, "libvips", "999")
    settings = make_settings(tmp_path / "data", workers={"count": 1})
    with pytest.raises(ConfigurationError, match=r"libvips: .* is below 999"):
        async with open_services(settings):
            pytest.fail("it opened")


async def test_everything_ends_with_the_block(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "data", workers={"count": 1})
    async with open_services(settings) as services:
        pids = services.rendering.pool.pids
        background = {task.get_name() for task in asyncio.all_tasks()}
        assert {"purge_sync", "rendition_maintenance", "finals_queue"} <= background
    assert pids
    assert not services.rendering.pool.pids
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_restart_of_a_background_task_is_a_metric(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "data", workers={"count": 1})
    async with open_services(settings) as services:
        services.supervisor.restarted(BackgroundTask.PURGE_SYNC)
        value = services.metrics.registry.get_sample_value(
            "smartserve_background_restarts_total", {"task": BackgroundTask.PURGE_SYNC}
        )
    assert value == 1
