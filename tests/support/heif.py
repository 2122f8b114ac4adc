"""HEIC files as other programs write them: heif-enc, of Debian's libheif-examples."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image

from tests.support.unavailable import unavailable


def encoded_heic(
    *images: Image.Image | np.ndarray[Any, Any], options: tuple[str, ...] = ()
) -> bytes:
    """Encode images, of which the first is the primary one; arrays have 16 bits.

    Without the program the test is skipped, or fails if ``CI`` is set.
    """
    pytest.importorskip("pi_heif")
    program = shutil.which("heif-enc")
    if program is None:
        unavailable("heif-enc is not installed: install libheif-examples, or run make test-all")
    with TemporaryDirectory() as directory:
        target = Path(directory) / "made.heic"
        files = [Path(directory) / f"{number}.png" for number in range(len(images))]
        for path, image in zip(files, images, strict=True):
            path.write_bytes(_png(image))
        command = [program, *options, "-o", str(target), *map(str, files)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return target.read_bytes()


def _png(image: Image.Image | np.ndarray[Any, Any]) -> bytes:
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()
    # Pillow writes no colours of 16 bits.
    page = pyvips.Image.new_from_array(image, interpretation="rgb16").cast("ushort")
    written: bytes = page.copy(interpretation="rgb16").write_to_buffer(".png")
    return written
