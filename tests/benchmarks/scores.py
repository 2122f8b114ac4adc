"""SSIMULACRA2 of encoded pictures: scored in processes of their own, each encoding only once.

A score takes a second and depends on nothing but the two files, so it is kept outside the
repository.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyvips

from proxy.domain.formats import EncoderProfile
from tests.benchmarks.peers import cache
from tests.benchmarks.plain import encode
from tests.rendering.worker.imaging.calibrate import true_score


@dataclass(frozen=True, slots=True)
class Scored:
    """An encoding of a picture."""

    bytes: int
    score: float
    """SSIMULACRA2, 100 being identical."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """A picture, and how it is to be encoded, or what it has been encoded to."""

    picture: Path
    how: EncoderProfile | bytes


def scored(encodings: Sequence[Encoding]) -> list[Scored]:
    """The sizes and scores of encodings, in their order."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as executor:
        return list(executor.map(_score, encodings))


def bytes_at(score: float, curve: Sequence[Scored]) -> float:
    """The bytes of an encoder at a score: the logarithm runs straight between its neighbours.

    Beyond the ends of the curve its last piece goes on.
    """
    points = sorted(curve, key=lambda point: point.score)
    pieces = list(pairwise(points))
    low, high = next((piece for piece in pieces if score <= piece[1].score), pieces[-1])
    share = (score - low.score) / (high.score - low.score)
    return math.exp(math.log(low.bytes) + share * math.log(high.bytes / low.bytes))


def _score(encoding: Encoding) -> Scored:
    picture = _decoded(encoding.picture.read_bytes())
    how = encoding.how
    encoded = how if isinstance(how, bytes) else encode(picture, how)
    return Scored(len(encoded), _remembered(encoding.picture, encoded, picture))


def _remembered(path: Path, encoded: bytes, picture: Any) -> float:
    folder = cache() / "scores"
    folder.mkdir(exist_ok=True)
    known = folder / blake2b(path.read_bytes() + encoded, digest_size=16).hexdigest()
    if not known.exists():
        score = true_score(picture, _decoded(encoded))
        partial = known.with_suffix(f".{os.getpid()}")
        partial.write_text(repr(score))
        partial.rename(known)
    return float(known.read_text())


def _decoded(encoded: bytes) -> Any:
    return pyvips.Image.new_from_buffer(encoded, "").colourspace("srgb").copy_memory()
