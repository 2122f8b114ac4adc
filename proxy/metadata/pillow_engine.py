"""The fallback engine: Pillow, in the confined worker. It reads EXIF, and what the walk has read.

The tags have exiftool's groups and names, so that an answer keeps its shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any, BinaryIO

import PIL
from PIL import ExifTags, Image, UnidentifiedImageError

from proxy.metadata.container.result import TextEntry, Walk
from proxy.metadata.generation import stealth
from proxy.metadata.tags import Groups, add_tag

VERSION = PIL.__version__

_GROUPS: Mapping[int | None, str] = {
    None: "IFD0",
    ExifTags.IFD.Exif: "ExifIFD",
    ExifTags.IFD.GPSInfo: "GPS",
    ExifTags.IFD.Interop: "InteropIFD",
}
_NAMES: Mapping[str, str] = {
    "DateTime": "ModifyDate",
    "DateTimeDigitized": "CreateDate",
    "ISOSpeedRatings": "ISO",
    "PhotographicSensitivity": "ISO",
    "OffsetTimeDigitized": "OffsetTimeDigitized",
    "SubsecTimeOriginal": "SubSecTimeOriginal",
    "BodySerialNumber": "SerialNumber",
}
"""Names of tags that exiftool calls differently."""
_LOSSLESS = frozenset({"png", "webp"})
MAX_PIXELS = 40_000_000
"""Of an image that is decoded for `hidden_text`; twice their memory is needed."""
_POINTERS = frozenset(one.value for one in ExifTags.IFD)
FAILURES = (
    *(OSError, ValueError, SyntaxError, TypeError, KeyError, AttributeError, EOFError),
    RuntimeError,  # of the decoder of AVIF
)
"""What Pillow raises for damaged files, besides its own error."""


class NoEngineCouldRead(Exception):
    """Neither exiftool nor Pillow could read the file; the text is a sentence for clients."""


def load_plugins() -> None:
    """Load all decoders and silence them: later, in the sandbox, no module can be imported."""
    Image.init()
    # A file over the limit of pixels gets a warning by default; no pixel is decoded here.
    Image.MAX_IMAGE_PIXELS = None
    # Damaged files cause warnings. What this process prints is a warning in the server's log, which
    # clients could fill with them.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def sample() -> bytes:
    """Return a small JPEG with EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "sample"
    buffer = BytesIO()
    Image.new("L", (1, 1)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def read(file: BinaryIO, walk: Walk) -> Groups:
    """Return the tags of a file.

    Raises:
        NoEngineCouldRead: Pillow cannot open it.
    """
    file.seek(0)
    try:
        with Image.open(file) as image:
            groups: Groups = {"File": {"ImageWidth": image.width, "ImageHeight": image.height}}
            exif = image.getexif()
            for directory, group in _GROUPS.items():
                tags = exif if directory is None else exif.get_ifd(directory)
                if found := _named(tags, ExifTags.GPSTAGS if group == "GPS" else ExifTags.TAGS):
                    groups[group] = found
    except (UnidentifiedImageError, Image.DecompressionBombError, *FAILURES) as error:
        raise NoEngineCouldRead("No engine could read the file.") from error
    _add(groups, walk.xmp)
    _add(groups, walk.iptc, group="IPTC")
    _add(groups, (one for one in walk.texts if one.where.startswith("PNG ")), group="PNG")
    _add_position(groups)
    return groups


def no_pixels(walk: Walk) -> str:
    """Return why `hidden_text` does not decode an image; empty if it does."""
    if walk.format not in _LOSSLESS:
        return "text in pixels is lost by the compression of this format"
    size = (walk.image.width or 0) * (walk.image.height or 0)
    return "" if 0 < size <= MAX_PIXELS else "the image is too large to be decoded"


def hidden_text(file: BinaryIO, walk: Walk) -> str | None:
    """Return the text that a generator has hidden in the pixels, if there is one."""
    if no_pixels(walk):
        return None
    file.seek(0)
    try:
        with Image.open(file) as image:
            if image.mode not in ("RGB", "RGBA"):
                return None
            # Rows of the transposed image are the columns.
            turned = image.transpose(Image.Transpose.TRANSPOSE)
    except (UnidentifiedImageError, Image.DecompressionBombError, MemoryError, *FAILURES):
        return None
    rows = (turned.crop((0, row, turned.width, row + 1)).tobytes() for row in range(turned.height))
    return stealth.read(rows, len(turned.mode))


def _named(tags: Mapping[int, Any], names: Mapping[int, str]) -> dict[str, Any]:
    found = {}
    for number, value in tags.items():
        if number not in _POINTERS:
            name = names.get(number, f"Exif_0x{number:04x}")
            found[_NAMES.get(name, name)] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        text = value.rstrip(b"\0")
        printable = text.isascii() and text.decode("ascii").isprintable()
        return text.decode("ascii") if printable else f"(Binary data {len(value)} bytes)"
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, int | str):
        return value
    try:
        # A rational number; infinite if its denominator is 0.
        return float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return str(value)


def _add(groups: Groups, entries: Iterable[TextEntry], *, group: str | None = None) -> None:
    """Add what the walk has read; repeated names get exiftool's prefix of a copy."""
    for entry in entries:
        prefix, _, name = entry.keyword.rpartition(":")
        add_tag(groups.setdefault(group or f"XMP-{prefix}", {}), name, entry.text)


def _add_position(groups: Groups) -> None:
    """Add signed degrees, as exiftool computes them."""
    gps = groups.get("GPS", {})
    for name, negative in (("GPSLatitude", "S"), ("GPSLongitude", "W")):
        parts = gps.get(name)
        if isinstance(parts, list) and parts and all(isinstance(one, float) for one in parts):
            degrees = sum(float(one) / 60**index for index, one in enumerate(parts))
            sign = -1 if gps.get(f"{name}Ref") == negative else 1
            groups.setdefault("Composite", {})[name] = sign * degrees
    altitude = gps.get("GPSAltitude")
    if isinstance(altitude, float):
        below = str(gps.get("GPSAltitudeRef")) in ("1", "\x01")
        groups.setdefault("Composite", {})["GPSAltitude"] = -altitude if below else altitude
