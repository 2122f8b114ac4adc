"""The fallback engine: Pillow, in the confined worker. It reads EXIF, and what the walk has read.

The tags have exiftool's groups and names, so that an answer keeps its shape.
"""

from __future__ import annotations

import math
import re
import struct
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any, BinaryIO

import PIL
from PIL import ExifTags, Image, UnidentifiedImageError

from proxy.metadata.container.result import TextEntry, Walk
from proxy.metadata.exact_texts import add_xmp
from proxy.metadata.generation import stealth
from proxy.metadata.tags import Copies, Groups, add_tag

VERSION = PIL.__version__

_GROUPS: Mapping[int | None, str] = {
    None: "IFD0",
    ExifTags.IFD.Exif: "ExifIFD",
    ExifTags.IFD.GPSInfo: "GPS",
    ExifTags.IFD.Interop: "InteropIFD",
}
_NAMES: Mapping[str, str] = {
    "BodySerialNumber": "SerialNumber",
    "CameraOwnerName": "OwnerName",
    "DateTime": "ModifyDate",
    "DateTimeDigitized": "CreateDate",
    "ExposureBiasValue": "ExposureCompensation",
    "FlashPixVersion": "FlashpixVersion",
    "FocalLengthIn35mmFilm": "FocalLengthIn35mmFormat",
    "ISOSpeedRatings": "ISO",
    "ImageLength": "ImageHeight",
    "LensSpecification": "LensInfo",
    "NewSubfileType": "SubfileType",
    "PhotographicSensitivity": "ISO",
    "SubsecTime": "SubSecTime",
    "SubsecTimeDigitized": "SubSecTimeDigitized",
    "SubsecTimeOriginal": "SubSecTimeOriginal",
}
"""Names of tags that exiftool calls differently."""
_XP = ("Title", "Comment", "Author", "Keywords", "Subject")
_NAMES_IN_XMP: Mapping[str, str] = {
    "ISOSpeedRatings": "ISO",
    "GPSTimeStamp": "GPSDateTime",
    "PixelXDimension": "ExifImageWidth",
    "PixelYDimension": "ExifImageHeight",
}
_WALKED = frozenset({"UserComment", *(f"XP{one}" for one in _XP)})
"""Tags whose bytes are text that the walk has decoded, unless it is empty."""
_BYTES = frozenset(
    {
        *("GPSVersionID", "GPSAltitudeRef", "GPSDifferential"),
        *("ComponentsConfiguration", "FileSource", "SceneType", "CompositeImage"),
    }
)
"""Tags whose bytes are numbers."""
_COORDINATES = frozenset(
    {"GPSLatitude", "GPSLongitude", "GPSDestLatitude", "GPSDestLongitude"},
)
_SEXAGESIMAL = (1, 60, 3600)
_LEVELS, _BELOW = (0, 1, 2, 3), (1, 3)
"""Values of GPSAltitudeRef; those of EXIF 3.0 are relative to the sea, not to the ellipsoid."""
_COORDINATE = re.compile(
    r"(\d{1,3}),(\d{1,2}(?:\.\d{1,20})?)(?:,(\d{1,2}(?:\.\d{1,20})?))?([NSEW])", re.ASCII
)
_RATIONAL = re.compile(r"(-?\d{1,20})/(-?\d{1,20})", re.ASCII)
_IPTC_DATES = frozenset({"DateCreated", "DigitalCreationDate"})
_IPTC_TIMES = frozenset({"TimeCreated", "DigitalCreationTime"})
_IPTC_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)", re.ASCII)
_IPTC_TIME = re.compile(r"(\d\d)(\d\d)(\d\d)(?:([+-]\d\d)(\d\d))?", re.ASCII)
_METRES_OF_INCH = 0.0254
_RESOLUTION_INFO = 0x03ED
"""Image resource of Photoshop."""
_LOSSLESS = frozenset({"png", "webp"})
MAX_PIXELS = 40_000_000
"""Of an image that is decoded for `hidden_text`; twice their memory is needed."""
_POINTERS = frozenset(one.value for one in ExifTags.IFD)
FAILURES = (
    *(OSError, ValueError, SyntaxError, TypeError, LookupError, AttributeError, EOFError),
    *(struct.error, ArithmeticError, AssertionError),  # of directories of EXIF
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
            _add_density(groups, image)
            # The walk has warned of EXIF that cannot be read; the rest of the file can be.
            with suppress(*FAILURES):
                _add_exif(groups, image)
    except (UnidentifiedImageError, Image.DecompressionBombError, *FAILURES) as error:
        raise NoEngineCouldRead("No engine could read the file.") from error
    _add_exact(groups, walk)
    _add_xmp(groups, walk.xmp)
    _add_texts(groups, walk.iptc, "IPTC")
    _add_texts(groups, (one for one in walk.texts if one.where.startswith("PNG ")), "PNG")
    _add_position(groups)
    return groups


def _add_exif(groups: Groups, image: Image.Image) -> None:
    exif = image.getexif()
    for directory, group in _GROUPS.items():
        tags = exif if directory is None else exif.get_ifd(directory)
        if found := _named(tags, ExifTags.GPSTAGS if group == "GPS" else ExifTags.TAGS):
            groups[group] = found


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
            name = _NAMES.get(name, name)
            found[name] = _converted(name, value)
    return found


def _converted(name: str, value: Any) -> Any:
    """Return a value as exiftool prints it."""
    if isinstance(value, bytes) and name in _BYTES:
        return _joined(list(value))
    if name in _WALKED:
        return ""
    plain = _plain(value)
    if name in _COORDINATES:
        return "" if (degrees := _degrees(plain)) is None else degrees
    if name == "GPSTimeStamp":
        return _clock(plain)
    if isinstance(plain, float):
        return _from_apex(name, plain)
    return _joined(plain) if isinstance(plain, list) else plain


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        text = value.rstrip(b"\0")
        printable = text.isascii() and text.decode("ascii").isprintable()
        return text.decode("ascii") if printable else f"(Binary data {len(value)} bytes)"
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, str):
        return value.rstrip("\0")
    if isinstance(value, int):
        return value
    try:
        # A rational number; infinite, or none, if its denominator is 0.
        number = float(value)
        return "undef" if math.isnan(number) else number
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return str(value)


def _joined(values: list[Any]) -> Any:
    """Return one value, or several as exiftool prints them."""
    if len(values) == 1:
        return values[0]
    return " ".join(f"{one:.10g}" if isinstance(one, float) else str(one) for one in values)


def _from_apex(name: str, value: float) -> float:
    """Return the aperture or seconds of an APEX value (EXIF, annex C)."""
    try:
        if name in ("ApertureValue", "MaxApertureValue"):
            return float(2 ** (value / 2))
        return float(2**-value) if name == "ShutterSpeedValue" else value
    except OverflowError:
        return value


def _degrees(parts: Any) -> float | None:
    """Return degrees, minutes and seconds as degrees."""
    numbers = [parts] if isinstance(parts, float) else parts
    if not (isinstance(numbers, list) and 1 <= len(numbers) <= len(_SEXAGESIMAL)):
        return None
    # Cameras leave out seconds as 0/0, which is no number.
    known = [one for one in numbers if isinstance(one, float) and math.isfinite(one)]
    if not known or (len(known) < len(numbers) and known != numbers[: len(known)]):
        return None
    return sum(one / unit for one, unit in zip(known, _SEXAGESIMAL, strict=False))


def _clock(parts: Any) -> Any:
    """Return hours, minutes and seconds as a time."""
    numbers = parts if isinstance(parts, list) else []
    if len(numbers) != len(_SEXAGESIMAL) or not all(
        isinstance(one, float) and math.isfinite(one) for one in numbers
    ):
        return parts if isinstance(parts, str) else _joined(numbers or [parts])
    hours, minutes, seconds = numbers
    whole, fraction = divmod(round(seconds, 6), 1)
    tail = f"{fraction:.6f}"[1:].rstrip("0").rstrip(".")
    return f"{hours:02.0f}:{minutes:02.0f}:{whole:02.0f}{tail}"


def _add_exact(groups: Groups, walk: Walk) -> None:
    """Set the texts of EXIF that the walk has read; Pillow decodes neither UTF-16 nor UserComment.

    The first text of a name is that of the first EXIF block, which Pillow reads.
    """
    done: set[tuple[str, str]] = set()
    for one in walk.exif:
        if (one.where, one.keyword) not in done and not one.keyword.startswith("0x"):
            done.add((one.where, one.keyword))
            groups.setdefault(one.where, {})[one.keyword] = one.text


def _add_texts(groups: Groups, entries: Iterable[TextEntry], group: str) -> None:
    """Add what the walk has read; repeated names get exiftool's prefix of a copy."""
    copies: Copies = Counter()
    for entry in entries:
        name = entry.keyword
        text = entry.text
        if group == "IPTC" and (date := _IPTC_DATE.fullmatch(text)) and name in _IPTC_DATES:
            text = ":".join(date.groups())
        elif group == "IPTC" and (time := _IPTC_TIME.fullmatch(text)) and name in _IPTC_TIMES:
            text = ":".join(time.groups()[:3]) + (f"{time[4]}:{time[5]}" if time[4] else "")
        add_tag(groups, group, name, text, copies)


def _add_xmp(groups: Groups, entries: Iterable[TextEntry]) -> None:
    add_xmp(groups, entries)
    for group in ("XMP-exif", "XMP-exifEX", "XMP-tiff"):
        if group in groups:
            named = ((_NAMES_IN_XMP.get(key, key), one) for key, one in groups[group].items())
            groups[group] = {key: _number_in_xmp(key, one) for key, one in named}


def _number_in_xmp(name: str, text: Any) -> Any:
    """Return a coordinate (XMP specification 1.2.7.4) or a rational number, else the text."""
    if isinstance(text, list):
        return [_number_in_xmp(name, one) for one in text]
    if name in _COORDINATES and (match := _COORDINATE.fullmatch(text)):
        degrees = sum(
            float(one) / unit
            for one, unit in zip(match.group(1, 2, 3), _SEXAGESIMAL, strict=True)
            if one
        )
        return -degrees if match[4] in "SW" else degrees
    if (match := _RATIONAL.fullmatch(text)) and int(match[2]):
        return _from_apex(name, int(match[1]) / int(match[2]))
    return text


def _add_density(groups: Groups, image: Image.Image) -> None:
    """Add the density of the container, which Pillow has read.

    Texts of a PNG are in ``info`` too, by keywords that may be ``dpi`` or ``photoshop``.
    """
    info = image.info
    if image.format == "JPEG" and (density := info.get("jfif_density")):
        groups["JFIF"] = {
            "ResolutionUnit": info.get("jfif_unit"),
            "XResolution": density[0],
            "YResolution": density[1],
        }
    resources = info.get("photoshop")
    resolution = resources.get(_RESOLUTION_INFO) if isinstance(resources, dict) else None
    if isinstance(resolution, dict):
        groups["Photoshop"] = {
            name: resolution.get(name) for name in ("XResolution", "YResolution")
        }
    metres = isinstance(info.get("dpi"), tuple)
    density = info.get("dpi" if metres else "aspect")
    if image.format == "PNG" and isinstance(density, tuple):
        across, down = (round(one / _METRES_OF_INCH) if metres else one for one in density)
        groups["PNG-pHYs"] = {
            "PixelsPerUnitX": across,
            "PixelsPerUnitY": down,
            "PixelUnits": int(metres),
        }


def _add_position(groups: Groups) -> None:
    """Add signed degrees and the time, as exiftool computes them."""
    gps = groups.get("GPS", {})
    computed: dict[str, Any] = {}
    for name, positive, negative in (("GPSLatitude", "N", "S"), ("GPSLongitude", "E", "W")):
        hemisphere = str(gps.get(f"{name}Ref", "")).strip()[:1].upper()
        degrees = gps.get(name)
        # Without a hemisphere the sign is unknown.
        if isinstance(degrees, float) and hemisphere in (positive, negative):
            computed[name] = -degrees if hemisphere == negative else degrees
    altitude, reference = gps.get("GPSAltitude"), gps.get("GPSAltitudeRef")
    if isinstance(altitude, float) and reference in _LEVELS:
        computed["GPSAltitude"] = -altitude if reference in _BELOW else altitude
    if "GPSDateStamp" in gps and "GPSTimeStamp" in gps:
        computed["GPSDateTime"] = f"{gps['GPSDateStamp']} {gps['GPSTimeStamp']}Z"
    if computed:
        groups.setdefault("Composite", {}).update(computed)
