"""Perceptual hashes: variants, distances, and their text."""

from __future__ import annotations

import pytest

from proxy.domain.perceptual_hash import MAX_DISTANCE, TRANSFORMS, PerceptualHash

FULL = 2**64 - 1
# All signs differ from those of the transposed matrix and of the reversed axes.
BUSY = PerceptualHash(0xB23F_0C65_9D1A_47E8, FULL >> 1)


def test_the_text_is_read_again() -> None:
    assert PerceptualHash.parse(*BUSY.texts()) == BUSY
    assert PerceptualHash(1, 0).texts() == ("0" * 15 + "1", "0" * 16)


@pytest.mark.parametrize(
    ("bits", "mask"),
    [
        *((None, "0" * 16), ("0" * 16, None), ("0" * 15, "0" * 16), ("0" * 16, "0" * 17)),
        *(("x" * 16, "0" * 16), (7, 7)),
    ],
)
def test_anything_else_is_no_hash(bits: object, mask: object) -> None:
    assert PerceptualHash.parse(bits, mask) is None


def test_there_is_a_variant_for_each_transform() -> None:
    variants = list(BUSY.variants())
    assert len(variants) == len(TRANSFORMS) == len(set(variants))
    assert variants[0] == BUSY
    # Mirroring twice changes nothing.
    for at in range(4):
        assert list(variants[at].variants())[at] == BUSY
    assert list(variants[4].variants())[4] == BUSY


def test_the_distance_is_the_share_of_distinct_terms_that_differ() -> None:
    other = PerceptualHash(BUSY.bits ^ 0b1111, BUSY.mask)
    assert BUSY.distance(BUSY) == 0
    assert BUSY.distance(other) == other.distance(BUSY) == pytest.approx(4 / 63)
    assert BUSY.distance(PerceptualHash(BUSY.bits ^ FULL, BUSY.mask)) == 1


def test_the_signs_of_terms_that_are_not_distinct_are_ignored() -> None:
    few = PerceptualHash(BUSY.bits, 0b1111)
    assert few.distance(PerceptualHash(BUSY.bits ^ (FULL << 4 & FULL), 0b1111)) == 0


def test_one_term_may_be_distinct_in_one_image_only() -> None:
    few = PerceptualHash(0b1111, 0b1111)
    assert few.distance(PerceptualHash(0b1111, 0b0111)) == 0
    assert few.distance(PerceptualHash(0b1111, 0b0011)) == 1 / 4
    assert few.distance(PerceptualHash(0b0111, 0b1111)) > MAX_DISTANCE


def test_images_without_structure_are_near_nothing() -> None:
    flat = PerceptualHash(0, 0)
    assert flat.distance(flat) == flat.distance(BUSY) == 1
