"""The rendering subsystem: pools, rules and dispatchers."""

from __future__ import annotations

from pathlib import Path

from proxy.app.rendering import open_rendering, worker_info
from proxy.app.startup_checks import check_worker
from proxy.app.workers import workers_starting
from proxy.settings import Settings
from proxy.storage.originals.local_store import LocalOriginals
from tests.support.server import make_settings


async def test_a_worker_tells_what_it_is_made_of(tmp_path: Path) -> None:
    hello = await worker_info(make_settings(tmp_path / "data"))
    check_worker(hello)
    optional = {"pi-heif", "manimgx-fonts", "pyjpegxl"}
    assert {"pyvips", "pyvips-binary", "pillow"} == set(hello.codecs) - optional


def originals(settings: Settings) -> LocalOriginals:
    return LocalOriginals(settings.storage_root, settings.storage)


async def test_the_rules_allow_what_both_settings_and_libvips_can_load(tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path / "data", workers={"count": 1}, limits={"source_types": ["jpeg", "png"]}
    )
    async with (
        workers_starting(settings) as workers,
        open_rendering(settings, originals(settings), workers) as rendering,
    ):
        assert rendering.rules.limits.source_types == ("jpeg", "png")
        assert set(rendering.rules.limits.source_types) <= set(rendering.pool.hello.source_types)


async def test_the_pool_runs_and_the_background_pool_waits_for_the_queue(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "data", workers={"count": 1})
    async with (
        workers_starting(settings) as workers,
        open_rendering(settings, originals(settings), workers) as rendering,
    ):
        assert len(rendering.pool.pids) == 1
        assert not rendering.background_pool.pids
    assert not rendering.pool.pids
