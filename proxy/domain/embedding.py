"""Embeddings: vectors of images, and the bits by which a database finds similar ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import mul
from random import Random

DIMENSIONS = range(8, 4097)
"""Numbers that an embedding may have."""
WORDS, _WORD_BITS = 4, 64


@dataclass(frozen=True, slots=True)
class Embedding:
    """The vector of an image, scaled to length 1. Only vectors of one model can be compared."""

    model: str
    vector: tuple[float, ...]

    @staticmethod
    def of(model: str, values: Sequence[float]) -> Embedding:
        """Return the embedding with the direction of ``values``.

        Raises:
            ValueError: their number is not in `DIMENSIONS`, one is not finite, or all are 0.
        """
        length = math.hypot(*values)
        if len(values) not in DIMENSIONS or not 0 < length < math.inf:
            raise ValueError("not an embedding")
        return Embedding(model, tuple(value / length for value in values))

    def words(self) -> list[int]:
        """Return 256 bits as signed integers of 64 bits. Takes milliseconds: call it in a thread.

        A bit is the side of a random hyperplane on which the vector lies. The share of bits in
        which two embeddings differ is about their angle divided by pi (M. Charikar, Similarity
        estimation techniques from rounding algorithms, 2002).
        """
        # Exact, because `sum` rounds differently since Python 3.12.
        planes = _planes(len(self.vector))
        sides = [math.fsum(map(mul, self.vector, plane)) > 0 for plane in planes]
        words = [sides[at : at + _WORD_BITS] for at in range(0, len(sides), _WORD_BITS)]
        return [_signed(sum(side << at for at, side in enumerate(word))) for word in words]

    def similarity(self, vector: Sequence[float]) -> float:
        """Return the cosine of the angle to the vector of another embedding: 1 is equal."""
        return math.fsum(map(mul, self.vector, vector))


def _signed(word: int) -> int:
    # A BIGINT has a sign.
    return word - (1 << _WORD_BITS) if word >> (_WORD_BITS - 1) else word


@lru_cache(maxsize=4)
def _planes(dimensions: int) -> Sequence[Sequence[float]]:
    # Stored bits must stay comparable: only `random` gives the same numbers in every version.
    random = Random(dimensions).random  # noqa: S311 - not a secret
    return [
        [1.0 if random() < 1 / 2 else -1.0 for _ in range(dimensions)]
        for _ in range(WORDS * _WORD_BITS)
    ]
