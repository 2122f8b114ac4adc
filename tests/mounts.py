"""Small file systems of a test's own, to be filled, made read-only and taken away."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

Mount = Callable[[Path, str], AbstractContextManager[None]]


@contextmanager
def tmpfs(directory: Path, options: str) -> Iterator[None]:
    """A tmpfs for the length of a block, with the options of mount(8); skips where it cannot be."""
    directory.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "smartserve-test", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"a tmpfs cannot be mounted here: {done.stderr.strip()}"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def remount(directory: Path, mode: str) -> None:
    """Let a mounted file system be written (``rw``) or only read (``ro``)."""
    subprocess.run(["mount", "-o", f"remount,{mode}", str(directory)], check=True)
