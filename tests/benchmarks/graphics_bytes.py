"""Bytes and SSIMULACRA2 of graphics: smartserve's drafts and finals, and plain libvips.

The rules of finals were found with the ten graphics of `artwork`; the ten of `more_artwork` check
that they hold for other kinds.

libvips has the settings of imgproxy. Bytes and scores are the same in each run on a machine, whose
fonts they depend on. ``python -m tests.benchmarks.graphics_bytes FOLDER`` measures other images.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from statistics import fmean
from typing import Any

import pyvips

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile
from proxy.rendering.worker.imaging.libvips import configure
from proxy.settings import load_settings
from tests.benchmarks import artwork, more_artwork
from tests.benchmarks.plain import encode
from tests.benchmarks.report import Row, Table
from tests.benchmarks.scores import Encoding, Scored, scored
from tests.rendering.worker.imaging import studio

_SIDE = 1200
_PLAIN = {
    Format.JPEG: EncoderProfile(Format.JPEG, (("Q", 80), ("optimize_coding", True))),
    Format.WEBP: EncoderProfile(Format.WEBP, (("Q", 79), ("effort", 4))),
    Format.AVIF: EncoderProfile(Format.AVIF, (("Q", 63), ("effort", 1))),
}
_MEANS = {Format.JPEG: 1.0, Format.WEBP: 0.75, Format.AVIF: 1.0}
"""Highest mean ratio of a final's bytes to those of plain libvips (issue 16)."""
_STAGES = ("plain", "draft", "final")


@dataclass(frozen=True, slots=True)
class _Graphic:
    """A graphic in one format, at each stage."""

    name: str
    format: Format
    stages: Mapping[str, Scored]

    def ratio(self, stage: str) -> float:
        """Return the bytes of a stage relative to those of plain libvips."""
        return self.stages[stage].bytes / self.stages["plain"].bytes

    def loss(self) -> float:
        """Return how many points of SSIMULACRA2 the final loses against plain libvips."""
        return self.stages["plain"].score - self.stages["final"].score

    def __str__(self) -> str:
        return f"{self.format} {self.name}: " + ", ".join(
            f"{name} {one.bytes / 1000:.1f} KB at {one.score:.1f}"
            for name, one in self.stages.items()
        )


def measure() -> Table:
    """Measure the ten graphics of `artwork`, and the ten of `more_artwork`."""
    with tempfile.TemporaryDirectory(prefix="smartserve-artwork-") as place:
        drawn = {
            "ten graphics": artwork.draw(Path(place)),
            "ten others": more_artwork.draw(Path(place)),
        }
        found = iter(_measured([path for paths in drawn.values() for path in paths]))
        return _table(
            {name: list(islice(found, len(paths) * len(_PLAIN))) for name, paths in drawn.items()}
        )


def _measured(paths: Sequence[Path]) -> list[_Graphic]:
    context, processes = multiprocessing.get_context("spawn"), len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="smartserve-scores-") as place:
        with ProcessPoolExecutor(processes, mp_context=context) as executor:
            batches = executor.map(_encodings, paths, repeat(Path(place)))
            made = [one for batch in batches for one in batch]
        scores = scored([encoding for encoding, _ in made])
    found = iter(Scored(size, one.score) for (_, size), one in zip(made, scores, strict=True))
    return [
        _Graphic(path.stem, fmt, {stage: next(found) for stage in _STAGES})
        for path in paths
        for fmt in _PLAIN
    ]


def _encodings(path: Path, place: Path) -> list[tuple[Encoding, int]]:
    configure()
    return list(_encoded(path, place))


def _encoded(path: Path, place: Path) -> Iterator[tuple[Encoding, int]]:
    """Yield what is compared with a graphic on white, and its bytes, in order of `_STAGES`."""
    stages, box = load_settings().encoders.stages(), studio.contain(_SIDE, _SIDE)
    page = pyvips.Image.new_from_buffer(studio.rendered(path, box=box), "").copy_memory()
    opaque = _on_white(page)
    (shown := place / path.name).write_bytes(opaque.pngsave_buffer(keep="none"))
    for fmt, plain in _PLAIN.items():
        draft, final = stages[fmt].draft, stages[fmt].final
        for encoded in (
            encode(opaque if fmt is Format.JPEG else page, plain),
            studio.rendered(path, draft.profile, box=box),
            studio.rendered(path, final.profile, box=box, search=final.search),
        ):
            yield Encoding(shown, _opaque(encoded)), len(encoded)


def _on_white(image: Any) -> Any:
    # An AVIF of 10 bits is decoded to 16, of which 255 is nearly black.
    shown = image.colourspace("srgb")
    return shown.flatten(background=255) if shown.hasalpha() else shown


def _opaque(encoded: bytes) -> bytes:
    shown: bytes = _on_white(pyvips.Image.new_from_buffer(encoded, "")).pngsave_buffer(keep="none")
    return shown


def _table(sets: Mapping[str, Sequence[_Graphic]]) -> Table:
    found = list(chain.from_iterable(sets.values()))
    return Table(
        f"kilobytes of graphics in {_SIDE} pixels; ratio: to plain libvips at imgproxy's settings, "
        f"for each of {len(found) // len(_PLAIN)} graphics",
        [row for fmt in _PLAIN for row in _rows(fmt, _of_format(fmt, sets))],
        [str(one) for one in found],
    )


def _of_format(
    fmt: Format, sets: Mapping[str, Sequence[_Graphic]]
) -> Mapping[str, Sequence[_Graphic]]:
    return {name: [one for one in found if one.format is fmt] for name, found in sets.items()}


def _rows(fmt: Format, sets: Mapping[str, Sequence[_Graphic]]) -> Iterator[Row]:
    found = list(chain.from_iterable(sets.values()))
    plain = [one.stages["plain"].bytes / 1000 for one in found]
    for stage in ("draft", "final"):
        figures = [one.stages[stage].bytes / 1000 for one in found]
        mean = fmean(one.ratio(stage) for one in found)
        yield Row(f"{fmt}: {stage}s", figures, yardstick=plain, remark=f"mean ratio {mean:.3f}")
    for name, graphics in sets.items():
        mean = fmean(one.ratio("final") for one in graphics)
        yield Row(f"{fmt}: mean ratio of {name}", [mean], [1.0], limit=_MEANS[fmt])
    worst = max(found, key=lambda one: one.ratio("final"))
    yield Row(f"{fmt}: largest ratio", [worst.ratio("final")], [1.0], limit=1.0, remark=worst.name)
    worst = max(found, key=_Graphic.loss)
    yield Row(
        f"{fmt}: highest loss of SSIMULACRA2", [worst.loss()], [1.0], limit=0.0, remark=worst.name
    )


if __name__ == "__main__":
    measured = _measured(sorted(Path(sys.argv[1]).glob("*.png")))
    print(_table({"all": measured}).text())
