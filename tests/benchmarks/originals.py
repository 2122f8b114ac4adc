"""Photographs, large ones with the noise of a camera, and many copies of each.

Smartserve recognises equal content. A number in a comment makes each copy a separate original, so
each has to be rendered. The work for the decoder is the same.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyvips

from tests.benchmarks.peers import cache
from tests.benchmarks.servers import Unmeasurable, command, environment
from tests.support.server import SAMPLES

_PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "photos"
_PNG_START = 8 + 25
"""Signature and IHDR chunk."""
_JPEG_START = 2
"""SOI marker."""
_RECIPE = 2
"""A part of the names of cached files; to be raised with each change of `with_noise`."""
_TILE = 1021
"""Side of the noise that is repeated: an encoder works on much smaller blocks."""
_SAVING: dict[str, dict[str, Any]] = {
    "jpg": {"Q": 92},
    "png": {"compression": 1},
    "tif": {"compression": "none"},
}


def kodak() -> tuple[Path, ...]:
    """Return the six Kodak photographs, or those among the bundled samples."""
    for folder in (_PHOTOS, SAMPLES):
        if found := tuple(sorted(folder.glob("kodak-*"))):
            return found
    raise Unmeasurable("there are no photographs to render")


def large() -> tuple[Path, ...]:
    """Return photographs of 6 megapixels as JPEG, a real one first if it is there."""
    real = _PHOTOS / "photo-6mp.jpg"
    made = tuple(enlarged(photo, 3000, 2000) for photo in kodak()[:3])
    return (real, *made) if real.exists() else made


def huge() -> tuple[Path, ...]:
    """Return photographs of 24 megapixels as JPEG."""
    return tuple(enlarged(photo, 6000, 4000) for photo in kodak()[:2])


def enlarged(photo: Path, width: int, height: int, suffix: str = "jpg") -> Path:
    """Return a photograph cropped and enlarged, with the noise of a camera; made once per machine.

    An enlarged photograph alone is smooth: it would be decoded and encoded faster than a real one.
    """
    path = cache() / f"{photo.stem}-{width}x{height}-{_RECIPE}.{suffix}"
    if not path.exists():
        image = pyvips.Image.thumbnail(str(photo), width, height=height, crop="centre")
        noisy = with_noise(image.copy_memory())
        partial = path.with_suffix(f".{os.getpid()}.{suffix}")
        noisy.write_to_file(str(partial), **_SAVING[suffix])
        partial.rename(path)
    return path


def with_noise(image: Any) -> Any:
    """Return an sRGB image with noise like that of a camera at ISO 400, the same in each run.

    Its standard deviation falls from 5 levels in the shadows to 2 in the highlights. Noise of
    colour is coarser than that of brightness, because a sensor has fewer pixels of each colour.
    """
    width, height = image.width, image.height

    def gauss(seed: int, blur: float) -> Any:
        noise = pyvips.Image.gaussnoise(_TILE, _TILE, sigma=1, mean=0, seed=seed).gaussblur(blur)
        # Blurring takes most of the deviation away.
        tile = (noise * (1 / noise.deviate())).copy_memory()
        return tile.replicate(width // _TILE + 1, height // _TILE + 1).crop(0, 0, width, height)

    brightness = gauss(1, 0.5)
    colour = brightness.bandjoin([gauss(2, 1.0), gauss(3, 1.0)])
    mixed = colour.recomb([[0.9, 0.4, 0.0], [0.9, -0.2, -0.2], [0.9, 0.0, 0.4]])
    strength = image.linear(-3 / 255, 5)
    return (image + mixed * strength).rint().cast("uchar").copy(interpretation="srgb")


def imported(paths: Sequence[Path], data_dir: Path, config: Path | None = None) -> list[int]:
    """Import images that are all new; return their ids in the same order."""
    print(f"  importing {len(paths)} pictures", file=sys.stderr, flush=True)
    given: list[str | Path] = [] if config is None else ["--config", config]
    done = subprocess.run(
        command("import", "--json", *given, "--data-dir", data_dir, *paths),
        check=False,
        capture_output=True,
        env=environment(),
        text=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    ids = {line["path"]: line["id"] for line in lines if not line.get("known", True)}
    if done.returncode or set(ids) != set(map(str, paths)):
        raise Unmeasurable(f"{len(ids)} of {len(paths)} pictures imported: {done.stderr[-2000:]}")
    return [ids[str(path)] for path in paths]


def copies(photos: Sequence[Path], folder: Path, *, count: int) -> list[Path]:
    """Write numbered copies of the photographs, in turns; return their paths."""
    contents = [photo.read_bytes() for photo in photos]
    made = []
    for number in range(count):
        photo = photos[number % len(photos)]
        path = folder / f"{number:05d}-{photo.name}"
        path.write_bytes(_numbered(contents[number % len(photos)], number))
        made.append(path)
    return made


def _numbered(content: bytes, number: int) -> bytes:
    """Return the same image with a number in a comment."""
    text = f"copy {number}".encode()
    if content.startswith(b"\x89PNG"):
        kind_and_text = b"tEXtComment\0" + text
        checksum = struct.pack(">I", zlib.crc32(kind_and_text))
        comment = struct.pack(">I", len(kind_and_text) - 4) + kind_and_text + checksum
        return content[:_PNG_START] + comment + content[_PNG_START:]
    comment = b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text
    return content[:_JPEG_START] + comment + content[_JPEG_START:]
