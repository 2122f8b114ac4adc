"""Trailers: what was written is read, and nothing else passes for one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.storage.renditions.file_trailer import SIZE, FileTrailer, parse

TRAILERS = st.builds(
    FileTrailer,
    st.integers(0, 2**64 - 1),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
)


@given(TRAILERS)
def test_a_trailer_is_read_as_it_was_written(trailer: FileTrailer) -> None:
    assert len(trailer.pack()) == SIZE
    assert parse(trailer.pack()) == trailer


@given(st.binary(max_size=2 * SIZE) | st.binary(min_size=SIZE, max_size=SIZE))
def test_other_bytes_are_no_trailer(raw: bytes) -> None:
    found = parse(raw)
    assert found is None or found.pack() == raw


@given(TRAILERS, st.integers(0, 8 * SIZE - 1))
def test_no_flipped_bit_goes_unnoticed(trailer: FileTrailer, bit: int) -> None:
    spoilt = bytearray(trailer.pack())
    spoilt[bit // 8] ^= 1 << bit % 8
    assert parse(bytes(spoilt)) != trailer


@given(TRAILERS, st.integers(0, SIZE - 1))
def test_a_trailer_that_is_cut_off_is_none(trailer: FileTrailer, length: int) -> None:
    assert parse(trailer.pack()[:length]) is None
    assert parse(trailer.pack()[-length:] if length else b"") is None
