"""Helpers of the analysis tests: analyse bytes, and degrade a photograph in steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from proxy.domain.analysis import AnalysisResult
from proxy.domain.worker_protocol import AnalyseJob, JobFailure
from proxy.rendering.worker.imaging.analysis.analyse import analyse
from proxy.rendering.worker.imaging.libvips import answered
from tests.rendering.worker.imaging import studio
from tests.support.memory_files import memory_file
from tests.support.photos import photo

PHOTOGRAPHS = ("kodak-03.png", "kodak-05.png", "kodak-15.png", "kodak-23.png", "photo-6mp.jpg")
Picture = Image.Image


def attempted(source: studio.Source) -> AnalysisResult | JobFailure:
    """What an analysis says."""
    with memory_file(source) as opened:
        return answered(partial(analyse, AnalyseJob(studio.LIMITS), opened))


def analysed(source: studio.Source | Picture) -> AnalysisResult:
    """The analysis of a source that has one."""
    found = attempted(_png(source) if isinstance(source, Image.Image) else source)
    assert isinstance(found, AnalysisResult), found
    return found


@cache
def photograph(name: str) -> Picture:
    """A photograph of the shared ones, at most 768 pixels wide."""
    picture = Image.open(photo(name)).convert("RGB")
    picture.thumbnail((768, 768))
    return picture


@cache
def original(name: str) -> AnalysisResult:
    """The analysis of a photograph as it is."""
    return analysed(photograph(name))


def blurred(picture: Picture, sigma: float) -> bytes:
    """Through a lens that is out of focus, in pixels."""
    return _png(picture.filter(ImageFilter.GaussianBlur(sigma)))


def noisy(picture: Picture, sigma: float) -> bytes:
    """With white noise of a standard deviation in levels."""
    noise = np.random.default_rng(1).normal(size=(picture.height, picture.width, 3))
    return _saved(_levels(picture) + sigma * noise)


def stretched(picture: Picture, gain: float) -> bytes:
    """With its contrast raised or lowered; what leaves the range is clipped."""
    return _saved((_levels(picture) - 128) * gain + 128)


def overexposed(picture: Picture, gain: float) -> bytes:
    """With more light than there is room for."""
    return _saved(_levels(picture) * gain)


def compressed(picture: Picture, quality: float) -> bytes:
    """As a JPEG."""
    return studio.saved(picture, "JPEG", quality=int(quality))


SPOILT: Mapping[str, tuple[Callable[[Picture, float], bytes], tuple[float, ...], str]] = {
    "blur": (blurred, (1, 1.7, 3, 5), "sharpness"),
    "noise": (noisy, (6, 12, 24, 48), "noise"),
    "clipping": (stretched, (1.3, 1.6, 2, 3), "exposure"),
    "light": (overexposed, (1.4, 1.8, 2.5, 4), "exposure"),
    "JPEG loss": (compressed, (40, 20, 10, 4), "blockiness"),
}
"""How a picture is spoilt, ever more, and the part of its quality that says so."""


def page(*, noise: float = 0) -> Picture:
    """A sheet of typed paper, as scanned."""
    picture = Image.new("RGB", (1240, 1754), (246, 244, 238))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(28)
    for line in range(40):
        text = "The quick brown fox jumps over the lazy dog, and then again"
        draw.text((100, 100 + line * 38), text, fill=(20, 20, 20), font=font)
    levels = _levels(picture)
    return _picture(levels + np.random.default_rng(0).normal(size=levels.shape) * noise)


def screen() -> Picture:
    """A page as a browser shows it."""
    picture = Image.new("RGB", (1280, 800), (245, 245, 247))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 1280, 60), fill=(36, 41, 47))
    draw.rectangle((0, 60, 240, 800), fill=(230, 232, 236))
    for card in range(3):
        left = 280 + card * 320
        draw.rectangle((left, 120, left + 280, 400), fill=(255, 255, 255), outline=(200, 200, 210))
        draw.rectangle((left + 20, 340, left + 120, 380), fill=(9, 105, 218))
    return picture


def on_white(picture: Picture) -> Picture:
    """A picture in the middle of a white sheet, as wares are shown."""
    sheet = Image.new("RGB", (picture.width * 3 // 2, picture.height * 2), "white")
    sheet.paste(picture, (picture.width // 4, picture.height // 2))
    return sheet


def _levels(picture: Picture) -> NDArray[np.float64]:
    return np.asarray(picture).astype(np.float64)


def _picture(levels: NDArray[np.float64]) -> Picture:
    return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))


def _saved(levels: NDArray[np.float64]) -> bytes:
    return _png(_picture(levels))


def _png(picture: Picture) -> bytes:
    """Packed quickly: most of the time of these tests would go into it."""
    return studio.saved(picture, compress_level=1)


Pixel = Callable[[int, int], list[int]]


def ramp(x: int, y: int) -> list[int]:
    """A pixel of an opaque gradient."""
    return [x * 7 + y * 3, x * 2 + y * 11, x * y, 255]


def clear_ramp(x: int, y: int) -> list[int]:
    """A pixel of a gradient with varying alpha."""
    return [x * 5 + y, 200 - x * 3, y * 9, x * 13 + y * 7]


def blue(_x: int, _y: int) -> list[int]:
    """An opaque blue pixel."""
    return [30, 144, 255, 255]


def waves(x: int, y: int) -> list[int]:
    """A pixel of a pattern, transparent below the diagonal."""
    return [(x * x + y) % 251, (y * y + 3 * x) % 241, (x * y + 17) % 239, 255 if x > y else 0]


def nothing(_x: int, _y: int) -> list[int]:
    """A transparent pixel."""
    return [0, 0, 0, 0]


def drawn(width: int, height: int, pixel: Pixel, bands: int = 4) -> bytes:
    """Pixels row by row, as bytes."""
    return bytes(
        level & 255 for y in range(height) for x in range(width) for level in pixel(x, y)[:bands]
    )


def stripes(*shares: tuple[tuple[int, int, int], int]) -> Image.Image:
    """Vertical stripes, each with a colour and a width in pixels."""
    picture = Image.new("RGB", (sum(width for _, width in shares), 300))
    left = 0
    for colour, width in shares:
        ImageDraw.Draw(picture).rectangle((left, 0, left + width, 300), fill=colour)
        left += width
    return picture


def image_of(levels: NDArray[np.floating[Any]]) -> Any:
    """A one-band image of 8 bits."""
    height, width = levels.shape
    raw = levels.clip(0, 255).round().astype(np.uint8).tobytes()
    return pyvips.Image.new_from_memory(raw, width, height, 1, "uchar")
