"""Compares the bytes of JPEG drafts with those of the default quantisation table at equal score.

Both are made by the worker with the same encoder and are streamed. The default table is used at
several qualities, and its bytes at the SSIMULACRA2 of the draft are interpolated. Bytes and scores
are the same in each run.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from statistics import fmean

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile
from proxy.rendering.worker.imaging.libvips import configure
from proxy.settings import load_settings
from tests.benchmarks.originals import kodak
from tests.benchmarks.report import Row, Table
from tests.benchmarks.scores import Encoding, Scored, bytes_at, scored
from tests.benchmarks.servers import Unmeasurable
from tests.rendering.worker.imaging import studio

LIMIT = 0.92
"""Highest mean ratio of a draft's bytes to those with the default table (issue 16)."""
WIDTHS = (300, 480, 768)
"""In pixels; the photographs have 768."""

_QUALITIES = (70, 74, 78, 82, 86)
"""Of the default table; their scores enclose those of the drafts."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft of a photograph, and what the default table needs for its score."""

    name: str
    width: int
    encoded: Scored
    default_bytes: float

    @property
    def ratio(self) -> float:
        """Return the bytes relative to those of the default table at equal score."""
        return self.encoded.bytes / self.default_bytes

    def __str__(self) -> str:
        return f"{self.name} at {self.width}"


def measure() -> Table:
    """Measure the Kodak photographs in each of `WIDTHS`."""
    return _table(drafts())


def draft_profile() -> EncoderProfile:
    """Return the profile of JPEG drafts by default settings."""
    return load_settings().encoders.stages()[Format.JPEG].draft.profile


def drafts(
    paths: Sequence[Path] | None = None,
    widths: Sequence[int] = WIDTHS,
    profile: EncoderProfile | None = None,
) -> list[Draft]:
    """Return drafts of photographs with a profile, compared with the default table.

    Raises:
        Unmeasurable: a score is outside of those of the default table.
    """
    paths, profile = paths or kodak(), profile or draft_profile()
    context, processes = multiprocessing.get_context("spawn"), len(os.sched_getaffinity(0))
    cases = [(path, width) for width in widths for path in paths]
    with tempfile.TemporaryDirectory(prefix="smartserve-drafts-") as place:
        with ProcessPoolExecutor(processes, mp_context=context) as executor:
            made = executor.map(_encodings, *zip(*cases, strict=True), repeat((profile, place)))
            encodings = [encoding for batch in made for encoding in batch]
        found = iter(scored(encodings))
    return [
        _draft(path.stem, width, next(found), [next(found) for _ in _QUALITIES])
        for path, width in cases
    ]


def _encodings(path: Path, width: int, how: tuple[EncoderProfile, str]) -> list[Encoding]:
    """Return the draft of a photograph, and its encodings with the default table."""
    configure()
    profile, place = how
    box = studio.contain(width, width)
    (shown := Path(place) / f"{path.stem}-{width}.png").write_bytes(
        studio.rendered(path, Format.PNG, box=box)
    )
    profiles = (profile, *(_with_default_table(profile, quality) for quality in _QUALITIES))
    return [Encoding(shown, studio.rendered(path, one, box=box)) for one in profiles]


def _with_default_table(profile: EncoderProfile, quality: int) -> EncoderProfile:
    options = {**dict(profile.options), "Q": quality, "quant_table": 0}
    return replace(profile, options=tuple(sorted(options.items())))


def _draft(name: str, width: int, encoded: Scored, curve: Sequence[Scored]) -> Draft:
    scores = [one.score for one in curve]
    if not min(scores) <= encoded.score <= max(scores):
        raise Unmeasurable(f"{name} scores {encoded.score:.1f}, the default table {scores}")
    return Draft(name, width, encoded, bytes_at(encoded.score, curve))


def _table(found: Sequence[Draft]) -> Table:
    table = f"has quality {_QUALITIES[0]} to {_QUALITIES[-1]}, and its bytes are interpolated"
    return Table(
        "kilobytes of JPEG drafts of photographs; ratio: to the default quantisation table at "
        f"equal SSIMULACRA2, for each of {len(found) // len(WIDTHS)} Kodak photographs",
        list(_rows(found)),
        [
            f"The draft has {_text(draft_profile())}; the default table {table}.",
            "Ratios do not depend on the load.",
        ],
    )


def _rows(found: Sequence[Draft]) -> Iterator[Row]:
    for width in WIDTHS:
        some = [one for one in found if one.width == width]
        yield Row(
            f"{width} pixels wide",
            [one.encoded.bytes / 1000 for one in some],
            [one.default_bytes / 1000 for one in some],
            remark=f"mean ratio {fmean(one.ratio for one in some):.3f}, "
            f"SSIMULACRA2 {fmean(one.encoded.score for one in some):.1f}",
        )
    yield Row("mean ratio", [fmean(one.ratio for one in found)], [1.0], limit=LIMIT)
    ordered = sorted(found, key=lambda one: one.ratio)
    yield Row("lowest ratio", [ordered[0].ratio], [1.0], remark=str(ordered[0]))
    yield Row("highest ratio", [ordered[-1].ratio], [1.0], remark=str(ordered[-1]))


def _text(profile: EncoderProfile) -> str:
    return ", ".join(f"{name}={value}" for name, value in profile.options)
