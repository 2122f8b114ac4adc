"""A sink that counts goes on, when a job is tried again, where the first worker stopped."""

from __future__ import annotations

import random

import pytest

from proxy.rendering.pool.bounded_sink import BoundedSink

BODY = random.Random(1).randbytes(10_000)


def sent(sink: BoundedSink, body: bytes, *, piece: int) -> None:
    for start in range(0, len(body), piece):
        sink(body[start : start + piece])


@pytest.mark.parametrize("gone", [0, 1, 999, 1_000, 5_432, 10_000])
@pytest.mark.parametrize("piece", [1, 700, 1_000, 10_000])
def test_each_byte_goes_out_once(gone: int, piece: int) -> None:
    taken = bytearray()
    sink = BoundedSink(taken.extend, 20_000)
    sent(sink, BODY[:gone], piece=300)
    sink.begin_again()
    sent(sink, BODY, piece=piece)
    assert bytes(taken) == BODY
    assert sink.total == len(BODY)
    assert not sink.diverged


def test_it_may_begin_again_more_than_once() -> None:
    taken = bytearray()
    sink = BoundedSink(taken.extend, 20_000)
    for gone in (3_000, 1_000, 6_000, 10_000):
        sent(sink, BODY[:gone], piece=512)
        sink.begin_again()
    sent(sink, BODY, piece=512)
    assert bytes(taken) == BODY


@pytest.mark.parametrize("at", [0, 2_000, 2_999])
def test_other_bytes_than_those_that_went_out_are_not_sent(at: int) -> None:
    taken = bytearray()
    sink = BoundedSink(taken.extend, 20_000)
    sent(sink, BODY[:3_000], piece=512)
    sink.begin_again()
    other = bytearray(BODY)
    other[at] ^= 1
    sent(sink, bytes(other), piece=512)
    assert sink.diverged
    assert bytes(taken) == BODY[:3_000]


def test_a_second_try_that_ends_before_the_first_has_diverged() -> None:
    sink = BoundedSink(lambda _: None, 20_000)
    sent(sink, BODY[:3_000], piece=512)
    sink.begin_again()
    sent(sink, BODY[:2_000], piece=512)
    assert sink.diverged


def test_what_comes_again_counts_once_for_the_limit() -> None:
    over: list[bool] = []
    sink = BoundedSink(lambda _: None, 10_000)
    sink.listen(overflow=lambda: over.append(True))
    sent(sink, BODY, piece=512)
    sink.begin_again()
    sent(sink, BODY, piece=512)
    assert not over
    sink(b"!")
    assert over
