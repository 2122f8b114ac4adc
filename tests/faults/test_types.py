"""Row 3: the type of a file is decided by its bytes, and only the allowed loaders read it."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from pathlib import Path

import pytest
import pyvips
from PIL import Image

from proxy.domain.formats import sniff
from proxy.rendering.worker.imaging.libvips import lock_loaders, open_loaders
from proxy.settings import LimitSettings
from tests.faults.conftest import Launch
from tests.faults.planting import plant
from tests.faults.server import Server
from tests.faults.table import Figure, Record
from tests.support.photos import photo
from tests.support.server import Library

pytestmark = pytest.mark.slow

LOADED = ("jpegload", "pngload", "webpload", "heifload", "gifload", "tiffload", "svgload")
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9"/></svg>'
SCRIPT = b"<html><script>alert(document.domain)</script></html>"


def draw(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(file, kind)
    return file.getvalue()


def disguised() -> dict[str, bytes]:
    """Return files that libvips, or another program, would read as a type that is not served."""
    image = pyvips.Image.black(20, 10)
    return {
        "an SVG with an image elsewhere": SVG.replace(b"rect", b"image href='http://x/a.png'"),
        "an SVG in HTML": b"<html>" + SVG,
        "a compressed PDF": gzip.compress(b"%PDF-1.7"),
        "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "MATLAB": b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(200),
        "a matrix": b"3 3\n1 2 3\n4 5 6\n7 8 9\n",
        "CSV": b"1,2,3\n4,5,6\n",
        "libvips' own": bytes.fromhex("08f2a6b6") + bytes(60) + image.write_to_memory(),
        "PPM": b"P6\n20 10\n255\n" + bytes(600),
        "Radiance": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 10 +X 20\n" + bytes(800),
        "FITS": b"SIMPLE  =                    T" + bytes(2850),
        "OpenEXR": bytes.fromhex("762f3101") + bytes(200),
        "NIfTI": (348).to_bytes(4, "little") + bytes(400),
        "a cursor": b"\0\0\2\0\1\0" + bytes(200),
        "an ImageMagick script": b"push graphic-context\nimage over 0,0 0,0 'https://x/'\n",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "HTML": SCRIPT,
        "a ZIP": b"PK\x03\x04" + bytes(100),
        "nothing": b"",
        "a byte": b"\xff",
    }


def polyglots() -> dict[str, bytes]:
    """Return images that are also valid files of another type."""
    return {
        "an SVG with a script": SVG.replace(b"<rect", b"<script>alert(1)</script><rect"),
        "an SVG behind a byte order mark": b"\xef\xbb\xbf\n<?xml version='1.0'?>" + SVG,
        "a JPEG with a page behind it": draw("JPEG") + SCRIPT,
        "a PNG with a page behind it": draw("PNG") + SCRIPT,
        "a GIF with a page behind it": draw("GIF") + SCRIPT,
        "a WebP with a ZIP behind it": draw("WEBP") + b"PK\x03\x04" + bytes(64),
        "a JPEG with a script as its comment": (
            b"\xff\xd8\xff\xfe\x00\x36" + SCRIPT.ljust(52) + draw("JPEG")[2:]
        ),
        "a JPEG with a picture of its own inside": photo("gain-map.jpg").read_bytes(),
    }


async def answers(server: Server, ids: Mapping[str, int]) -> dict[str, tuple[int, str, bytes]]:
    """Return status, media type and body of each image."""
    found = {}
    async with server.client(headers={"Accept": "*/*"}) as client:
        for name, media_id in ids.items():
            async with client.get(f"/serve/{media_id}?w=64") as answer:
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Content-Security-Policy"] == "default-src 'none'"
                found[name] = answer.status, answer.content_type, await answer.read()
    return found


async def test_files_that_are_not_images_are_415_and_polyglots_are_served_as_images_only(
    data_dir: Path, launch: Launch, library: Library, record: Record
) -> None:
    strange, double = disguised(), polyglots()
    ids = plant(data_dir, {**strange, **double})
    server = await launch({"workers": {"count": 1}})
    found = await answers(server, ids)
    for name in strange:
        status, kind, _ = found[name]
        assert (status, kind) == (415, "application/problem+json"), name
    for name in double:
        status, kind, body = found[name]
        assert status == 200, (name, body)
        assert kind == f"image/{sniff(body)}"
        assert b"<script" not in body
        assert b"PK\x03\x04" not in body
    assert await server.metric("smartserve_worker_restarts_total") == 0
    record(Figure(3, "files that are not what they seem asked for", len(found), 0))


async def test_a_declared_type_and_a_file_name_are_ignored(
    data_dir: Path, launch: Launch, library: Library
) -> None:
    """The row declares nothing, or any type; the bytes decide."""
    ids = plant(data_dir, {"image.svg": draw("PNG"), "page.jpg": SCRIPT})
    server = await launch({"workers": {"count": 1}})
    found = await answers(server, ids)
    assert [found[name][0] for name in ids] == [200, 415]


def test_only_allowed_loaders_are_enabled() -> None:
    """As libvips itself reports for all loaders that it has."""
    lock_loaders(LimitSettings().source_types)
    families = {name.removesuffix("_source").removesuffix("_buffer") for name in open_loaders()}
    assert families == set(LOADED)
