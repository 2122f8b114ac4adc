"""Calibrate our SSIMULACRA2 estimate against the package ``ssimulacra2``; not run by the suite.

``python -m tests.rendering.worker.imaging.calibrate`` takes some ten minutes on one core. It
prints the gain and the power that stand in the module, and the error with each picture left out
of its own calibration.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from proxy.rendering.worker.imaging import ssimulacra2
from proxy.rendering.worker.imaging.libvips import configure
from tests.support.photos import PHOTOS

KODAK = ("03", "05", "13", "15", "20", "23")
PICTURES = (
    *((f"kodak-{number}.png", side) for number in KODAK for side in (300, 500, 768)),
    ("flowers.jpg", 1200),
    ("photo-6mp.jpg", 1200),
    ("photo.webp", 1000),
)
AVIF = {"compression": "av1"}
TRELLIS = {"trellis_quant": True, "quant_table": 3, "interlace": True, "optimize_coding": True}
ENCODERS: tuple[tuple[str, dict[str, Any], tuple[int, ...]], ...] = (
    ("heifsave", {**AVIF, "effort": 1}, (30, 45, 55, 65, 75, 85)),
    ("heifsave", {**AVIF, "effort": 3, "tune": "iq", "bitdepth": 10}, (40, 60, 75)),
    ("webpsave", {"effort": 4}, (30, 50, 70, 80, 90)),
    ("webpsave", {"effort": 4, "smart_subsample": True}, (60, 85)),
    ("jpegsave", {}, (35, 55, 70, 80, 90)),
    ("jpegsave", TRELLIS, (60, 85)),
)
LEAST_SIDE = 256
"""Below, the package would shift its weights; see the module."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """One encoding of one picture."""

    name: str
    side: int
    encoder: str
    estimate: float
    truth: float


def true_score(picture: Any, decoded: Any) -> float:
    """SSIMULACRA2 of two libvips images, by the package, on their mirrored extension if small."""
    package: Any = importlib.import_module("ssimulacra2")
    ours, theirs = (io.BytesIO(_png(_extended(image))) for image in (picture, decoded))
    return float(package.compute_ssimulacra2(ours, theirs))


def samples() -> Iterator[Sample]:
    """Encode every picture in every way and score it twice."""
    for name, side in PICTURES:
        path = str(PHOTOS / name)
        picture = pyvips.Image.thumbnail(path, side, height=side, size="down")
        picture = picture.colourspace("srgb").copy_memory()
        reference = ssimulacra2.Reference(picture)
        for encoder, decoded in _encodings(picture):
            estimate = reference.compare(decoded).score
            yield Sample(name, side, encoder, estimate, true_score(picture, decoded))


def fit(raw: Floats, truth: Floats) -> tuple[float, float]:
    """Gain and power of ``100 - truth = gain * (100 - raw) ** power``, by least squares of logs."""
    power, gain = np.polyfit(np.log(100 - raw), np.log(100 - truth), 1)
    return float(np.exp(gain)), float(power)


def left_out(names: NDArray[np.str_], raw: Floats, truth: Floats) -> Floats:
    """Errors in points, each picture estimated with what was fitted on all the others."""
    errors = np.zeros_like(raw)
    for name in np.unique(names):
        own = names == name
        gain, power = fit(raw[~own], truth[~own])
        errors[own] = 100 - gain * (100 - raw[own]) ** power - truth[own]
    return errors


def main() -> None:
    """Print the calibration and its error."""
    configure()
    found = []
    for sample in samples():
        found.append(sample)
        print(*vars(sample).values(), flush=True)  # noqa: T201 - it is for reading
    names = np.array([sample.name for sample in found])
    truth = np.array([sample.truth for sample in found])
    estimates = np.array([sample.estimate for sample in found])
    raw = 100 - ((100 - estimates) / ssimulacra2._GAIN) ** (1 / ssimulacra2._POWER)
    errors = np.abs(left_out(names, raw, truth))
    gain, power = fit(raw, truth)
    print(f"gain {gain:.5f}, power {power:.5f}")  # noqa: T201
    print(f"left out: mean {errors.mean():.3f}, worst {errors.max():.3f}")  # noqa: T201


def _encodings(picture: Any) -> Iterator[tuple[str, Any]]:
    for saver, options, qualities in ENCODERS:
        for chosen in qualities:
            encoded = pyvips.Operation.call(f"{saver}_buffer", picture, Q=chosen, **options)
            decoded = pyvips.Image.new_from_buffer(encoded, "").colourspace("srgb").copy_memory()
            yield f"{saver} {chosen}", decoded


def _extended(image: Any) -> Any:
    width, height = max(image.width, LEAST_SIDE), max(image.height, LEAST_SIDE)
    left, top = (width - image.width) // 2, (height - image.height) // 2
    return image.embed(left, top, width, height, extend="mirror")


def _png(image: Any) -> bytes:
    encoded: bytes = image.pngsave_buffer(compression=1, keep=0)
    return encoded


if __name__ == "__main__":
    main()
