"""Vectors of images, and the bits by which similar ones are found."""

from __future__ import annotations

import math
from operator import mul
from random import Random

import pytest

from proxy.domain.embedding import WORDS, Embedding


def rotated(vector: tuple[float, ...], angle: float, seed: int = 0) -> tuple[float, ...]:
    """A vector at this angle to another one, in a random direction."""
    random = Random(f"{seed}{vector}")
    other = [random.gauss() for _ in vector]
    along = sum(map(mul, other, vector))
    across = Embedding.of("", [one - along * two for one, two in zip(other, vector, strict=True)])
    pairs = zip(vector, across.vector, strict=True)
    return tuple(math.cos(angle) * one + math.sin(angle) * two for one, two in pairs)


def vector(seed: int, dimensions: int = 512) -> tuple[float, ...]:
    random = Random(seed)
    return Embedding.of("", [random.gauss() for _ in range(dimensions)]).vector


def test_a_vector_has_the_length_1() -> None:
    found = Embedding.of("m", [3.0] * 16)
    assert found.vector == pytest.approx([0.25] * 16)
    assert found.similarity(found.vector) == pytest.approx(1)


@pytest.mark.parametrize(
    "values",
    [[], [1.0] * 7, [1.0] * 5000, [0.0] * 512, [math.nan] * 512, [math.inf] * 512, [1e308] * 512],
)
def test_other_numbers_are_no_embedding(values: list[float]) -> None:
    with pytest.raises(ValueError, match="not an embedding"):
        Embedding.of("m", values)


def test_the_words_fit_a_signed_column_and_never_change() -> None:
    words = Embedding("m", vector(1)).words()
    assert len(words) == WORDS
    assert all(-(2**63) <= word < 2**63 for word in words)
    # The database keeps words of this version, with which later versions compare theirs.
    assert Embedding.of("m", range(1, 9)).words() == [
        -8349202543690907753,
        3163632268368431044,
        -6833815762842853149,
        4179286370702340992,
    ]


@pytest.mark.parametrize("dimensions", [8, 512, 1536])
@pytest.mark.parametrize("angle", [0.1, 0.5, 1.0, math.pi / 2])
def test_the_share_of_different_bits_estimates_the_angle(dimensions: int, angle: float) -> None:
    shares = []
    for seed in range(5):
        one = vector(seed, dimensions)
        pairs = zip(
            Embedding("", one).words(), Embedding("", rotated(one, angle)).words(), strict=True
        )
        shares.append(sum(((a ^ b) & (2**64 - 1)).bit_count() for a, b in pairs) / 256)
    assert sum(shares) / len(shares) * math.pi == pytest.approx(angle, abs=0.2)
