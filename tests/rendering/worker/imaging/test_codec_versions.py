"""The versions of codecs, read from what is loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.rendering.worker.imaging.codec_versions import CODECS, UNKNOWN, found_in, loaded
from proxy.rendering.worker.imaging.loader_allowlist import hello

LIST = (
    b"\0enable debug: false\nICC profile support with lcms2: true\n"
    b"JPEG load/save with libjpeg: true\nJXL load/save with libjxl: false (dynamic module: false)\n"
    b"PNG load/save with libpng: true\nSIMD support with libhwy: true\n"
    b"HEIC/AVIF load/save with libheif: true (dynamic module: false)\n"
    b"WebP load/save with libwebp: true\nGIF save with cgif: true\0"
)


def test_what_libvips_was_built_with_is_listed_its_versions_unknown() -> None:
    names = ("cgif", "lcms2", "libheif", "libjpeg", "libpng", "libwebp")
    assert found_in([LIST]) == dict.fromkeys(names, UNKNOWN)


@pytest.mark.parametrize(
    ("text", "name", "version", "instead_of"),
    [
        (b"\0mozjpeg version 5.0.0 (build 20260926)\0", "mozjpeg", "5.0.0", "libjpeg"),
        (b"\x001.6.58\x00vipspng\x00", "libpng", "1.6.58", "libpng"),
        (b"\0AOMedia Project AV1 Encoder v3.15.1-4-gab\0", "aom", "3.15.1-4-gab", ""),
        (b"\x001.3.1.zlib-ng\x00", "zlib", "1.3.1.zlib-ng", ""),
    ],
)
def test_a_version_is_read_where_its_library_keeps_it(
    text: bytes, name: str, version: str, instead_of: str
) -> None:
    without = found_in([LIST])
    without.pop(instead_of, None)
    assert found_in([LIST, text]) == {**without, name: version}
    assert found_in([b"x" * 99 + LIST + text]) == {**without, name: version}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"vipspng\0",
        b"\0vipspng\0",
        b"\0not a version\0vipspng\0",
        b"\0mozjpeg version unknown\0",
        b"\0AOMedia Project AV1 Encoder\0",
        b"AOMedia Project AV1 Encoder v",
        b".zlib-ng\0",
        b"1.6.58\0vipspng\0",
    ],
)
def test_what_is_no_version_is_not_taken_for_one(text: bytes) -> None:
    assert found_in([text]) == {}


def test_what_one_piece_cuts_off_is_whole_in_the_next() -> None:
    texts = b"\0mozjpeg version 5.0.0 (build 1)\0" + LIST + b"1.6.58\0vipspng\0"
    whole = found_in([texts])
    for at in range(len(texts)):
        assert found_in([texts[: at + 2], texts[:at], texts]) == whole
        assert found_in([texts, texts[at:]]) == whole


def test_what_is_loaded_is_told_and_stands_in_the_library_itself() -> None:
    found = loaded()
    maps = Path("/proc/self/maps").read_text()
    paths = set(re.findall(r"/\S*/libvips\S*", maps))
    assert paths
    library = b"".join(Path(path).read_bytes() for path in paths)
    assert library.count(f"mozjpeg version {found['mozjpeg']}".encode()) >= 1
    assert library.count(f"AOMedia Project AV1 Encoder v{found['aom']}\0".encode()) >= 1
    assert library.count(f"\0{found['libpng']}\0".encode()) >= 1
    assert {name for name, version in found.items() if version == UNKNOWN} <= set(CODECS)


def test_a_worker_says_them_in_its_hello() -> None:
    assert loaded().items() <= hello().codecs.items()
