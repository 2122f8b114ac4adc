"""The folder of temporary files."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxy.domain.errors import BodyTooLarge, ConfigurationError
from proxy.metadata import temp_folder
from proxy.metadata.temp_folder import TempFolder
from tests.support.waiting import wait_until


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def test_a_file_is_hashed_while_it_arrives_and_gone_after_its_block(tmp_path: Path) -> None:
    root, content = tmp_path / "root", os.urandom(3_000_000)
    with TempFolder(root) as folder:
        with folder.new_file(max_bytes=10**7) as file:
            for at in range(0, len(content), 70_000):
                await file.write(content[at : at + 70_000])
            await file.finish()
            assert file.sha256 == hashlib.sha256(content).hexdigest()
            assert os.pread(file.descriptor, 10**7, 0) == content
            assert file.byte_size == len(content)
            assert await file.other_hashes() == {
                "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
                "sha1": hashlib.sha1(content, usedforsecurity=False).hexdigest(),
            }
        assert files(root) == []
    assert list(root.iterdir()) == []


async def test_a_file_over_the_limit_is_refused_and_removed(tmp_path: Path) -> None:
    with TempFolder(tmp_path / "root") as folder:
        with pytest.raises(BodyTooLarge), folder.new_file(max_bytes=10) as file:
            await file.write(b"x" * 11)
        assert files(tmp_path) == []


def test_only_the_owner_can_enter_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o777)
    root.chmod(0o777)
    with TempFolder(root) as folder:
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="link"), TempFolder(tmp_path / "root"):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    os.chown(root, 65534, 65534)
    with pytest.raises(ConfigurationError, match="belong"), TempFolder(root):
        pass


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"), TempFolder(tmp_path / "root"):
        pass


_HOLD = """
import sys, time
from pathlib import Path
from proxy.metadata.temp_folder import TempFolder
with TempFolder(Path(sys.argv[1])) as folder:
    (folder.path / "left").write_text("x")
    print(folder.path.name, flush=True)
    sys.stdin.read()
"""


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_running_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temp_folder, "_UNLOCKED_S", 0.0)
    root = tmp_path / "root"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        names = [process.stdout.readline().strip() for process in processes if process.stdout]
        processes[0].kill()
        processes[0].wait()
        with TempFolder(root):
            wait_until(lambda: not (root / names[0]).exists())
            assert (root / names[1] / "left").exists()
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_old_files_are_swept_and_young_ones_kept(tmp_path: Path) -> None:
    with TempFolder(tmp_path / "root") as folder:
        old, young = folder.path / "old", folder.path / "young"
        for path in (old, young):
            path.write_text("x")
        hours_ago = time.time() - 7200
        os.utime(old, (hours_ago, hours_ago))
        folder.sweep()
        assert files(tmp_path) == [young]


def test_entries_of_others_and_their_permissions_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temp_folder, "_UNLOCKED_S", 0.0)
    root = tmp_path / "root"
    hours_ago = time.time() - 7200
    kept = [root / "originals" / "1.jpg", root / "smartserve.db", root / ("a" * 32)]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (hours_ago, hours_ago))
    root.chmod(0o755)
    abandoned = root / temp_folder.random_name()
    abandoned.mkdir()
    with TempFolder(root) as folder:
        folder.sweep()
        assert sorted(files(root)) == sorted(kept)
        assert not abandoned.exists()
        assert stat.S_IMODE(root.stat().st_mode) == 0o755


def test_a_folder_with_other_contents_into_which_others_may_write_is_refused(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "foreign").write_text("x")
    root.chmod(0o777)
    with pytest.raises(ConfigurationError, match="other contents"), TempFolder(root):
        pass
    # As /tmp: nobody can rename what belongs to others.
    root.chmod(0o1777)
    with TempFolder(root) as folder:
        assert stat.S_IMODE(root.stat().st_mode) == 0o1777
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


async def test_a_private_folder_can_be_entered_but_not_listed_by_others(tmp_path: Path) -> None:
    with TempFolder(tmp_path / "root") as folder:
        with (
            folder.private_folder() as (path, descriptor),
            folder.new_file(max_bytes=100) as file,
        ):
            await file.write(b"content")
            await file.finish()
            os.link(file.name, "linked.jpg", src_dir_fd=file.dir_fd, dst_dir_fd=descriptor)
            assert (path / "linked.jpg").read_bytes() == b"content"
            assert stat.S_IMODE(path.stat().st_mode) == 0o711
        assert not path.exists()
