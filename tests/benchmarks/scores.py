"""SSIMULACRA2 of encoded images, computed in separate processes, once per encoding.

A score takes a second and depends only on the two files, so it is cached outside the repository.
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

from proxy.domain.variant import EncoderProfile
from tests.benchmarks.peers import cache
from tests.benchmarks.plain import encode
from tests.rendering.worker.imaging.calibrate import true_score


@dataclass(frozen=True, slots=True)
class Scored:
    """An encoding of an image."""

    bytes: int
    score: float
    """SSIMULACRA2; 100 is identical."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """An image with the way to encode it, or with its encoding."""

    picture: Path
    how: EncoderProfile | bytes


def scored(encodings: Sequence[Encoding]) -> list[Scored]:
    """Return sizes and scores of encodings, in their order."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as executor:
        return list(executor.map(_score, encodings))


def bytes_at(score: float, curve: Sequence[Scored]) -> float:
    """Return the bytes of an encoder at a score, interpolated linearly in the logarithm.

    Beyond the ends of the curve its last segment is extrapolated.
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
