"""Trailers: what was written is read, and nothing else passes for one."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from proxy.storage.renditions.disk_store import DiskStore
from proxy.storage.renditions.file_read import TRAILER_BYTES, FileTrailer, touch
from tests.storage.renditions.conftest import Clock
from tests.storage.renditions.test_disk_store import HOUR, file_of
from tests.storage.renditions.variants import (
    body,
    put,
    read,
    variant,
)

TRAILERS = st.builds(
    FileTrailer,
    st.integers(0, 2**64 - 1),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
)


@given(TRAILERS)
def test_a_trailer_is_read_as_it_was_written(trailer: FileTrailer) -> None:
    assert len(trailer.pack()) == TRAILER_BYTES
    assert FileTrailer.parse(trailer.pack()) == trailer


@given(
    st.binary(max_size=2 * TRAILER_BYTES)
    | st.binary(min_size=TRAILER_BYTES, max_size=TRAILER_BYTES)
)
def test_other_bytes_are_no_trailer(raw: bytes) -> None:
    found = FileTrailer.parse(raw)
    assert found is None or found.pack() == raw


@given(TRAILERS, st.integers(0, 8 * TRAILER_BYTES - 1))
def test_no_flipped_bit_goes_unnoticed(trailer: FileTrailer, bit: int) -> None:
    spoilt = bytearray(trailer.pack())
    spoilt[bit // 8] ^= 1 << bit % 8
    assert FileTrailer.parse(bytes(spoilt)) != trailer


@given(TRAILERS, st.integers(0, TRAILER_BYTES - 1))
def test_a_trailer_that_is_cut_off_is_none(trailer: FileTrailer, length: int) -> None:
    assert FileTrailer.parse(trailer.pack()[:length]) is None
    assert FileTrailer.parse(trailer.pack()[-length:] if length else b"") is None


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


def test_a_file_written_in_the_future_is_not_touched_at_each_hit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.utime(file, (1000, 900_000))

    touch(str(file), file.stat(), 500_000)

    assert file.stat().st_atime == 1000
