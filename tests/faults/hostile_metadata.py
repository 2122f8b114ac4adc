"""Files that attack whoever reads their metadata, and the addresses that such files contain."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from random import Random
from types import MappingProxyType

from tests.fuzz.mutators import mutated
from tests.metadata.files import chunk, jpeg, png, text_chunk, ztxt_bomb
from tests.support.containers import jpeg as bare_jpeg
from tests.support.containers import jpeg_with_xmp, segment, tiff
from tests.support.golden import GOLDEN

ADDRESS = "http://198.51.100.7/manifest.c2pa"
"""An address of a network for documentation (RFC 5737)."""
_XAP = b"http://ns.adobe.com/xap/1.0/\0"
_LARGEST_SEED = 300_000
"""Bytes: larger files only make the mutants slow."""


def _looped_tiff() -> bytes:
    """Directories that are each other's next and sub-directory, in cycles."""
    entry = struct.pack("<HHII", 0x014A, 4, 1, 8) + struct.pack("<HHII", 0x8769, 4, 1, 8)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + entry + struct.pack("<I", 8)


def _nested_tiff(depth: int) -> bytes:
    """A chain of directories, each the sub-directory of the one before."""
    directories = b"".join(
        struct.pack("<H", 1)
        + struct.pack("<HHII", 0x014A, 4, 1, 8 + 18 * (number + 1))
        + struct.pack("<I", 0)
        for number in range(depth)
    )
    return b"II*\0\x08\0\0\0" + directories + struct.pack("<HI", 0, 0)


def _exif(content: bytes) -> bytes:
    return bare_jpeg(segment(0xE1, b"Exif\0\0" + content[:65_000]))


def _svg(body: str, *, doctype: str = "") -> bytes:
    text = f'<?xml version="1.0"?>{doctype}<svg xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    return text.encode()


def _laughs() -> str:
    entities = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(12))
    return f'<!DOCTYPE svg [<!ENTITY a0 "ha">{entities}]>'


def _boxes(depth: int) -> bytes:
    """Boxes of ISOBMFF, each inside of the one before."""
    content = b""
    for _ in range(depth):
        content = struct.pack(">I4s", 12 + len(content), b"meta") + bytes(4) + content
    return struct.pack(">I4s4sI", 20, b"ftyp", b"avif", 0) + b"avif" + content


def _inflating(kind: bytes, head: bytes, megabytes: int) -> bytes:
    return chunk(kind, head + zlib.compress(b"A" * 1_000_000 * megabytes, 9))


REFUSED: Mapping[str, bytes] = MappingProxyType(
    {
        "a zTXt chunk of 400 MB": ztxt_bomb(400),
        "an iTXt chunk of 40 MB": png(_inflating(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0", 40)),
        "60 zTXt chunks of 1 MB": png(*[_inflating(b"zTXt", b"Comment\0\0", 1)] * 60),
        "10,001 chunks in PNG": png(*[text_chunk("k", "v")] * 10_001),
        "10,001 segments in JPEG": bare_jpeg(*[segment(0xFE, b"x")] * 10_001),
        "17 MB of segments in JPEG": bare_jpeg(*[segment(0xE5, bytes(65_000))] * 270),
    }
)
"""Over a limit: refused before exiftool reads them."""

READ: Mapping[str, bytes] = MappingProxyType(
    {
        "directories in a cycle": _looped_tiff(),
        "a cycle of directories in EXIF": _exif(_looped_tiff()),
        "3,000 directories in each other": _nested_tiff(3_000),
        "3,000 directories in EXIF": _exif(_nested_tiff(3_000)),
        "2,000 boxes in each other": _boxes(2_000),
        "entities in XMP": bare_jpeg(
            segment(0xE1, _XAP + _laughs().replace("svg", "x").encode() + b"<x>&a12;</x>")
        ),
        "an external entity in XMP": bare_jpeg(
            segment(
                0xE1,
                _XAP + f'<!DOCTYPE x [<!ENTITY y SYSTEM "{ADDRESS}">]><x>&y;</x>'.encode(),
            )
        ),
        "an SVG with entities in entities": _svg("<title>&a12;</title>", doctype=_laughs()),
        "an SVG with an entity of a file": _svg(
            "<title>&x;</title>", doctype='<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        ),
        "9,000 chunks in PNG": png(*[text_chunk("k", "v")] * 9_000),
    }
)
"""Within the limits: read, or refused, but never with much work."""

ADDRESSES: Mapping[str, bytes] = MappingProxyType(
    {
        "a remote manifest": jpeg_with_xmp(
            '<rdf:Description xmlns:dcterms="http://purl.org/dc/terms/"'
            f' dcterms:provenance="{ADDRESS}"/>'
        ),
        "an SVG with an external entity": _svg(
            "<title>&x;</title>", doctype=f'<!DOCTYPE svg [<!ENTITY x SYSTEM "{ADDRESS}">]>'
        ),
        "an SVG with an external image and style": _svg(
            f'<image href="{ADDRESS}"/><style>@import "{ADDRESS}";</style>'
        ),
        "an external entity in XMP": READ["an external entity in XMP"],
        "an address as a text": png(text_chunk("Source", ADDRESS)),
    }
)
"""Files with addresses."""

NAMES = (
    *("x\n-ver", "x\r\n-execute\n-ver", "-config", "-@", "-o /tmp/injected", "-stay_open\nFalse"),
    *("../../etc/passwd", "/etc/passwd", "a.jpg\0.png", "$(touch /tmp/injected)", "`id`", "|id"),
    *("\ud800.jpg", "\u202egpj.exe", "a" * 5000 + ".jpg", "", ".", "con.jpg", "%s%n.jpg"),
    "-tagsfromfile\n/etc/passwd\n-all.jpg",
)
"""File names of a client that a program could take for an option, a path or a command."""


def seeds() -> list[bytes]:
    """Return small files of many formats; with the golden files if they are there."""
    found = sorted(GOLDEN.glob("*/**/*")) if GOLDEN is not None else []
    images = [
        path.read_bytes()
        for path in found
        if path.suffix.lower() not in (".txt", ".md", ".json", ".out", ".pem")
        and path.is_file()
        and path.stat().st_size < _LARGEST_SEED
    ]
    # The mutators cannot parse boxes as deep as these.
    shallow = [content for name, content in READ.items() if "boxes" not in name]
    own = [jpeg(), png(text_chunk("parameters", "a\nSteps: 2, Sampler: x")), *shallow]
    return [*own, tiff({0x010E: "x"}), *images]


def mutants(seed: int, count: int) -> Iterator[bytes]:
    """Yield damaged files; the same seed gives the same ones, if the golden files are the same."""
    files = seeds()
    for number in range(count):
        chance = Random(f"{seed}/{number}")
        yield mutated(chance.choice(files), chance.choice(files), chance)


def fuzzed(seed: int, count: int) -> Iterator[bytes]:
    """Yield files whose beginning is that of an image, and whose rest is random."""
    files = seeds()
    for number in range(count):
        chance = Random(f"fuzzed {seed}/{number}")
        start = chance.choice(files)[: chance.choice((16, 64, 256, 1024))]
        yield start + chance.randbytes(chance.choice((100, 5_000, 100_000)))
