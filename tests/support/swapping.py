"""Exchanges a path with a symbolic link repeatedly, without a moment in which it is missing."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_EXCHANGE = 2
"""``RENAME_EXCHANGE`` of renameat2(2)."""
_HERE = -100
"""``AT_FDCWD``."""


@contextmanager
def swapped(path: Path, target: Path) -> Iterator[None]:
    """Swap for the length of the block, in another process, as fast as possible."""
    link = path.with_name(f"{path.name}.link")
    link.symlink_to(target)
    swapper = subprocess.Popen(
        [sys.executable, __file__, path, link], stdout=subprocess.PIPE, text=True
    )
    with swapper:
        assert swapper.stdout is not None
        assert swapper.stdout.readline() == "swapping\n"
        try:
            yield
        finally:
            swapper.kill()


def main() -> None:
    """Exchange two paths until killed; a pause gives the raced code a chance."""
    os.setsid()
    os.nice(19)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")
    libc = ctypes.CDLL(None, use_errno=True)
    one, other = map(os.fsencode, sys.argv[1:])
    sys.stdout.write("swapping\n")
    sys.stdout.flush()
    while libc.renameat2(_HERE, one, _HERE, other, _EXCHANGE) == 0:
        pass
    raise OSError(ctypes.get_errno(), "the two cannot be exchanged")


if __name__ == "__main__":
    main()
