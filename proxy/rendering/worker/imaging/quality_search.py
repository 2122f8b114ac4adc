"""Finds the smallest quality of an encoder that reaches a target of perceived quality.

A final AVIF takes a second per encode, so few encodes are made. The score is nearly linear in the
quality over a few steps: each guess follows the line through the two nearest trials (regula falsi),
between the highest quality that failed and the lowest that passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyvips

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile, QualitySearch
from proxy.rendering.worker.imaging.encode import to_bytes
from proxy.rendering.worker.imaging.libvips import loadable_types
from proxy.rendering.worker.imaging.ssimulacra2 import RINGING_LEVELS, Fidelity, Reference

SEARCHED = (Format.AVIF, Format.WEBP, Format.JPEG)
"""Formats with a lossy quality setting."""
NEAR_ENOUGH = 0.3
"""Points above the target that do not justify another encode: less than one step of quality."""
# Points per step of quality if only one trial is known; 0.5 to 1.1 around a score of 75.
_SLOPE = 0.8
_MIN_SLOPE, _MAX_SLOPE = 0.2, 4.0
# Added to the last guess if no trial has passed: slightly too good is better than missed.
_LAST_STEP = 2
# Points that one level of ringing above `RINGING_LEVELS` counts for.
_RINGING_POINTS = 8.0


@dataclass(frozen=True, slots=True)
class QualityTrial:
    """One encoding and its distance from the target."""

    quality: int
    encoded: bytes
    fidelity: Fidelity
    margin: float
    """Points above the target; negative if it fails."""

    @property
    def passes(self) -> bool:
        """Return whether the target score and the limit on ringing are met."""
        return self.margin >= 0


def applies(profile: EncoderProfile, *, animated: bool) -> bool:
    """Return whether a search is possible: a still image in a lossy format that can be decoded."""
    lossless = dict(profile.options).get("lossless", False)
    searched = profile.format in SEARCHED and profile.format.value in loadable_types()
    return searched and not animated and not lossless


def find(
    image: Any, profile: EncoderProfile, search: QualitySearch, *, copyright_notice: str | None
) -> QualityTrial:
    """Encode an image in memory until the smallest quality that passes is found.

    Returns the lowest quality that passed within ``max_encodes``. If none passed, returns the
    highest that was tried: the upper bound, unless the encodes ran out just below the target.
    """
    encoder = TrialEncoder(image, copyright_notice=copyright_notice)
    return encoder.find(profile, search, ringing_levels=RINGING_LEVELS)


class TrialEncoder:
    """Encodes an image in memory and measures each result."""

    def __init__(self, image: Any, *, copyright_notice: str | None) -> None:
        """Accept what `Reference` does."""
        self._image = image
        self._notice = copyright_notice
        self._reference = Reference(image)

    def trial(
        self, profile: EncoderProfile, target: float, *, ringing_levels: float = math.inf
    ) -> QualityTrial:
        """Encode by a profile and compare its score with a target.

        ``ringing_levels`` is the limit of `Fidelity.ringing`.
        """
        encoded = to_bytes(self._image, profile, copyright_notice=self._notice)
        return self.judge(profile, encoded, target, ringing_levels=ringing_levels)

    def judge(
        self,
        profile: EncoderProfile,
        encoded: bytes,
        target: float,
        *,
        ringing_levels: float = math.inf,
    ) -> QualityTrial:
        """Compare the score of what a profile gave with a target, as `trial` does."""
        fidelity = self._reference.compare(pyvips.Image.new_from_buffer(encoded, ""))
        ringing_margin = (ringing_levels - fidelity.ringing) * _RINGING_POINTS
        margin = min(fidelity.score - target, ringing_margin)
        return QualityTrial(_quality_of(profile), encoded, fidelity, margin)

    def find(
        self, profile: EncoderProfile, search: QualitySearch, *, ringing_levels: float = math.inf
    ) -> QualityTrial:
        """Search as the function `find` does."""

        def attempt(quality: int) -> QualityTrial:
            chosen = with_quality(profile, quality)
            return self.trial(chosen, search.target, ringing_levels=ringing_levels)

        return _narrowed(attempt, search, start=_quality_of(profile))


def _quality_of(profile: EncoderProfile) -> int:
    # The default is the one of libvips.
    return int(dict(profile.options).get("Q", 50 if profile.format is Format.AVIF else 75))


def with_quality(profile: EncoderProfile, quality: int) -> EncoderProfile:
    """Return the profile with another ``Q``."""
    options = dict(profile.options) | {"Q": quality}
    return replace(profile, options=tuple(sorted(options.items())))


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
    """Return the next quality that is worth an encode, or None if the search is finished."""
    ordered = sorted(trials, key=lambda trial: trial.quality)
    passed = next((trial for trial in ordered if trial.passes), None)
    below = [trial for trial in ordered if passed is None or trial.quality < passed.quality]
    failed = below[-1] if below else None
    low = search.low if failed is None else failed.quality + 1
    high = search.high if passed is None else passed.quality - 1
    # No quality left between the trials, or the passing one wastes hardly any bytes.
    if low > high or (passed is not None and passed.margin <= NEAR_ENOUGH):
        return None
    # A miss on the last encode would leave nothing that passes.
    last_chance = passed is None and len(trials) == search.max_encodes - 1
    guess = _guess(ordered, passed, failed) + (_LAST_STEP if last_chance else 0)
    return min(max(guess, low), high)


def _guess(
    ordered: list[QualityTrial], passed: QualityTrial | None, failed: QualityTrial | None
) -> int:
    """Return where the line through the two nearest trials crosses the target, rounded up."""
    if passed is not None and failed is not None:
        known, other = failed, passed
    elif passed is not None:
        known, other = passed, ordered[min(1, len(ordered) - 1)]
    else:
        known, other = ordered[-1], ordered[max(0, len(ordered) - 2)]
    slope = _SLOPE
    if known is not other:
        rise = (other.margin - known.margin) / (other.quality - known.quality)
        slope = min(max(rise, _MIN_SLOPE), _MAX_SLOPE)
    return math.ceil(known.quality - known.margin / slope)
