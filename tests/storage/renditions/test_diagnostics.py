"""The write probe of a rendition directory, and the estimate of its use."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from proxy.storage.renditions import diagnostics
from proxy.storage.renditions.diagnostics import inspect_disk, local_lock_mount, write_probe
from proxy.storage.renditions.disk_state import SHARDS, cost


def test_the_probe_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    write_probe(str(tmp_path))
    assert [path.name for path in tmp_path.rglob("*")] == ["tmp"]


def test_the_probe_creates_no_directory(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        write_probe(str(tmp_path / "absent"))
    assert caught.value.errno == errno.ENOENT
    assert not (tmp_path / "absent").exists()


def store(root: Path, shard: int, size: int) -> None:
    folder = root / f"{shard:02x}" / "7"
    folder.mkdir(parents=True)
    (folder / "a.webp").write_bytes(bytes(size))


def test_all_shards_are_counted_if_there_is_time(tmp_path: Path) -> None:
    store(tmp_path, 0, 5000)
    store(tmp_path, SHARDS - 1, 5000)
    usage = inspect_disk(str(tmp_path))
    assert (usage.files, usage.used_bytes) == (2, 2 * cost(5000))
    assert usage.free_bytes > 0


def test_shards_that_are_not_counted_in_time_are_extrapolated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path, 0, 5000)
    monkeypatch.setattr(diagnostics, "_COUNT_S", -1.0)
    assert inspect_disk(str(tmp_path)).files == SHARDS, "the first shard stands for all"


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("nfs4 server:/a rw,vers=4.2,hard,local_lock=none", ""),
        ("nfs server:/a rw,vers=3,nolock,local_lock=all", "nfs"),
        ("nfs4 server:/a rw,vers=4.2,local_lock=posix", "nfs4"),
        ("ext4 /dev/sda1 rw", ""),
    ],
)
def test_a_mount_that_keeps_locks_to_itself_is_recognised(
    system: str, expected: str, tmp_path: Path
) -> None:
    device = tmp_path.stat().st_dev
    here = f"36 35 {os.major(device)}:{os.minor(device)} / /mnt rw shared:1 - {system}"
    other = "37 35 0:999 / /other rw - nfs server:/b rw,nolock"
    table = tmp_path / "mountinfo"
    table.write_text(f"{other}\n{here}\n")
    assert local_lock_mount(str(tmp_path), str(table)) == expected


def test_a_local_directory_shares_its_locks(tmp_path: Path) -> None:
    assert local_lock_mount(str(tmp_path)) == ""
