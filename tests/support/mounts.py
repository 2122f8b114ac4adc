"""Small file systems of a test's own, to be filled, made read-only and unmounted."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support.unavailable import unavailable

Mount = Callable[[Path, str], AbstractContextManager[None]]


@contextmanager
def tmpfs(directory: Path, options: str) -> Iterator[None]:
    """Mount a tmpfs for the length of a block, with the options of mount(8); skip if impossible."""
    directory.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "smartserve-test", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        unavailable(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextmanager
def ext4(directory: Path, image: Path) -> Iterator[None]:
    """Mount an ext4 of 64 MB that can be `frozen`, for the length of a block.

    Skips if impossible, in CI too: containers that may mount usually have no loop devices.
    """
    directory.mkdir(parents=True, exist_ok=True)
    image.write_bytes(b"")
    os.truncate(image, 64 * 1024 * 1024)
    for command in (
        ["mkfs.ext4", "-q", str(image)],
        ["mount", "-o", "loop", str(image), str(directory)],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip(f"{command[0]} is not installed")
        if done.returncode:
            pytest.skip(f"an ext4 cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@contextmanager
def frozen(directory: Path) -> Iterator[None]:
    """Freeze a file system: every write blocks, uninterruptibly, until the end of the block."""
    subprocess.run(["fsfreeze", "--freeze", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", directory], check=True)


@contextmanager
def dead(directory: Path) -> Iterator[None]:
    """Mount a file system that never responds, as a network file system whose server is down.

    A call waits until its process is killed. This is a FUSE whose daemon answers nothing. Skips if
    impossible, in CI too: containers that may mount usually have no /dev/fuse.
    """
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"/dev/fuse cannot be opened: {error.strerror}")
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if libc.mount(b"dead", bytes(directory), b"fuse", 0, f"{options},allow_other".encode()):
            pytest.skip(f"FUSE cannot be mounted here: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)
    finally:
        # Calls that wait fail now.
        os.close(device)


def remount(directory: Path, mode: str) -> None:
    """Remount a file system writable (``rw``) or read-only (``ro``)."""
    subprocess.run(["mount", "-o", f"remount,{mode}", str(directory)], check=True)
