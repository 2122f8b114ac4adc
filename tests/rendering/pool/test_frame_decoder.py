"""Frames come out whole, however the bytes of a set arrive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.worker_protocol import FRAME_LENGTH
from proxy.rendering.pool.frame_decoder import FrameDecoder


@given(st.lists(st.binary(max_size=50)), st.integers(1, 40))
def test_each_frame_is_given_once_and_whole(bodies: list[bytes], piece: int) -> None:
    stream = b"".join(FRAME_LENGTH.pack(len(body)) + body for body in bodies)
    given_: list[tuple[int, bytes]] = []
    frames = FrameDecoder(lambda place, body: given_.append((place, body)))
    for at in range(0, len(stream), piece):
        frames(stream[at : at + piece])
    assert given_ == list(enumerate(bodies))


def test_a_frame_that_is_cut_off_is_not_given() -> None:
    given_: list[bytes] = []
    frames = FrameDecoder(lambda _, body: given_.append(body))
    frames(FRAME_LENGTH.pack(3) + b"abc" + FRAME_LENGTH.pack(4) + b"abc")
    assert given_ == [b"abc"]
