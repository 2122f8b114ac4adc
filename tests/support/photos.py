"""The real photographs that tests read; a test without them is skipped, or fails in CI."""

from __future__ import annotations

from pathlib import Path

from tests.support.unavailable import unavailable

SHARED = Path(__file__).resolve().parents[3] / "shared"
PHOTOS = SHARED / "photos"
NAMES = (
    "alpha-2048.png",
    "animated.gif",
    "animated.webp",
    "cmyk.jpg",
    "corrupt-header.jpg",
    "display-p3.png",
    "drawing-alpha.png",
    "exif-orientation-5.jpg",
    "exif-orientation-6.jpg",
    "flag.png",
    "flowers.jpg",
    "gain-map.jpg",
    "giant.jpg",
    "grey16-alpha.png",
    "icon.svg",
    "kodak-03.png",
    "kodak-05.png",
    "kodak-13.png",
    "kodak-15.png",
    "kodak-20.png",
    "kodak-23.png",
    "low-contrast.jpg",
    "photo-6mp.jpg",
    "photo.avif",
    "photo.webp",
    "prophoto.png",
    "scan.tiff",
    "truncated.jpg",
)


def photo(name: str) -> Path:
    """Return the path of a photograph; skip the test without it, or fail if ``CI`` is set."""
    return _existing(PHOTOS / name)


def case(name: str) -> Path:
    """Return the path of a file that once came out wrong; as `photo`."""
    return _existing(SHARED / "cases" / name)


def _existing(path: Path) -> Path:
    if not path.exists():
        unavailable(f"{path} is missing: this test needs the shared pictures")
    return path
