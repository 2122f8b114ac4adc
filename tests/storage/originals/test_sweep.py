"""Unfinished originals of processes that were killed are swept; those under way are not."""

import os
from itertools import count
from pathlib import Path
from threading import Event

import pytest

from proxy.runtime.supervised_task import BackgroundTask
from proxy.runtime.tempfile_owner import STALE_S, StaleTempfileDetector, new_name
from proxy.storage.originals.sweep import sweep, sweeping
from tests.storage.renditions.conftest import Clock
from tests.storage.renditions.variants import eventually
from tests.support.restarts import Restarts, holds

FOREIGN = "0123456789abcdef-4194305-1-0"


def part(directory: Path, name: str) -> Path:
    path = directory / f".smartserve-{name}.part"
    path.write_bytes(b"half of an orig")
    return path


def dead_name() -> str:
    namespace, _, started, number = new_name().split("-")
    return f"{namespace}-4194305-{started}-{number}"


async def test_what_a_dead_process_left_is_swept_wherever_it_lies(root: Path) -> None:
    left = [part(root, dead_name()), part(root / "bulk" / "2025-01-15", dead_name())]
    async with sweeping(str(root)):
        await eventually(lambda: not any(path.exists() for path in left))
    assert (root / "bulk" / "2025-01-15" / "x.jpg").exists()


def test_what_a_running_process_writes_is_left(root: Path) -> None:
    running = part(root / "bulk", new_name())
    os.utime(running, (0, 0))
    assert sweep(str(root), StaleTempfileDetector(), Event()) == 0
    assert running.exists()


def test_what_another_container_left_goes_when_it_has_not_changed_for_an_hour(root: Path) -> None:
    foreign, clock = part(root / "bulk", FOREIGN), Clock(1000.0)
    onlooker = StaleTempfileDetector(clock)
    assert sweep(str(root), onlooker, Event()) == 0
    assert onlooker.suspicious
    clock.now += STALE_S
    assert sweep(str(root), onlooker, Event()) == 1
    assert not foreign.exists()
    assert sweep(str(root), onlooker, Event()) == 0
    assert not onlooker.suspicious


def test_no_symbolic_link_leads_the_sweep_out_of_the_root(root: Path, tmp_path: Path) -> None:
    outside = part(tmp_path / "secret", dead_name())
    (root / "link").symlink_to(tmp_path / "secret")
    assert sweep(str(root), StaleTempfileDetector(), Event()) == 0
    assert outside.exists()


def test_a_root_that_is_a_link_is_swept(root: Path, tmp_path: Path) -> None:
    left = part(root / "bulk", dead_name())
    (tmp_path / "link").symlink_to(root)
    assert sweep(str(tmp_path / "link"), StaleTempfileDetector(), Event()) == 1
    assert not left.exists()


@pytest.mark.parametrize("place", ["missing", "bulk/2025-01-15/x.jpg"])
def test_a_root_that_is_no_directory_has_nothing_to_sweep(root: Path, place: str) -> None:
    assert sweep(str(root / place), StaleTempfileDetector(), Event()) == 0


def test_a_sweep_ends_when_it_is_told_to(root: Path) -> None:
    left, stopped = part(root / "bulk", dead_name()), Event()
    stopped.set()
    assert sweep(str(root), StaleTempfileDetector(), stopped) == 0
    assert left.exists()


async def test_an_unforeseen_error_restarts_the_sweep(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, restarts = count(1), Restarts()
    swept = Event()

    def fail_once(*_: object) -> int:
        if next(runs) == 1:
            raise LookupError("unforeseen")
        swept.set()
        return 0

    monkeypatch.setattr("proxy.storage.originals.sweep.sweep", fail_once)
    async with sweeping(str(root), restarts.supervisor):
        await holds(swept.is_set)
    assert restarts.tasks == [BackgroundTask.ORIGINALS_SWEEP]
