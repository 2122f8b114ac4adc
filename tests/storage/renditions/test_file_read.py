"""Trailers: what was written is read, and nothing else passes for one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.storage.renditions.file_read import TRAILER_BYTES, FileTrailer

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
