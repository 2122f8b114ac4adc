"""The thumbnail that a camera has embedded, and how much it differs from the image."""

from __future__ import annotations

from io import BytesIO
from typing import Any, BinaryIO

from PIL import ExifTags, Image, ImageStat

from proxy.domain.perceptual_hash import PerceptualHash
from proxy.metadata.container.result import BlockKind, Walk
from proxy.metadata.pillow_engine import FAILURES, MAX_PIXELS
from proxy.metadata.tags import Groups
from proxy.rendering.worker.imaging.analysis.hashes import PHASH_SIDE, phash

_MAX_JPEG_PIXELS = 100_000_000
"""Largest JPEG that is decoded. Pillow decodes it at an eighth of its width and height."""
_DECODED = frozenset({"jpeg", "png", "webp"})
_MIN_SIDE = 256
_NAMES = ("ThumbnailImage", "PhotoshopThumbnail", "PhotoshopBGRThumbnail", "ThumbnailTIFF")
_START, _LENGTH = 0x0201, 0x0202
_DARK = 24
"""Mean level up to which the bars beside a thumbnail of another shape are black."""


def thumbnail_of(file: BinaryIO, walk: Walk, groups: Groups) -> tuple[dict[str, Any], str]:
    """Return whether there is a thumbnail and its distance, and why the distance is None.

    The distance is that of the perceptual hashes, 0 to 1; rotated and mirrored copies have a small
    one. See `proxy.domain.perceptual_hash.MAX_DISTANCE`.
    """
    content = _embedded(walk)
    if content is None and not _is_tagged(groups):
        return {"present": False, "distance": None}, "the file has no thumbnail"
    distance, reason = None, "only thumbnails in EXIF are compared"
    if content is not None:
        distance, reason = _distance(file, walk, content)
    return {"present": True, "distance": distance}, reason


def _is_tagged(groups: Groups) -> bool:
    keys = (key.rpartition(":")[2] for tags in groups.values() for key in tags)
    return any(key.endswith(_NAMES) for key in keys)


def _embedded(walk: Walk) -> bytes | None:
    """Return the JPEG of the second directory of EXIF."""
    block = walk.block(BlockKind.EXIF)
    if block is None:
        return None
    content = block.content.removeprefix(b"Exif\0\0")
    try:
        exif = Image.Exif()
        exif.load(content)
        directory = exif.get_ifd(ExifTags.IFD.IFD1)
        start, length = int(directory[_START]), int(directory[_LENGTH])
    except (*FAILURES, MemoryError):
        return None
    found = content[start : start + length]
    return found if found.startswith(b"\xff\xd8") else None


def _distance(file: BinaryIO, walk: Walk, thumbnail: bytes) -> tuple[float | None, str]:
    if walk.format not in _DECODED:
        return None, "the pixels of this format are not decoded"
    pixels = (walk.image.width or 0) * (walk.image.height or 0)
    if not 0 < pixels <= (_MAX_JPEG_PIXELS if walk.format == "jpeg" else MAX_PIXELS):
        return None, "the image is too large to be decoded"
    try:
        file.seek(0)
        image = _grey(file)
        small = _grey(BytesIO(thumbnail))
        hashes = [_hash(image), *(_hash(one) for one in (small, _without_bars(small, image)))]
    except (Image.DecompressionBombError, MemoryError, *FAILURES):
        return None, "image or thumbnail cannot be decoded"
    own, *others = hashes
    if not own.mask:
        return None, "the image has too little structure to be compared"
    found = min(own.distance(turned) for one in others for turned in one.variants())
    return round(found, 3), ""


def _grey(file: BinaryIO) -> Image.Image:
    with Image.open(file) as image:
        # Has an effect on JPEG only: it is decoded at the smallest scale that is this large.
        image.draft("L", (_MIN_SIDE, _MIN_SIDE))
        return image.convert("L")


def _hash(image: Image.Image) -> PerceptualHash:
    side = PHASH_SIDE
    return phash(image.resize((side, side), Image.Resampling.BOX).tobytes())


def _without_bars(small: Image.Image, image: Image.Image) -> Image.Image:
    """Remove the black bars with which cameras fill a thumbnail of another shape."""
    width, height = small.size
    shape = image.width / image.height
    if (width - height) * (shape - 1) < 0:
        shape = 1 / shape  # one of the two is rotated
    across, down = min(width, round(height * shape)), min(height, round(width / shape))
    left, top = (width - across) // 2, (height - down) // 2
    bars = [
        box
        for box in (
            (0, 0, width, top),
            (0, height - top, width, height),
            (0, 0, left, height),
            (width - left, 0, width, height),
        )
        if box[0] < box[2] and box[1] < box[3]
    ]
    dark = (ImageStat.Stat(small.crop(box)).mean[0] <= _DARK for box in bars)
    if not across or not down or not bars or not all(dark):
        return small
    return small.crop((left, top, left + across, top + down))
