"""Unfinished originals that killed processes left behind are deleted."""

import os
import time
from itertools import count
from pathlib import Path
from threading import Event

import pytest

from proxy.runtime.supervised_task import BackgroundTask
from proxy.runtime.tempfiles import STALE_S, tempfile_name
from proxy.storage.originals.sweep import sweep, sweeping
from tests.support.restarts import Restarts
from tests.support.waiting import eventually


def part(directory: Path, *, age_s: float = 2 * STALE_S) -> Path:
    path = directory / tempfile_name()
    path.write_bytes(b"half of an orig")
    stamp = time.time() - age_s
    os.utime(path, (stamp, stamp))
    return path


async def test_a_stale_part_is_swept_wherever_it_lies(root: Path) -> None:
    left = [part(root), part(root / "bulk" / "2025-01-15")]
    async with sweeping(str(root), Restarts().supervisor):
        await eventually(lambda: not any(path.exists() for path in left))
    assert (root / "bulk" / "2025-01-15" / "x.jpg").exists()


def test_a_part_that_changed_within_the_hour_is_left(root: Path) -> None:
    young = part(root / "bulk", age_s=STALE_S - 60)
    assert sweep(str(root), Event()) == 1
    assert young.exists()


def test_a_part_is_swept_once_it_has_not_changed_for_an_hour(root: Path) -> None:
    young = part(root / "bulk", age_s=0)
    assert sweep(str(root), Event(), clock=lambda: time.time() + STALE_S + 1) == 0
    assert not young.exists()


def test_no_symbolic_link_leads_the_sweep_out_of_the_root(root: Path, tmp_path: Path) -> None:
    outside = part(tmp_path / "secret")
    (root / "link").symlink_to(tmp_path / "secret")
    assert sweep(str(root), Event()) == 0
    assert outside.exists()


def test_a_root_that_is_a_link_is_swept(root: Path, tmp_path: Path) -> None:
    left = part(root / "bulk")
    (tmp_path / "link").symlink_to(root)
    assert sweep(str(tmp_path / "link"), Event()) == 0
    assert not left.exists()


@pytest.mark.parametrize("place", ["missing", "bulk/2025-01-15/x.jpg"])
def test_a_root_that_is_no_directory_has_nothing_to_sweep(root: Path, place: str) -> None:
    assert sweep(str(root / place), Event()) == 0


def test_a_sweep_ends_when_it_is_told_to(root: Path) -> None:
    left, stopped = part(root / "bulk"), Event()
    stopped.set()
    assert sweep(str(root), stopped) == 0
    assert left.exists()


async def test_what_a_process_leaves_after_a_quiet_sweep_is_swept_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.storage.originals.sweep._REST_S", 0.01)
    walks, walked = 0, sweep

    def counted(where: str, stopped: Event) -> int:
        nonlocal walks
        left = walked(where, stopped)
        walks += 1
        return left

    monkeypatch.setattr("proxy.storage.originals.sweep.sweep", counted)
    async with sweeping(str(root), Restarts().supervisor):
        await eventually(lambda: walks)
        left = part(root / "bulk")
        await eventually(lambda: not left.exists())


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
        await eventually(swept.is_set)
    assert restarts.tasks == [BackgroundTask.ORIGINALS_SWEEP]
