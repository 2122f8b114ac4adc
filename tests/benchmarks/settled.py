"""Bytes at equal quality: smartserve's finals against the renditions of its peers.

Each peer renders the photographs at several qualities. Its bytes at the SSIMULACRA2 of smartserve's
rendition are interpolated. libvips with the settings of imgproxy stands in for imgproxy, if that
cannot be run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile
from proxy.settings import load_settings
from tests.benchmarks import plot
from tests.benchmarks.client import get
from tests.benchmarks.originals import imported, kodak
from tests.benchmarks.peers import IMGPROXY, Running, Wanted, all_running
from tests.benchmarks.report import Row, Table, against_best, format_text
from tests.benchmarks.scores import Encoding, Scored, bytes_at, scored
from tests.benchmarks.servers import Unmeasurable, smartserve
from tests.benchmarks.settling import settle

LIMIT = 0.90
"""Of imgproxy's AVIF bytes at equal SSIMULACRA2 (issue 3, "Done when"; the aim is 0.85)."""
TOLERANCE = 3
"""Points by which an image may miss the target."""

_FORMATS = (Format.AVIF, Format.WEBP, Format.JPEG)
_SIDE = 1200
"""Of the box; the photographs are smaller and keep their size."""
_MEDIA_TYPES = {fmt: f"image/{fmt}" for fmt in _FORMATS}
_SETTINGS = {"UPGRADES__ALL_SIZES": "false"}
"""Other sizes are not rendered, because they are not measured."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A way to encode at several qualities, of which one is the default."""

    name: str
    format: Format
    qualities: Sequence[int]
    default: int
    how: Callable[[Path, int], EncoderProfile | bytes]
    """Returns the rendition of a photograph at a quality, or how libvips makes it."""
    limit: float | None = None


_IMGPROXYS: Mapping[Format, tuple[Mapping[str, int], Sequence[int], int, float | None]] = {
    Format.AVIF: ({"effort": 1, "bitdepth": 8}, (50, 57, 63, 70), 63, LIMIT),
    Format.WEBP: ({"effort": 4}, (75, 79, 86), 79, None),
    Format.JPEG: ({}, (67, 75, 80), 80, None),
}
"""Its options of libvips, qualities, default quality, and our limit."""
_DEFAULTS: Mapping[str, Mapping[Format, int]] = {
    "imgproxy": {Format.AVIF: 63, Format.WEBP: 79, Format.JPEG: 80},
    "imagor": {Format.AVIF: 50, Format.WEBP: 75, Format.JPEG: 75},
    "thumbor": {Format.AVIF: 80, Format.WEBP: 80, Format.JPEG: 80},
    "IPX": {Format.AVIF: 50, Format.WEBP: 80, Format.JPEG: 80},
}
_AROUND = (-10, 0, 8)
"""The qualities of a peer relative to its default."""

Ours = Mapping[Format, Sequence[Scored]]
"""Smartserve's renditions, in order of the images."""
Curves = Sequence[Sequence[Scored]]
"""For each image the encoder's bytes and scores, in order of its qualities."""


def measure() -> Table:
    """Measure bytes relative to each encoder's at equal SSIMULACRA2, for each photograph."""
    pictures = kodak()
    bodies = _settled(pictures)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-bytes-")))
        (originals := place / "originals").mkdir()
        for path in pictures:
            shutil.copy(path, originals)
        processes = len(os.sched_getaffinity(0))
        peers, missing = stack.enter_context(all_running(place, originals, processes=processes))
        encoders = list(_encoders(peers))
        wanted = [
            *(Encoding(path, body) for fmt in _FORMATS for path, body in bodies[fmt]),
            *(
                Encoding(path, encoder.how(path, quality))
                for encoder in encoders
                for path in pictures
                for quality in encoder.qualities
            ),
        ]
    found = iter(scored(wanted))
    ours = {fmt: [next(found) for _ in pictures] for fmt in _FORMATS}
    curves = [[[next(found) for _ in encoder.qualities] for _ in pictures] for encoder in encoders]
    return _table(pictures, ours, encoders, curves, missing)


def _encoders(peers: Sequence[Running]) -> Iterator[Encoder]:
    for fmt in _FORMATS:
        if not any(running.peer is IMGPROXY for running in peers):
            yield _imgproxys(fmt)
        for running in peers:
            default = _DEFAULTS[running.peer.name][fmt]
            qualities = [default + step for step in _AROUND]
            yield Encoder(running.peer.name, fmt, qualities, default, _renders(running, fmt))


def _imgproxys(fmt: Format) -> Encoder:
    options, qualities, default, limit = _IMGPROXYS[fmt]

    def how(_path: Path, quality: int) -> EncoderProfile:
        return EncoderProfile(fmt, tuple(sorted({**options, "Q": quality}.items())))

    return Encoder("libvips with imgproxy's settings", fmt, qualities, default, how, limit)


def _renders(running: Running, fmt: Format) -> Callable[[Path, int], bytes]:
    def how(path: Path, quality: int) -> bytes:
        wanted = Wanted(fmt, _SIDE, quality=quality)
        return get(running.address, running.peer.target(path.name, wanted)).body

    return how


def _settled(pictures: Sequence[Path]) -> dict[Format, list[tuple[Path, bytes]]]:
    """Return the server's final of each image in each format."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-bytes-")))
        ids = imported(pictures, place / "data")
        server = stack.enter_context(smartserve(place / "data", settings=_SETTINGS))
        targets = [f"/serve/{one}?size=detail&format={fmt}" for fmt in _FORMATS for one in ids]
        answers = iter(settle(server.address, targets))
        given = {fmt: [(path, next(answers)) for path in pictures] for fmt in _FORMATS}
    for fmt, pairs in given.items():
        types = {answer.headers["content-type"] for _, answer in pairs}
        if types != {_MEDIA_TYPES[fmt]}:
            raise Unmeasurable(f"{fmt} was answered with {types}")
    return {fmt: [(path, one.body) for path, one in pairs] for fmt, pairs in given.items()}


def _table(
    pictures: Sequence[Path],
    ours: Ours,
    encoders: Sequence[Encoder],
    curves: Sequence[Curves],
    missing: Sequence[str],
) -> Table:
    target = load_settings().encoders.target
    pairs = list(zip(encoders, curves, strict=True))
    equal = [_equal(ours[encoder.format], curve) for encoder, curve in pairs]
    return Table(
        "kilobytes of smartserve's finals; ratio: to those of the encoder named at the same "
        f"SSIMULACRA2, for each of {len(pictures)} photographs of 768 x 512",
        [
            *(
                Row(
                    f"{encoder.format}: {encoder.name}",
                    _kilobytes(ours[encoder.format]),
                    yardstick=theirs,
                    limit=encoder.limit,
                )
                for encoder, theirs in zip(encoders, equal, strict=True)
            ),
            *(_worst(fmt, pictures, ours[fmt], target) for fmt in _FORMATS),
        ],
        [
            f"smartserve searches the quality for an SSIMULACRA2 of {target:g} as it estimates it.",
            *(f"smartserve, {fmt}: {_summary(ours[fmt])}." for fmt in _FORMATS),
            *(_at_default(encoder, curve) for encoder, curve in pairs),
            *missing,
        ],
        plot.drawn(_lines(ours, pairs)),
        [
            one
            for fmt in _FORMATS
            for one in against_best(
                f"KB of a final {format_text(fmt)} at equal SSIMULACRA2",
                _kilobytes(ours[fmt]),
                {
                    encoder.name: theirs
                    for encoder, theirs in zip(encoders, equal, strict=True)
                    if encoder.format is fmt
                },
                low=True,
                worse="larger",
            )
        ],
    )


def _kilobytes(found: Sequence[Scored]) -> list[float]:
    return [one.bytes / 1000 for one in found]


def _equal(ours: Sequence[Scored], curves: Curves) -> list[float]:
    """Return the kilobytes of an encoder at the scores of our renditions."""
    return [bytes_at(one.score, curve) / 1000 for one, curve in zip(ours, curves, strict=True)]


def _worst(fmt: Format, pictures: Sequence[Path], ours: Sequence[Scored], target: float) -> Row:
    """Compare the score of the worst image with the lowest that is allowed."""
    score, name = min((one.score, path.stem) for path, one in zip(pictures, ours, strict=True))
    least = target - TOLERANCE
    return Row(
        f"{fmt}: SSIMULACRA2 of the worst picture, to {least:g}",
        [score],
        yardstick=[least],
        target=1.0,
        remark=f"{name}; " + " ".join(f"{one.score:.1f}" for one in ours),
    )


def _at_default(encoder: Encoder, curve: Curves) -> str:
    """Return the result of the encoder's default quality."""
    at = list(encoder.qualities).index(encoder.default)
    found = _summary([one[at] for one in curve])
    return f"{encoder.name}, {encoder.format} Q{encoder.default}: {found}."


def _summary(found: Sequence[Scored]) -> str:
    kilobytes = fmean(one.bytes for one in found) / 1000
    return f"{kilobytes:.1f} KB at {fmean(one.score for one in found):.1f}"


def _lines(ours: Ours, pairs: Sequence[tuple[Encoder, Curves]]) -> list[plot.Line]:
    """Return means over the images: a point per quality, and one for smartserve."""
    own = [plot.Line(fmt, "smartserve", [_mean(found)]) for fmt, found in ours.items()]
    theirs = [
        plot.Line(
            encoder.format,
            encoder.name,
            [_mean([one[at] for one in curve]) for at in range(len(encoder.qualities))],
        )
        for encoder, curve in pairs
    ]
    return [*theirs, *own]


def _mean(found: Sequence[Scored]) -> tuple[float, float]:
    return fmean(one.score for one in found), fmean(one.bytes for one in found) / 1000
