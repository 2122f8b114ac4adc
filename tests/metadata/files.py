"""Small files for tests of the engine, and the pools that read them."""

from __future__ import annotations

import shutil
import struct
import zlib
from io import BytesIO

from PIL import ExifTags, Image

from tests.support.unavailable import unavailable

MAKE, MODEL = "Canon", "Canon EOS R5"


def exiftool_missing() -> str:
    """Return why exiftool's tests cannot run; in CI that is a failure, not a skip."""
    return "" if shutil.which("exiftool") and shutil.which("perl") else "exiftool is not installed"


def require_exiftool() -> None:
    if reason := exiftool_missing():
        unavailable(reason)


def jpeg(
    *, size: tuple[int, int] = (40, 30), comment: bytes = b"", user_comment: bytes = b""
) -> bytes:
    """A JPEG with EXIF, a position included."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = MAKE, MODEL
    exif[ExifTags.Base.Orientation] = 6
    photo = exif.get_ifd(ExifTags.IFD.Exif)
    photo[ExifTags.Base.DateTimeOriginal] = "2024:05:01 10:11:12"
    photo[ExifTags.Base.OffsetTimeOriginal] = "+02:00"
    photo[ExifTags.Base.ExposureTime] = 0.005
    photo[ExifTags.Base.FNumber] = 2.8
    photo[ExifTags.Base.ISOSpeedRatings] = 400
    photo[ExifTags.Base.FocalLength] = 35.0
    if user_comment:
        photo[ExifTags.Base.UserComment] = user_comment
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLatitude] = "S", (33.0, 51.0, 30.0)
    gps[ExifTags.GPS.GPSLongitudeRef], gps[ExifTags.GPS.GPSLongitude] = "E", (151.0, 12.0, 0.0)
    buffer = BytesIO()
    Image.new("RGB", size, "teal").save(buffer, "JPEG", exif=exif, comment=comment)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def text_chunk(keyword: str, text: str) -> bytes:
    return chunk(b"tEXt", keyword.encode("latin-1") + b"\0" + text.encode("latin-1"))


def png(*chunks: bytes) -> bytes:
    """A PNG of one pixel with further chunks before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\1\2\3"))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def ztxt_bomb(megabytes: int = 400) -> bytes:
    """A PNG whose one zTXt chunk inflates to ``megabytes``."""
    deflate = zlib.compressobj(9)
    block = b"A" * 1_000_000
    packed = b"".join(deflate.compress(block) for _ in range(megabytes)) + deflate.flush()
    return png(chunk(b"zTXt", b"parameters\0\0" + packed))


def gif() -> bytes:
    buffer = BytesIO()
    Image.new("L", (3, 2)).save(buffer, "GIF")
    return buffer.getvalue()
