"""Encodes graphics: screenshots, icons, logos, charts, maps, line art and flat posters.

They have large flat areas and hard edges, also if a part of them is a photograph. Encoders for
photographs blur their thin coloured lines, ring at their edges, and are often several times as
large as a lossless encoder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, reduce
from operator import or_
from typing import Any

import pyvips

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile, QualitySearch
from proxy.rendering.worker.imaging.encode import to_bytes
from proxy.rendering.worker.imaging.libvips import loadable_types
from proxy.rendering.worker.imaging.quality_search import (
    QualityTrial,
    TrialEncoder,
    with_quality,
)
from proxy.rendering.worker.imaging.ssimulacra2 import RINGING_LEVELS

_COLOURS = 3
# Result of a comparison.
_TRUE = 255
_SAMPLED_ROWS = 32
# Differences of neighbours in levels: equal, a gradient, a texture, an edge. Of several channels
# the union of the bits is that of the largest difference.
_FLAT, _SMOOTH, _TEXTURE, _EDGE = 0, 1, 3, 7
_KINDS = bytes(
    _FLAT if level == 0 else _SMOOTH if level <= 2 else _TEXTURE if level < 24 else _EDGE  # noqa: PLR2004
    for level in range(256)
)
# Share of equal neighbours of an image that is drawn in any case: flags, and a line on paper.
_ALL_FLAT = 0.9
# Share of equal neighbours, and of equal or nearly equal ones. Screenshots and charts have more of
# the former, posters and scans of the latter; photographs have 0.42 and 0.61, unless they are
# mostly sky.
_LEAST_FLAT, _LEAST_CALM = 0.5, 0.65
# Share of edges among what is not calm. Graphics have 0.18 and more, unless they are very small;
# photographs with as much sky, or cut out on white, 0.14 and less.
_LEAST_HARD = 0.16
# Levels of red or blue that a window of 8 x 8 pixels loses if 2 x 2 pixels share their chroma.
# Thin red text on blue loses 33 to 90; coloured areas 29 and less.
_MAX_CHROMA_LOSS, _WINDOW = 32, 8
# A page of small coloured letters is not calm, but has hard edges or a flat ground, and many
# windows lose their colour. In photographs at most 0.01 of the windows do, and 0.3 in blossom with
# fewer edges and no flat areas.
_LOST_COLOUR, _LETTERS_LOST, _LETTERS_HARD = 24, 0.05, 0.43
_GROUND_LOST, _GROUND_FLAT = 0.2, 0.3
# Edges beside at least four calm pixels, on each sampled row: letters and lines. A photograph that
# is framed or cut out on white has two, four lines of large letters above and below it add four.
_LINE = re.compile(rb"[\x00\x01]{4}\x03?\x07|\x07\x03?(?=[\x00\x01]{4})")
_LEAST_LINES = 4
# Bytes of a draft with such text, relative to a lossy WebP, that full chroma may cost.
_MAX_FULL_CHROMA = 2.0
# The encoder's screen content tools start with effort 1: 0 takes half the time, twice the bytes.
_AVIF_EFFORT = 1
# Lossless WebP: the quality is that of the compression, and saves 2 to 12 %. The efforts 5 and 6
# save at most 2 % more, in 3 and 20 times the time.
_LOSSLESS: Mapping[str, int | bool] = {"lossless": True, "Q": 100, "effort": 4}
_NEAR_EFFORT = 2
# Levels of WebP's preprocessing, and qualities of palettes, in the order of their bytes.
_NEAR_LOSSLESS = (60, 40, 20)
_PALETTES = (100, 99, 98, 96, 93, 90, 85, 80, 70, 60, 50, 40)
# Score from which on fewer levels or colours are invisible, and from which on they are not noticed
# side by side if there are no gradients, which would have bands. At 90, street maps and line art
# had up to 1.4 times the bytes.
_INVISIBLE, _UNNOTICED = 90.0, 85.0
# A window is a part of a gradient if its variance is between these two: that of a single step of
# one level, and that of two levels from each pixel to the next. An image has gradients if more than
# this share of its windows are such parts. Edges of reduced graphics make up to 0.1.
_LEAST_VARIANCE, _MOST_VARIANCE, _MOST_SOFT = 0.1, 24.0, 0.12
# Quality of the alpha channel, which WebP compresses without loss by default. At this quality a
# soft shadow takes 25 % fewer bytes and scores 0.4 points less. Below 75 bands are visible in it.
_ALPHA_QUALITY = 78
# Points of SSIMULACRA2 by which an estimate may be wrong about which of two encodings is better.
_ESTIMATE_ERROR = 0.25
# Score of a decoder's rounding errors.
_IDENTICAL = 99.9
# Bytes of a lossless WebP relative to a plain one. Above `_HOPELESS` near-lossless levels are not
# tried. Up to `_UNBEATABLE` no lossy encoding is tried: none has ever been smaller.
_HOPELESS, _UNBEATABLE = 2.0, 0.75
# Score of a plain encoding below which a graphic is hard to read, so that more bytes are justified.
_LEGIBLE = 50.0
_PLAIN: Mapping[Format, Mapping[str, int | bool | str]] = {
    Format.JPEG: {"optimize_coding": True},
    Format.WEBP: {"effort": 4},
    Format.AVIF: {"effort": _AVIF_EFFORT},
}
_LOSSY = tuple(_PLAIN)


def applies(image: Any, profile: EncoderProfile) -> bool:
    """Return whether a still image in memory is a graphic that this module encodes."""
    lossy = profile.format in _LOSSY and not dict(profile.options).get("lossless")
    return lossy and is_graphic(image)


def is_graphic(image: Any) -> bool:
    """Return whether an image in memory is flat or smooth with hard edges, or coloured letters.

    The number of its colours decides nothing: a photograph in fog has few, a gradient many.
    """
    if image.width == 1:
        return True
    kinds, height = _sampled(image)
    flat, smooth, texture, edges = (
        kinds.count(kind) / len(kinds) for kind in (_FLAT, _SMOOTH, _TEXTURE, _EDGE)
    )
    if flat >= _ALL_FLAT:
        return True
    calm = flat >= _LEAST_FLAT or flat + smooth >= _LEAST_CALM
    hard = edges / (edges + texture) if edges else 0.0
    if calm and hard > _LEAST_HARD:
        return True
    if flat >= _LEAST_FLAT and len(_LINE.findall(kinds)) > _LEAST_LINES * height:
        return True
    letters, ground = hard > _LETTERS_HARD, flat > _GROUND_FLAT
    if not (letters or ground):
        return False
    lost = _lost_colour(image)
    return (letters and lost > _LETTERS_LOST) or (ground and lost > _GROUND_LOST)


def has_gradients(image: Any) -> bool:
    """Return whether an image has areas in which few levels or colours would be seen as bands."""
    levels = image.cast("float")
    mean, squares = (one.shrink(_WINDOW, _WINDOW, ceil=True) for one in (levels, levels * levels))
    variance = squares - mean * mean
    soft = (variance > _LEAST_VARIANCE) & (variance < _MOST_VARIANCE)
    return bool(soft.bandor().avg() / _TRUE > _MOST_SOFT)


def _sampled(image: Any) -> tuple[bytes, int]:
    """Return the kinds of the differences of neighbours in a sample of the rows, and its height.

    All rows would take more than the millisecond of a sample.
    """
    bands = min(_COLOURS, image.bands)
    colours = image if image.bands in (1, _COLOURS) else image.extract_band(0, n=bands)
    rows = colours.subsample(1, max(1, image.height // _SAMPLED_ROWS)).copy_memory()
    left, right = (rows.crop(at, 0, rows.width - 1, rows.height) for at in (0, 1))
    kinds = bytes((right - left).abs().cast("uchar").write_to_memory()).translate(_KINDS)
    channels = (int.from_bytes(kinds[at::bands], "big") for at in range(bands))
    return reduce(or_, channels).to_bytes(len(kinds) // bands, "big"), rows.height


def has_coloured_detail(image: Any) -> bool:
    """Return whether thin lines of an image would lose their colour to chroma subsampling."""
    return image.bands >= _COLOURS and bool(_chroma_loss(image).max() > _MAX_CHROMA_LOSS)


def _lost_colour(image: Any) -> float:
    """Return the share of windows that would lose much of their colour."""
    if image.bands < _COLOURS:
        return 0.0
    share: float = (_chroma_loss(image) > _LOST_COLOUR).bandor().avg() / _TRUE
    return share


def _chroma_loss(image: Any) -> Any:
    """Return the mean loss of red and of blue, in levels, of each window."""
    chroma = (image[0] - image[1]).bandjoin(image[2] - image[1])
    shared = chroma.shrink(2, 2, ceil=True).zoom(2, 2).crop(0, 0, image.width, image.height)
    return (chroma - shared).abs().shrink(_WINDOW, _WINDOW, ceil=True)


def draft(image: Any, profile: EncoderProfile, *, copyright_notice: str | None) -> bytes:
    """Encode a graphic quickly, by the profile of photographs with what suits graphics."""
    if profile.format is Format.AVIF:
        effort = max(_AVIF_EFFORT, int(dict(profile.options).get("effort", _AVIF_EFFORT)))
        chosen = _with(_full_chroma(profile), effort=effort)
        return to_bytes(image, chosen, copyright_notice=copyright_notice)
    detailed = has_coloured_detail(image)
    if profile.format is Format.JPEG:
        # All pixels are in memory already, so nothing could be streamed.
        chosen = _with(_drawn(profile), optimize_coding=True, overshoot_deringing=True)
        chosen = _full_chroma(chosen) if detailed else chosen
        return to_bytes(image, chosen, copyright_notice=copyright_notice)
    lossy, full = (
        to_bytes(image, chosen, copyright_notice=copyright_notice)
        for chosen in (_full_chroma(profile), near_lossless(profile))
    )
    return full if len(full) <= (_MAX_FULL_CHROMA if detailed else 1) * len(lossy) else lossy


def final(
    image: Any, profile: EncoderProfile, search: QualitySearch, *, copyright_notice: str | None
) -> tuple[bytes, QualityTrial | None]:
    """Encode a graphic to few bytes; return them, and the trial they are from if it was lossy.

    The result has at most the bytes of a plain encoding of the same quality and at least its score,
    because ringing is more visible than in photographs. It misses the target of the search only if
    nothing of these bytes reaches it. If the plain encoding is hardly legible, more are allowed.
    """
    encoder = _FinalEncoder(image, profile, search, copyright_notice=copyright_notice)
    lossless = encoder.lossless() if profile.format is Format.WEBP else []
    best = encoder.best(lossless)
    return best.encoded, None if best in lossless else best


class _FinalEncoder:
    """Encodes one graphic in several ways, to compare their bytes and scores."""

    def __init__(
        self,
        image: Any,
        profile: EncoderProfile,
        search: QualitySearch,
        *,
        copyright_notice: str | None,
    ) -> None:
        self._image = image
        self._profile = profile
        self._notice = copyright_notice
        self._trials = TrialEncoder(image, copyright_notice=copyright_notice)
        self._plain = self._trials.trial(_plain(profile), search.target)
        score, size = self._plain.fidelity.score, len(self._plain.encoded)
        self._search = replace(search, target=max(search.target, score + _ESTIMATE_ERROR))
        self._most = size if score >= _LEGIBLE else math.inf

    def best(self, lossless: list[QualityTrial]) -> QualityTrial:
        """Return the smallest encoding that passes, or the best of those that are small enough."""
        passing = [one for one in (self._plain, *lossless) if one.passes]
        least = min((len(one.encoded) for one in passing), default=math.inf)
        if lossless and least <= _UNBEATABLE * len(self._plain.encoded):
            return _smallest(passing)
        lossy = self._lossy(most=min(least, self._most))
        passing += [one for one in lossy if one.passes]
        if within := [one for one in passing if len(one.encoded) <= self._most]:
            return _smallest(within)
        if self._most == math.inf:
            return _smallest(passing) if passing else max(lossy, key=_score)
        # A score below the target is better than more bytes: the plain encoding scores even less.
        tried = (self._plain, *lossy, *map(self._within, self._profiles()))
        return max((one for one in tried if len(one.encoded) <= self._most), key=_score)

    @cached_property
    def _least(self) -> float:
        """Score from which on fewer levels or colours are not noticed. Only WebP asks for it."""
        return _INVISIBLE if has_gradients(self._image) else _UNNOTICED

    def lossless(self) -> list[QualityTrial]:
        """Return encodings as WebP without noticeable loss, some of which may fail."""
        exact = self._without_loss(self._image)
        hopeless = len(exact.encoded) > _HOPELESS * len(self._plain.encoded)
        return [exact, *([] if hopeless else self._near_lossless()), *self._palettes()]

    def _near_lossless(self) -> Iterator[QualityTrial]:
        for level in _NEAR_LOSSLESS:
            yield (trial := self._without_loss(_preprocessed(self._image, level)))
            if not trial.passes:
                return

    def _palettes(self) -> Iterator[QualityTrial]:
        """Yield trials that bisect the qualities of palettes.

        Their pixels are those of a PNG, so there are none if the settings exclude it as a source.
        """
        low, high = 0, len(_PALETTES) if "png" in loadable_types() else 0
        while low < high:
            middle = (low + high) // 2
            yield (trial := self._without_loss(_quantised(self._image, _PALETTES[middle])))
            if trial.passes:
                low = middle + 1
            elif len(trial.encoded) <= self._most:
                high = middle
            else:
                # More colours would need even more bytes.
                return

    def _without_loss(self, image: Any) -> QualityTrial:
        """Encode the graphic, or a version of it with fewer levels or colours, without loss."""
        profile = _with(self._profile, **_LOSSLESS)
        encoded = to_bytes(image, profile, copyright_notice=self._notice)
        # A plain encoding that scores more is nearly without loss itself.
        target = max(self._least, min(self._search.target, _IDENTICAL))
        return self._trials.judge(profile, encoded, target)

    def _lossy(self, *, most: float) -> list[QualityTrial]:
        """Return encodings that score at least what the plain one does, if any can."""
        target = self._search.target
        tried = [self._trials.trial(_full_chroma(_plain(self._profile)), target)]
        if self._profile.format is Format.JPEG:
            slim = _slim(_plain(self._profile), self._profile)
            tried += [self._trials.trial(slim, target), self._same_pixels(slim)]
        return tried + [self._found(profile, most=most) for profile in self._profiles()]

    def _same_pixels(self, slim: EncoderProfile) -> QualityTrial:
        """Return the plain encoding as JPEG with other scans, which need fewer bytes."""
        profile = _with(slim, overshoot_deringing=False)
        encoded = to_bytes(self._image, profile, copyright_notice=self._notice)
        return replace(self._plain, encoded=encoded)

    def _profiles(self) -> list[EncoderProfile]:
        """Return the profiles whose quality is searched."""
        full = _full_chroma(self._profile)
        if self._profile.format is Format.AVIF:
            return [full]
        if self._profile.format is Format.WEBP:
            # The search of the deblocking filter saves 3 % if a graphic has gradients or a
            # photograph. With the most effort, coloured letters on a dark ground score less for
            # their bytes.
            most = _with(full, smart_deblock=True)
            if self._image.hasalpha():
                most = _with(most, alpha_q=_ALPHA_QUALITY)
            return [most, _with(full, **_PLAIN[Format.WEBP])]
        # Shared chroma saves bytes where it scores enough; where lines lose their colour it cannot.
        shared = [] if has_coloured_detail(self._image) else [self._profile]
        return [_slim(_drawn(one), one) for one in (full, *shared)]

    def _found(self, profile: EncoderProfile, *, most: float) -> QualityTrial:
        """Search the quality, without ringing if that is no larger than ``most`` bytes."""
        # JPEG rings at nearly every quality; without ringing it would be twice as large.
        if profile.format is not Format.JPEG:
            calm = self._trials.find(profile, self._search, ringing_levels=RINGING_LEVELS)
            if calm.passes and len(calm.encoded) <= most:
                return calm
        # It must not ring more than the plain encoding.
        levels = max(RINGING_LEVELS, self._plain.fidelity.ringing)
        return self._trials.find(profile, self._search, ringing_levels=levels)

    def _within(self, profile: EncoderProfile) -> QualityTrial:
        """Return the highest quality that is no larger than the plain encoding, or the lowest."""
        low, high = self._search.low, self._search.high
        while low < high:
            middle = (low + high + 1) // 2
            chosen = with_quality(profile, middle)
            encoded = to_bytes(self._image, chosen, copyright_notice=self._notice)
            low, high = (middle, high) if len(encoded) <= self._most else (low, middle - 1)
        return self._trials.trial(with_quality(profile, low), self._search.target)


def _score(trial: QualityTrial) -> tuple[float, int]:
    return trial.fidelity.score, -len(trial.encoded)


def _smallest(trials: Iterable[QualityTrial]) -> QualityTrial:
    return min(trials, key=lambda trial: len(trial.encoded))


def _preprocessed(image: Any, level: int) -> Any:
    """Return an image after WebP's preprocessing of a level, for lossless compression.

    The level of the encoder also limits its compression: without loss, the same pixels have 3 to
    7 % fewer bytes.
    """
    near = image.webpsave_buffer(near_lossless=True, Q=level, effort=_NEAR_EFFORT, keep="none")
    return pyvips.Image.webpload_buffer(near).copy_memory()


def _quantised(image: Any, quality: int) -> Any:
    """Return an image of at most 256 colours; with dithering it would compress badly."""
    palette = image.pngsave_buffer(palette=True, Q=quality, dither=0, compression=1, keep="none")
    return pyvips.Image.pngload_buffer(palette).copy_memory()


def _slim(profile: EncoderProfile, final: EncoderProfile) -> EncoderProfile:
    """Return a JPEG profile with the scans of a final, and less ringing at white."""
    scans = bool(dict(final.options).get("interlace"))
    return _with(profile, interlace=scans, optimize_scans=scans, overshoot_deringing=True)


def near_lossless(profile: EncoderProfile) -> EncoderProfile:
    """Return a profile of WebP whose result is visually without loss."""
    return _with(profile, near_lossless=True, Q=60)


def _plain(profile: EncoderProfile) -> EncoderProfile:
    """Return the quality of a profile with the encoder's quick settings."""
    quality = tuple(pair for pair in profile.options if pair[0] == "Q")
    return _with(replace(profile, options=quality), **_PLAIN[profile.format])


def _drawn(profile: EncoderProfile) -> EncoderProfile:
    """Return a profile without the JPEG table of photographs, which costs graphics 5 %."""
    return _with(profile, quant_table=0) if profile.format is Format.JPEG else profile


def _full_chroma(profile: EncoderProfile) -> EncoderProfile:
    """Return a profile with full chroma, or with what lossy WebP has in its place."""
    if profile.format is Format.WEBP:
        return _with(profile, smart_subsample=True)
    return _with(profile, subsample_mode="off")


def _with(profile: EncoderProfile, **more: int | bool | str) -> EncoderProfile:
    return replace(profile, options=tuple(sorted({**dict(profile.options), **more}.items())))
