"""Pictures to upload: photographs and drawn ones, some of which cannot be taken in."""

from __future__ import annotations

import dataclasses
import io
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice

from PIL import Image, ImageDraw

from proxy.domain.upload import UPLOAD_FIELDS
from tests.support.photos import NAMES, photo

_UNFIT = ("corrupt-header.jpg", "truncated.jpg", "giant.jpg")
"""Of the photographs: corrupt ones, and one that may be past a limit. They are sent as well."""
_GOOD = tuple(name for name in NAMES if name not in _UNFIT)
_FORMATS = (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("AVIF", "avif"))


@dataclass(frozen=True, slots=True)
class Picture:
    """A file to upload, into which field of the form."""

    name: str
    field: str
    content: bytes = dataclasses.field(repr=False)
    servable: bool
    """Whether it is to end as a picture; else as a failure that has a reason."""


def jpeg(width: int, height: int, *, seed: int) -> bytes:
    """A picture of noise, another one for each seed."""
    noise = random.Random(seed).randbytes(width * height * 3)
    return _encoded(Image.frombytes("RGB", (width, height), noise), "JPEG")


def uploads(count: int, *, seed: int = 1) -> list[Picture]:
    """So many: one in twenty cannot be taken in, the others are pictures.

    A third are the photographs; most of them differ by bytes behind their end, that nobody reads.
    """
    chance = random.Random(seed)
    fields = cycle(UPLOAD_FIELDS)
    return [
        Picture(file[0], field, *file[1:])
        for field, file in islice(zip(fields, _files(chance), strict=False), count)
    ]


def _files(chance: random.Random) -> Iterator[tuple[str, bytes, bool]]:
    photographs, spoilt = cycle(_GOOD), cycle((_cut, _giant, _noise))
    number = 0
    while True:
        if number % 20 == 7:
            yield (*next(spoilt)(number, chance), False)
        elif number % 3 == 0:
            yield (*_photograph(next(photographs), number), True)
        else:
            yield (*_drawn(number, chance), True)
        number += 1


def _photograph(name: str, number: int) -> tuple[str, bytes]:
    content = photo(name).read_bytes()
    if name.endswith((".jpg", ".png")):
        content += b"%d" % number
    return name, content


def _drawn(number: int, chance: random.Random) -> tuple[str, bytes]:
    """A picture of shapes; every fourth one a logo on white, and some see-through."""
    kind, suffix = _FORMATS[number % len(_FORMATS)]
    width, height = chance.randint(200, 1400), chance.randint(200, 1400)
    logo = number % 4 == 1
    picture = Image.new("RGB", (width, height), "white" if logo else _colour(chance))
    draw = ImageDraw.Draw(picture)
    for _ in range(3 if logo else 25):
        x, y = chance.randint(20, width - 100), chance.randint(20, height - 100)
        box = (x, y, x + chance.randint(30, 70), y + chance.randint(30, 70))
        draw.ellipse(box, fill=_colour(chance))
    if number % 10 == 5 and kind != "JPEG":
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return f"drawn {number}.{suffix}", _encoded(picture, kind)


def _colour(chance: random.Random) -> tuple[int, int, int]:
    return chance.randint(0, 255), chance.randint(0, 255), chance.randint(0, 255)


def _encoded(picture: Image.Image, kind: str) -> bytes:
    body = io.BytesIO()
    options = {"AVIF": {"speed": 10}, "PNG": {"compress_level": 1}}.get(kind, {})
    picture.save(body, kind, **options)
    return body.getvalue()


def _cut(number: int, chance: random.Random) -> tuple[str, bytes]:
    """A JPEG of which the second half never came."""
    whole = _encoded(Image.effect_noise((600, 400), chance.randint(40, 90)), "JPEG")
    return f"cut {number}.jpg", whole[: len(whole) // 2]


def _giant(number: int, _chance: random.Random) -> tuple[str, bytes]:
    """A PNG of 100.02 megapixels in a few hundred bytes."""
    side = 10_001
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (number % 5 + 1))
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")
    return f"giant {number}.png", b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _noise(number: int, chance: random.Random) -> tuple[str, bytes]:
    """What begins as a WebP does, and is noise."""
    content = chance.randbytes(2000)
    return f"noise {number}.webp", b"RIFF" + struct.pack("<I", 2004) + b"WEBPVP8 " + content
