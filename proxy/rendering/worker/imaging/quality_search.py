"""The smallest quality of an encoder that reaches a target of perceived quality.

In few encodes, for a final AVIF costs a second each: the curve of score over quality is nearly
straight within some steps, so each guess follows the line through the two nearest trials (regula
falsi), between the highest quality that failed and the lowest that passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyvips

from proxy.domain.formats import EncoderProfile, Format, QualitySearch
from proxy.rendering.worker.imaging.encode import to_bytes
from proxy.rendering.worker.imaging.loader_allowlist import loadable_types
from proxy.rendering.worker.imaging.ssimulacra2 import RINGING_LEVELS, Fidelity, Reference

SEARCHED = (Format.AVIF, Format.WEBP, Format.JPEG)
"""Formats whose encoders have a quality that loses something."""
NEAR_ENOUGH = 0.3
"""Points above the target that are not worth another encode: less than a step of quality."""
_SLOPE = 0.8
"""Points for a step of quality where only one is known: 0.5 to 1.1 around a score of 75."""
_LEAST_SLOPE, _MOST_SLOPE = 0.2, 4.0
_LAST_STEP = 2
"""Added to the last guess where none has passed yet: a little too good is better than missed."""
_LEVEL = 8.0
"""Points for which a level of ringing above `RINGING_LEVELS` counts."""


@dataclass(frozen=True, slots=True)
class QualityTrial:
    """One encoding and how far it is from the target."""

    quality: int
    encoded: bytes
    fidelity: Fidelity
    margin: float
    """Points above the target; below 0 it fails."""

    @property
    def passes(self) -> bool:
        """Whether the target is reached, by the score and by the guard against ringing."""
        return self.margin >= 0


def applies(profile: EncoderProfile, *, animated: bool) -> bool:
    """Whether a search can be made: a still picture, a lossy format, and its loader not blocked."""
    lossless = dict(profile.options).get("lossless", False)
    searched = profile.format in SEARCHED and profile.format.value in loadable_types()
    return searched and not animated and not lossless


def find(
    image: Any, profile: EncoderProfile, search: QualitySearch, *, copyright_notice: str | None
) -> QualityTrial:
    """Encode a picture in memory until the smallest quality that passes is found.

    The lowest that passed of at most ``max_encodes``; where none did, the highest that was tried,
    which is the upper bound unless encodes ran out just below the target.
    """
    reference = Reference(image)

    def attempt(quality: int) -> QualityTrial:
        chosen = with_quality(profile, quality)
        encoded = to_bytes(image, chosen, copyright_notice=copyright_notice)
        fidelity = reference.compare(pyvips.Image.new_from_buffer(encoded, ""))
        return QualityTrial(quality, encoded, fidelity, _margin(fidelity, search.target))

    return _narrowed(attempt, search, start=_quality(profile))


def with_quality(profile: EncoderProfile, quality: int) -> EncoderProfile:
    """The profile with another ``Q``."""
    options = dict(profile.options) | {"Q": quality}
    return EncoderProfile(profile.format, tuple(sorted(options.items())))


def _quality(profile: EncoderProfile) -> int:
    """Its ``Q``, or what libvips takes where it has none."""
    default = 50 if profile.format is Format.AVIF else 75
    return int(dict(profile.options).get("Q", default))


def _margin(fidelity: Fidelity, target: float) -> float:
    return min(fidelity.score - target, (RINGING_LEVELS - fidelity.ringing) * _LEVEL)


def _narrowed(
    attempt: Callable[[int], QualityTrial], search: QualitySearch, *, start: int
) -> QualityTrial:
    trials: list[QualityTrial] = []
    following: int | None = min(max(start, search.low), search.high)
    while following is not None and len(trials) < max(1, search.max_encodes):
        trials.append(attempt(following))
        following = next_quality(trials, search)
    passed = [trial for trial in trials if trial.passes]
    if passed:
        return min(passed, key=lambda trial: trial.quality)
    return max(trials, key=lambda trial: trial.quality)


def next_quality(trials: list[QualityTrial], search: QualitySearch) -> int | None:
    """The next quality worth an encode, or None where the answer is found; pure."""
    ordered = sorted(trials, key=lambda trial: trial.quality)
    passed = next((trial for trial in ordered if trial.passes), None)
    below = [trial for trial in ordered if passed is None or trial.quality < passed.quality]
    failed = below[-1] if below else None
    least = search.low if failed is None else failed.quality + 1
    most = search.high if passed is None else passed.quality - 1
    if least > most or (passed is not None and passed.margin <= NEAR_ENOUGH):
        return None
    last_chance = passed is None and len(trials) == search.max_encodes - 1
    guess = _guess(ordered, passed, failed) + (_LAST_STEP if last_chance else 0)
    return min(max(guess, least), most)


def _guess(
    ordered: list[QualityTrial], passed: QualityTrial | None, failed: QualityTrial | None
) -> int:
    """Where the line through the two nearest trials crosses the target, rounded up."""
    if passed is not None and failed is not None:
        known, other = failed, passed
    elif passed is not None:
        known, other = passed, ordered[min(1, len(ordered) - 1)]
    else:
        known, other = ordered[-1], ordered[max(0, len(ordered) - 2)]
    return math.ceil(known.quality - known.margin / _slope(known, other))


def _slope(one: QualityTrial, other: QualityTrial) -> float:
    if one is other:
        return _SLOPE
    rise = (other.margin - one.margin) / (other.quality - one.quality)
    return min(max(rise, _LEAST_SLOPE), _MOST_SLOPE)
