"""Rendition files: published as a whole or not at all, and verified when they are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import pytest
import xxhash
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from proxy.storage.renditions.disk_state import RenditionPaths, UsageChange, cost
from proxy.storage.renditions.disk_store import DiskStore
from proxy.storage.renditions.rendition_file import (
    TRAILER_BYTES,
    RenditionReader,
    WriteTicket,
    probe,
    touch,
    trailer_of,
    write_file,
)
from tests.storage.renditions.test_disk_store import HOUR, file_of
from tests.storage.renditions.variants import KIB, MIB, body, put, read, variant
from tests.support.clock import Clock


class Target:
    """One rendition to write below a root, and to read."""

    def __init__(self, root: Path) -> None:
        self.paths = RenditionPaths(str(root))
        self.path = Path(self.paths.rendition(variant()))
        self.ticket = WriteTicket(variant())

    def write(self, content: bytes) -> UsageChange | None:
        return write_file(self.paths, self.ticket, content, publishing=Lock())

    def read(self) -> object:
        reader = RenditionReader(whole_bytes=256 * KIB, clock=lambda: 0)
        (found,) = reader.first(str(self.path.parent), [self.path.name])
        return found


@pytest.fixture
def target(root: Path) -> Target:
    return Target(root)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_file_is_the_body_and_its_trailer(target: Target) -> None:
    change = target.write(b"the body")
    checksum = xxhash.xxh3_128_digest(b"the body")
    trailer = trailer_of(8, checksum, bytes.fromhex(variant().digest))
    assert len(trailer) == TRAILER_BYTES
    assert target.path.read_bytes() == b"the body" + trailer
    assert change == UsageChange(4096, 1)


def test_a_long_file_is_written_in_pieces(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    real, lengths = os.pwrite, list[int]()

    def write(descriptor: int, content: memoryview, offset: int) -> int:
        lengths.append(len(content))
        # As a disk may do that is nearly full: only a part is written.
        return real(descriptor, content[:-100] if len(lengths) == 1 else content, offset)

    monkeypatch.setattr(os, "pwrite", write)
    content = body(2 * MIB + KIB)
    target.write(content)
    assert target.path.read_bytes()[:-TRAILER_BYTES] == content
    assert lengths == [MIB, MIB, KIB + 100 + TRAILER_BYTES]


def test_a_file_that_is_replaced_is_subtracted(target: Target) -> None:
    target.write(body(20 * KIB))
    change = target.write(body(KIB))
    assert change == UsageChange(cost(KIB + TRAILER_BYTES) - cost(20 * KIB + TRAILER_BYTES), 0)


def test_a_file_with_a_void_ticket_is_not_published(target: Target, root: Path) -> None:
    target.ticket.void = True
    assert target.write(body()) is None
    assert files(root) == []


def test_a_file_whose_ticket_becomes_void_is_not_published(
    target: Target, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def write(descriptor: int, content: memoryview, offset: int) -> int:
        target.ticket.void = True
        return real(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", write)
    assert target.write(body()) is None
    assert files(root) == []


def test_a_directory_that_keeps_disappearing_is_an_error(
    target: Target, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe(target.paths)

    def create_nothing(_path: Path, *_mode: object, **_options: object) -> None:
        """As an eviction that deletes the directory at once."""

    monkeypatch.setattr(Path, "mkdir", create_nothing)
    with pytest.raises(FileNotFoundError, match="repeatedly"):
        target.write(body())
    assert files(root) == []


def test_the_probe_creates_directories_and_leaves_no_file(root: Path) -> None:
    probe(RenditionPaths(str(root)))
    assert (root / "tmp").is_dir()
    assert files(root) == []


def test_the_probe_fails_if_the_root_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        probe(RenditionPaths(str(tmp_path / "file" / "renditions")))


def test_a_missing_file_is_not_found(target: Target) -> None:
    assert target.read() is None


def spoil(target: Target, change: Callable[[bytearray], object]) -> None:
    content = bytearray(target.path.read_bytes())
    change(content)
    target.path.write_bytes(content)


def assert_deleted(target: Target) -> None:
    found = target.read()
    assert isinstance(found, UsageChange)
    assert found.items == -1
    assert not target.path.exists()


SHARED_ROOT = hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED_ROOT
@given(st.integers(0, 8 * (100 + TRAILER_BYTES) - 1))
def test_no_flipped_bit_goes_unnoticed(target: Target, bit: int) -> None:
    target.write(body(100))
    assert target.read() == body(100)

    def flip(content: bytearray) -> None:
        content[bit // 8] ^= 1 << bit % 8

    spoil(target, flip)
    assert_deleted(target)


@SHARED_ROOT
@given(st.integers(0, 100 + TRAILER_BYTES - 1))
def test_a_file_that_is_cut_off_is_deleted(target: Target, length: int) -> None:
    target.write(body(100))
    os.truncate(target.path, length)
    assert_deleted(target)


@SHARED_ROOT
@given(st.binary(max_size=4 * TRAILER_BYTES))
def test_a_file_of_other_bytes_is_deleted(target: Target, content: bytes) -> None:
    target.path.parent.mkdir(parents=True, exist_ok=True)
    target.path.write_bytes(content)
    assert_deleted(target)


async def test_an_old_use_is_recorded_anew(disk: DiskStore, root: Path, clock: Clock) -> None:
    await put(disk, variant(), body())
    os.utime(file_of(root), (clock.now - 2 * HOUR, clock.now - 2 * HOUR))

    await read(disk, variant())

    assert file_of(root).stat().st_atime == clock.now
    assert file_of(root).stat().st_mtime == clock.now - 2 * HOUR


async def test_a_use_is_not_recorded_twice_in_an_hour(
    disk: DiskStore, root: Path, clock: Clock
) -> None:
    await put(disk, variant(), body())
    os.utime(file_of(root), (clock.now - HOUR / 2, clock.now - 2 * HOUR))

    await read(disk, variant())

    assert file_of(root).stat().st_atime == clock.now - HOUR / 2


async def test_a_use_in_the_future_is_set_right(disk: DiskStore, root: Path, clock: Clock) -> None:
    """It was recorded by a clock that has jumped back since."""
    await put(disk, variant(), body())
    os.utime(file_of(root), (clock.now + 100 * HOUR, clock.now - 2 * HOUR))

    await read(disk, variant())

    assert file_of(root).stat().st_atime == clock.now


def test_a_use_of_a_file_written_in_the_future_is_recorded_once_an_hour(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.utime(file, (900_000, 900_000))

    for now, recorded in ((500_000, 500_000), (500_000 + HOUR / 2, 500_000)):
        touch(str(file), file.stat(), now)
        assert file.stat().st_atime == recorded
    touch(str(file), file.stat(), 500_000 + HOUR)
    assert file.stat().st_atime == 500_000 + HOUR
    assert file.stat().st_mtime == 900_000
