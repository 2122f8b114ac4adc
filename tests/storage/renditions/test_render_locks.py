"""Locks exclude other processes: each `RenderLocks` has its own open file, as a process has."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.storage.renditions.render_locks import (
    LockAttempt,
    RenderKey,
    RenderLocks,
    probe_locks,
)
from tests.storage.renditions.variants import variant
from tests.support.waiting import wait_until

HELD, FREE = RenderKey(variant(1)), RenderKey(variant(2))


@pytest.fixture
def shared(root: Path) -> Path:
    root.mkdir()
    return root


@pytest.fixture
def mine(shared: Path) -> Iterator[RenderLocks]:
    locks = RenderLocks(str(shared))
    yield locks
    locks.close()


@pytest.fixture
def theirs(shared: Path) -> Iterator[RenderLocks]:
    locks = RenderLocks(str(shared))
    yield locks
    locks.close()


def locked(locks: RenderLocks, *media_ids: int) -> list[bool]:
    return [one.locked for one in locks.attempt([RenderKey(variant(one)) for one in media_ids])]


def test_a_rendition_is_locked_by_one_process_until_it_is_released(
    mine: RenderLocks, theirs: RenderLocks
) -> None:
    assert locked(mine, 1) == [True]
    assert locked(theirs, 1, 2) == [False, True]
    assert locked(mine, 2) == [False]
    mine.release([HELD])
    assert locked(theirs, 1) == [True]


def test_no_two_renditions_share_a_lock(mine: RenderLocks, theirs: RenderLocks) -> None:
    assert all(locked(mine, *range(0, 400, 2)))
    assert all(locked(theirs, *range(1, 400, 2)))


def test_another_size_of_an_image_has_another_lock(mine: RenderLocks, theirs: RenderLocks) -> None:
    mine.attempt([RenderKey(variant(1, width=300))])
    (found,) = theirs.attempt([RenderKey(variant(1, width=301))])
    assert found.locked


def test_a_final_in_the_background_has_another_lock_than_a_visitors_render(
    mine: RenderLocks, theirs: RenderLocks
) -> None:
    mine.attempt([HELD])
    (found,) = theirs.attempt([HELD._replace(background=True)])
    assert found.locked


def test_the_lock_comes_with_whether_the_rendition_is_stored(
    mine: RenderLocks, shared: Path
) -> None:
    path = Path(mine._paths.rendition(HELD.variant))
    path.parent.mkdir(parents=True)
    path.touch()
    assert mine.attempt([HELD, FREE]) == [
        LockAttempt(locked=True, stored=True),
        LockAttempt(locked=True, stored=False),
    ]


def test_those_who_wait_see_the_heartbeats_of_the_holder(
    mine: RenderLocks, theirs: RenderLocks
) -> None:
    mine.attempt([HELD])
    seen = [theirs.attempt([HELD])[0].heartbeat for _ in range(2)]
    mine.renew([HELD])
    seen.append(theirs.attempt([HELD])[0].heartbeat)
    assert seen[0] == seen[1] != seen[2]


def test_a_process_that_closes_releases_all_its_locks(
    mine: RenderLocks, theirs: RenderLocks
) -> None:
    assert locked(mine, 1, 2) == [True, True]
    mine.close()
    assert locked(theirs, 1, 2) == [True, True]


def test_processes_exclude_each_other_after_the_directory_was_emptied(
    mine: RenderLocks, theirs: RenderLocks, shared: Path
) -> None:
    for locks in (mine, theirs):
        locks.attempt([FREE])
    (shared / "locks").unlink()
    assert locked(mine, 1) == [True]
    assert locked(theirs, 1) == [False]


def test_without_the_directory_nothing_can_be_locked(mine: RenderLocks, shared: Path) -> None:
    shared.rmdir()
    with pytest.raises(FileNotFoundError):
        mine.attempt([HELD])
    mine.renew([HELD])
    mine.release([HELD])


@pytest.mark.slow
def test_the_locks_of_a_process_that_is_killed_are_free(mine: RenderLocks, shared: Path) -> None:
    script = (
        "import sys, time\n"
        "from proxy.storage.renditions.render_locks import RenderKey, RenderLocks\n"
        "from tests.storage.renditions.variants import variant\n"
        f"locks = RenderLocks({str(shared)!r})\n"
        "print(locks.attempt([RenderKey(variant(1))])[0].locked, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"
        assert locked(mine, 1) == [False]
        process.kill()
    wait_until(lambda: locked(mine, 1) == [True])


def test_a_probe_locks_no_render_and_leaves_no_file(shared: Path) -> None:
    assert probe_locks(str(shared))
    assert list(shared.iterdir()) == []


def test_a_probe_succeeds_while_the_file_is_used(
    mine: RenderLocks, theirs: RenderLocks, shared: Path
) -> None:
    assert locked(mine, 1) == [True]
    assert probe_locks(str(shared))
    assert locked(theirs, 1, 2) == [False, True], "the probe has released nothing"
    assert [one.name for one in shared.iterdir()] == ["locks"]
