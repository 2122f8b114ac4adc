"""The folder that holds files while their metadata is read.

Each process has a folder of its own below the root, which it locks: a sweep removes the folders of
processes that have ended, whatever ended them. Files have random names and are removed in every
outcome. Blocking; only `ReceivedFile.write` is asynchronous.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

from proxy.domain.errors import BodyTooLarge, ConfigurationError, UploadStorageError
from proxy.metadata.formats import DETECT_BYTES
from proxy.runtime.tempfiles import STALE_S, write_all
from proxy.runtime.thread_pool import ThreadPool

PIECE_BYTES = 1024 * 1024
"""Size of the pieces in which an upload is written."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OWNER_ONLY = 0o700
_ENTER_ONLY = 0o711
"""An engine may run as another user: it starts inside its folder, so it needs no other right."""
_WRITABLE_BY_OTHERS = 0o022
_RANDOM_NAME = re.compile(r"[0-9a-f]{32}", re.ASCII)
"""Form of the names of `random_name`."""


def random_name() -> str:
    """Return a new name that nobody can guess, and that is safe as an argument of a program."""
    return secrets.token_hex(16)


class ReceivedFile:
    """A file that is received, then read. Use it as a context manager: the exit deletes it."""

    def __init__(self, folder: TempFolder, *, max_bytes: int) -> None:
        """Create the file; `write` fails after ``max_bytes``."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._pending = bytearray()
        self.name = random_name()
        self.byte_size = 0
        self.head = b""
        """The first `DETECT_BYTES` bytes, by which the format is detected."""
        self.descriptor = os.open(self.name, _NEW_FILE, 0o600, dir_fd=folder.descriptor)
        # An engine that runs as another user opens it by a link in its folder; see `_ENTER_ONLY`.
        os.fchmod(self.descriptor, 0o644)

    @property
    def sha256(self) -> str:
        """Hexadecimal hash of all bytes, once `finish` has run."""
        return self._hash.hexdigest()

    @property
    def dir_fd(self) -> int:
        """The open folder in which `name` is."""
        return self._folder.descriptor

    async def write(self, chunk: bytes) -> None:
        """Append bytes; they are written in pieces of `PIECE_BYTES`.

        Raises:
            BodyTooLarge: there are more bytes than allowed.
            UploadStorageError: the disk is full or failed.
        """
        self.byte_size += len(chunk)
        if len(self.head) < DETECT_BYTES:
            self.head = (self.head + bytes(chunk[:DETECT_BYTES]))[:DETECT_BYTES]
        if self.byte_size > self._max_bytes:
            raise BodyTooLarge(f"the file may have at most {self._max_bytes} bytes")
        self._pending += chunk
        while len(self._pending) >= PIECE_BYTES:
            piece = bytes(self._pending[:PIECE_BYTES])
            del self._pending[:PIECE_BYTES]
            await self._folder.run(partial(self._write, piece))

    async def finish(self) -> None:
        """Write what is left; raises as `write` does."""
        piece, self._pending = bytes(self._pending), bytearray()
        await self._folder.run(partial(self._write, piece))

    async def other_hashes(self) -> dict[str, str]:
        """Return the hexadecimal hashes `md5` and `sha1` of a file that is complete.

        Raises:
            UploadStorageError: the disk failed.
        """
        # Broken for signatures, but archives and hash lists of known files have no other.
        found = {name: hashlib.new(name, usedforsecurity=False) for name in ("md5", "sha1")}

        def read() -> None:
            at = 0
            while piece := os.pread(self.descriptor, PIECE_BYTES, at):
                at += len(piece)
                for one in found.values():
                    one.update(piece)

        await self._folder.run(partial(read))
        return {name: one.hexdigest() for name, one in found.items()}

    def _write(self, piece: bytes) -> None:
        self._hash.update(piece)
        write_all(self.descriptor, piece)

    def close(self) -> None:
        """Delete and close the file."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self.dir_fd)
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Call `close`."""
        self.close()


class TempFolder:
    """The folder of this process below the root. Use it as a context manager."""

    def __init__(self, root: Path) -> None:
        """Nothing is created before the block is entered."""
        self._root = root
        self._threads = ThreadPool("metadata", count=4, timeout_s=None)
        self.path = root / random_name()
        self.descriptor = -1

    def __enter__(self) -> Self:
        """Create and lock the folder, after a sweep of the root.

        Raises:
            ConfigurationError: the root is refused (see `metadata.temp_root`) or not writable.
        """
        try:
            with self._opened_root() as root:
                self.sweep()
                os.mkdir(self.path.name, _OWNER_ONLY, dir_fd=root)
                self.descriptor = os.open(self.path.name, _DIRECTORY, dir_fd=root)
                fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise ConfigurationError(
                [f"metadata.temp_root: {self._root} cannot be used: {error.strerror}"]
            ) from error
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.descriptor)

    def new_file(self, *, max_bytes: int) -> ReceivedFile:
        """Create a file.

        Raises:
            UploadStorageError: the disk is full or failed.
        """
        try:
            return ReceivedFile(self, max_bytes=max_bytes)
        except OSError as error:
            raise UploadStorageError("The file cannot be stored. Retry later.") from error

    async def run(self, work: partial[None]) -> None:
        """Run ``work`` in a thread, to its end even if this call is cancelled.

        Raises:
            UploadStorageError: the disk is full or failed.
        """
        try:
            await self._threads.run(work, shielded=True)
        except OSError as error:
            raise UploadStorageError("The file cannot be stored. Retry later.") from error

    @contextmanager
    def private_folder(self) -> Iterator[tuple[Path, int]]:
        """Yield a new folder and its descriptor; the folder is removed after the block."""
        name = random_name()
        os.mkdir(name, _OWNER_ONLY, dir_fd=self.descriptor)
        descriptor = os.open(name, _DIRECTORY, dir_fd=self.descriptor)
        try:
            os.fchmod(descriptor, _ENTER_ONLY)
            yield self.path / name, descriptor
        finally:
            os.close(descriptor)
            shutil.rmtree(self.path / name, ignore_errors=True)

    def sweep(self) -> None:
        """Remove folders of processes that have ended, and own files that are an hour old.

        In the root, only folders with a name of `random_name` are removed. Other entries stay.
        """
        with self._opened_root() as root:
            for name in _names(root):
                # The settings may name a folder that is in use, such as data_dir.
                if _RANDOM_NAME.fullmatch(name) and name != self.path.name:
                    _remove_abandoned(root, name)
        if self.descriptor >= 0:
            for name in _names(self.descriptor):
                _remove_stale(self.descriptor, name)

    @contextmanager
    def _opened_root(self) -> Iterator[int]:
        """Yield the open root; create it if it is missing.

        Raises:
            ConfigurationError: it is a link, belongs to another user, or has other contents and
                other users may rename what is in it.
            OSError: it cannot be created or opened.
        """
        self._root.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
        # Checked on the open folder, so nobody can replace it after the check.
        if self._root.is_symlink():
            raise ConfigurationError([f"metadata.temp_root: {self._root} must not be a link"])
        descriptor = os.open(self._root, _DIRECTORY)
        try:
            status = os.fstat(descriptor)
            if status.st_uid != os.geteuid():
                raise ConfigurationError(
                    [f"metadata.temp_root: {self._root} must belong to the user of the server"]
                )
            if all(map(_RANDOM_NAME.fullmatch, _names(descriptor))):
                os.fchmod(descriptor, _OWNER_ONLY)
            # Other contents may be for other users. Who can rename our folder could replace it.
            elif status.st_mode & _WRITABLE_BY_OTHERS and not status.st_mode & stat.S_ISVTX:
                fault = (
                    f"{self._root} has other contents, and other users may write to it."
                    " Choose an empty folder."
                )
                raise ConfigurationError([f"metadata.temp_root: {fault}"])
            yield descriptor
        finally:
            os.close(descriptor)


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]


def _remove_abandoned(root: int, name: str) -> None:
    """Remove a folder of the root unless a running process has locked it."""
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=root)
    except OSError:
        return  # it is gone, a link or a file
    try:
        # Between its creation and its lock a folder is young.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.time() - os.fstat(descriptor).st_mtime >= _UNLOCKED_S:
            shutil.rmtree(name, ignore_errors=True, dir_fd=root)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


_UNLOCKED_S = 1.0


def _remove_stale(directory: int, name: str) -> None:
    with contextlib.suppress(OSError):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime >= STALE_S:
            os.unlink(name, dir_fd=directory)
