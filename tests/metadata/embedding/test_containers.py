"""Text and EXIF in PNG, JPEG and WebP files: other content stays, pixels stay, readers agree."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from proxy.metadata.embedding.containers import with_metadata
from proxy.metadata.embedding.exif import exif_of

EXIF = exif_of({0x010E: "a cat, Größe 日本".encode()}, {0x9010: b"+00:00"}, b"UNICODE\0{\0}\0")
OTHER_EXIF = exif_of({0x0131: b"Camera 1.0"}, {})
NOISE = Image.effect_noise((33, 17), 64)


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    image = NOISE.convert(mode)
    if mode.endswith("A"):
        image.putalpha(NOISE)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(content: bytes) -> Any:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(content):
        length = struct.unpack_from(">I", content, at)[0]
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", content, at + 8 + length)[0] == zlib.crc32(kind + body)
        found.append((kind, body))
        at += length + 12
        if kind == b"IEND":
            break
    return found


FILES = {
    "png": encoded("PNG"),
    "png with a palette": encoded("PNG", "P"),
    "jpeg": encoded("JPEG"),
    "webp, lossy": encoded("WEBP"),
    "webp, lossless": encoded("WEBP", lossless=True),
    "webp, lossless with alpha": encoded("WEBP", "RGBA", lossless=True),
    "webp, lossy with alpha": encoded("WEBP", "RGBA"),
    "webp with a profile and XMP": encoded("WEBP", icc_profile=b"profile", xmp=b"<x:xmpmeta/>"),
    "webp, animated": encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (33, 17))]),
}


@pytest.mark.parametrize("name", FILES)
def test_the_pixels_stay_and_other_readers_find_the_exif_data(name: str) -> None:
    before, after = opened(FILES[name]), opened(with_metadata(FILES[name], {}, EXIF))
    assert after.tobytes() == before.tobytes()
    assert (after.mode, after.size) == (before.mode, before.size)
    assert getattr(after, "n_frames", 1) == getattr(before, "n_frames", 1)
    for key in ("icc_profile", "xmp"):
        assert after.info.get(key) == before.info.get(key)
    exif = after.getexif()
    assert exif[0x010E].encode("latin-1").decode() == "a cat, Größe 日本"
    assert dict(exif.get_ifd(0x8769)) == {0x9010: "+00:00", 0x9286: b"UNICODE\0{\0}\0"}


def test_the_extended_header_of_webp_declares_exif_data_and_transparency() -> None:
    flags = {name: with_metadata(FILES[name], {}, EXIF)[20] for name in FILES if "webp" in name}
    assert flags["webp, lossless with alpha"] == flags["webp, lossy with alpha"] == 0x18
    assert FILES["webp, lossless with alpha"][12:16] == b"VP8L", "it gets the header here"
    assert flags["webp, lossless"] == flags["webp, lossy"] == 0x08


@pytest.mark.parametrize("name", FILES)
def test_without_metadata_a_file_stays_as_it_is(name: str) -> None:
    assert with_metadata(FILES[name], {}, b"") == FILES[name]


def test_text_is_written_before_the_pixels_as_text_or_international_text() -> None:
    texts = {"ascii": "cat\nline", "latin": "Größe", "other": "日本", "nul": "a\0b", "empty": ""}
    found = chunks(with_metadata(FILES["png"], texts, EXIF))
    assert [kind for kind, _ in found[:7]] == [
        b"IHDR", b"tEXt", b"tEXt", b"iTXt", b"tEXt", b"tEXt", b"eXIf",
    ]  # fmt: skip
    assert found[2][1] == b"latin\0" + "Größe".encode("latin-1")
    assert found[3][1] == b"other\0\0\0\0\0" + "日本".encode()
    image = opened(with_metadata(FILES["png"], texts, EXIF))
    assert image.text == {**texts, "nul": "ab"}


@pytest.mark.parametrize("text", ["Größe".encode().decode("latin-1"), "a\x80b"])
def test_text_that_readers_would_take_for_another_is_international_text(text: str) -> None:
    assert chunks(with_metadata(FILES["png"], {"key": text}, b""))[1][0] == b"iTXt"


def test_text_and_exif_data_of_another_program_stay_in_a_png() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", '{"3": {"class_type": "KSampler"}}')
    other = encoded("PNG", pnginfo=info, exif=b"Exif\0\0" + OTHER_EXIF)
    content = with_metadata(other, {"prompt": "a cat", "seed": "42"}, EXIF)
    image = opened(content)
    assert b"a cat" not in content
    assert image.text == {"prompt": '{"3": {"class_type": "KSampler"}}', "seed": "42"}
    assert image.getexif()[0x0131] == "Camera 1.0"


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_exif_data_of_another_program_is_not_replaced(kind: str) -> None:
    other = encoded(kind, exif=b"Exif\0\0" + OTHER_EXIF)
    with pytest.raises(ValueError, match=r"EXIF data of another program.* PNG, or .* sidecar"):
        with_metadata(other, {}, EXIF)


class Known:
    """Recognises some texts by keyword, and one structure."""

    texts = {("seed", b"42"), ("vae", b"old"), ("key", "日本".encode())}  # noqa: RUF012

    def is_own_text(self, keyword: str, text: bytes) -> bool:
        return (keyword, text) in self.texts

    def is_own_exif(self, tiff: bytes) -> bool:
        return tiff == OTHER_EXIF


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_own_metadata_is_replaced(kind: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("other", "stays")
    options: dict[str, Any] = {"pnginfo": info} if kind == "PNG" else {}
    old = {"seed": "42", "vae": "old"}
    once = with_metadata(encoded(kind, **options), old, OTHER_EXIF)
    twice = with_metadata(once, {"seed": "7"}, EXIF, own=Known())
    image = opened(twice)
    assert 0x010E in image.getexif()
    assert 0x0131 not in image.getexif()
    if kind == "PNG":
        assert image.text == {"seed": "7", "other": "stays"}
        assert [one for one, _ in chunks(twice)].count(b"eXIf") == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_what_is_not_recognised_stays_under_own_keywords_too(kind: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("seed", "43")
    options: dict[str, Any] = {"pnginfo": info} if kind == "PNG" else {}
    other = encoded(kind, exif=b"Exif\0\0" + EXIF, **options)
    if kind != "PNG":
        with pytest.raises(ValueError, match="EXIF data of another program"):
            with_metadata(other, {}, OTHER_EXIF, own=Known())
        return
    image = opened(with_metadata(other, {"seed": "7", "vae": "new"}, OTHER_EXIF, own=Known()))
    assert image.text == {"seed": "43", "vae": "new"}
    assert 0x010E in image.getexif()


@pytest.mark.parametrize("zipped", [False, True])
def test_text_is_recognised_in_each_kind_of_chunk(*, zipped: bool) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("seed", "42", zip=zipped)
    info.add_itxt("key", "日本", "ja", "translated", zip=zipped)
    assert chunks(with_metadata(encoded("PNG", pnginfo=info), {}, b"", own=Known())) == chunks(
        FILES["png"]
    )


@pytest.mark.parametrize("body", [b"seed\0\0broken", b"seed\0\0" + zlib.compress(b"42")[:-3], b"x"])
def test_a_damaged_compressed_text_stays(body: bytes) -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"zTXt", body)
    assert (b"zTXt", body) in chunks(
        with_metadata(encoded("PNG", pnginfo=info), {}, b"", own=Known())
    )


def test_one_keyword_is_always_written_before_that_of_another_program() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("all", "other")
    content = with_metadata(
        encoded("PNG", pnginfo=info), {"all": "{}", "seed": "7"}, b"", always="all"
    )
    found = [body for kind, body in chunks(content) if kind == b"tEXt"]
    assert found == [b"all\0{}", b"seed\x007", b"all\0other"]


def test_a_prefix_of_exif_data_in_webp_is_skipped() -> None:
    other = encoded("WEBP", exif=b"Exif\0\0" + OTHER_EXIF)
    at = other.index(OTHER_EXIF)
    prefixed = other[:at] + b"Exif\0\0" + other[at:]
    body = bytearray(prefixed)
    struct.pack_into("<I", body, at - 4, len(OTHER_EXIF) + 6)
    struct.pack_into("<I", body, 4, len(body) - 8)
    assert 0x010E in opened(with_metadata(bytes(body), {}, EXIF, own=Known())).getexif()


def test_a_webp_of_no_pixels_is_refused() -> None:
    for at in (26, 28):
        empty = bytearray(FILES["webp, lossy"])
        empty[at : at + 2] = b"\0\0"
        with pytest.raises(ValueError, match="the file is damaged"):
            with_metadata(bytes(empty), {}, EXIF)


@pytest.mark.parametrize("name", FILES)
def test_content_behind_the_image_stays(name: str) -> None:
    assert with_metadata(FILES[name] + b"behind", {"a": "b"}, EXIF).endswith(b"behind")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused(name: str) -> None:
    for length in range(len(FILES[name])):
        with pytest.raises(ValueError, match="the file is"):
            with_metadata(FILES[name][:length], {"a": "b"}, EXIF)


@pytest.mark.parametrize("content", [b"", b"text", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8"])
def test_another_file_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="the file is"):
        with_metadata(content, {}, EXIF)
