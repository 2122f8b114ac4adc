"""Encoders: a profile's options to the saver of libvips, without metadata, into a descriptor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any

import pyvips

from proxy.domain.formats import EncoderProfile, Format

_SAVERS: Mapping[Format, str] = MappingProxyType(
    {
        Format.JPEG: "jpegsave",
        Format.WEBP: "webpsave",
        Format.AVIF: "heifsave",
        Format.PNG: "pngsave",
        Format.GIF: "gifsave",
    }
)
_MAX_PALETTE = 256
_COMMENT_MAX = 255
_MOST_ALPHA_EFFORT = 5
"""Of WebP with transparency: 6 makes libwebp try everything on the alpha plane, which took 3.8 s
instead of 0.2 for the sample badge and saved 1 %."""
_FULL = 255
"""Opaque, and what a comparison gives where it holds."""
_COUNTED_ROWS = 16
_OF_THE_SOURCE = (b"exif-", b"xmp-", b"iptc-", b"icc-", b"orientation", b"gif-", b"png-")
_KEEP_NOTHING = 0
_KEEP_MARK = 1 | 2
"""``VipsForeignKeep``: EXIF and XMP, of which nothing is left but the copyright."""
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">'
    '<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:rights>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)
"""XMP (ISO 16684-1) with nothing but ``dc:rights``; ASCII, for libvips puts it into a PNG as
Latin-1."""


def assemble(pages: Sequence[Any], *, delays: Sequence[int], loop: int) -> Any:
    """Join frames into the one column that libvips saves as an animation."""
    joined = pyvips.Image.arrayjoin(list(pages), across=1).copy()
    joined.set_type(pyvips.GValue.gint_type, "page-height", pages[0].height)
    joined.set_type(pyvips.GValue.array_int_type, "delay", list(delays))
    joined.set_type(pyvips.GValue.gint_type, "loop", loop)
    return joined


def write(
    image: Any, profile: EncoderProfile, *, target_fd: int, copyright_notice: str | None
) -> None:
    """Encode an image into a descriptor, as bytes come out of the encoder.

    When this returns or raises, no duplicate of the descriptor is left in libvips, so that a
    reader of the pipe sees its end as soon as the caller's own descriptor is closed.
    """
    bare, options = _prepared(image, profile, copyright_notice)
    target = pyvips.Target.new_to_descriptor(target_fd)
    pyvips.Operation.call(f"{_SAVERS[profile.format]}_target", bare, target, **options)


def to_bytes(image: Any, profile: EncoderProfile, *, copyright_notice: str | None) -> bytes:
    """Encode an image into memory: the bytes that `write` would write."""
    if profile.format is Format.GIF and copyright_notice:
        return _gif_with_comment(image, profile, copyright_notice)
    bare, options = _prepared(image, profile, copyright_notice)
    encoded: bytes = pyvips.Operation.call(f"{_SAVERS[profile.format]}_buffer", bare, **options)
    return encoded


def write_bytes(descriptor: int, content: bytes) -> None:
    """Write all of some bytes, however little a pipe takes at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _prepared(
    image: Any, profile: EncoderProfile, copyright_notice: str | None
) -> tuple[Any, dict[str, Any]]:
    bare = _marked(image, copyright_notice)
    keep = _KEEP_MARK if copyright_notice else _KEEP_NOTHING
    return bare, _options(bare, profile) | {"keep": keep}


def _options(image: Any, profile: EncoderProfile) -> dict[str, Any]:
    options: dict[str, Any] = dict(profile.options)
    if profile.format is Format.AVIF:
        return options | {"compression": "av1"}
    if profile.format is Format.PNG:
        return options | _png_options(image, options)
    if profile.format is Format.WEBP and image.hasalpha():
        return options | {"effort": min(int(options.get("effort", 4)), _MOST_ALPHA_EFFORT)}
    return options


def _png_options(image: Any, options: dict[str, Any]) -> dict[str, Any]:
    """A palette where it is shown to lose nothing, and never Adam7 interlacing."""
    lossless = {"palette": True, "Q": 100, "dither": 0.0}
    return {"interlace": False} | (lossless if _palette_is_exact(image, lossless | options) else {})


def _palette_is_exact(image: Any, options: dict[str, Any]) -> bool:
    if not _few_colours(image):
        return False
    encoded = image.pngsave_buffer(keep=_KEEP_NOTHING, **options)
    decoded = pyvips.Image.pngload_buffer(encoded)
    same_kind = decoded.bands == image.bands
    return same_kind and bool((decoded == image).min() == _FULL)


def _few_colours(image: Any) -> bool:
    """Whether there are at most 256 distinct values of RGBA; a photograph stops at once."""
    rgba = image.colourspace("srgb")
    rgba = rgba if rgba.hasalpha() else rgba.bandjoin(_FULL)
    colours: set[int] = set()
    for top in range(0, rgba.height, _COUNTED_ROWS):
        rows = rgba.crop(0, top, rgba.width, min(_COUNTED_ROWS, rgba.height - top))
        colours.update(memoryview(rows.write_to_memory()).cast("I"))
        if len(colours) > _MAX_PALETTE:
            return False
    return True


def _marked(image: Any, copyright_notice: str | None) -> Any:
    """The image with nothing of its source's metadata, and the copyright where there is one."""
    bare = image.copy()
    for name in _names(bare):
        if name.startswith(_OF_THE_SOURCE):
            bare.remove(name)
    if copyright_notice:
        _mark(bare, copyright_notice)
    return bare


def _names(image: Any) -> list[bytes]:
    """Names of all metadata: pyvips' own list takes them for UTF-8, and a PNG's are Latin-1."""
    array = pyvips.vips_lib.vips_image_get_fields(image.pointer)
    names: list[bytes] = []
    while array[len(names)] != pyvips.ffi.NULL:
        names.append(pyvips.ffi.string(array[len(names)]))
        pyvips.glib_lib.g_free(array[len(names) - 1])
    pyvips.glib_lib.g_free(array)
    return names


def _mark(image: Any, notice: str) -> None:
    """EXIF Copyright (tag 33432), which is ASCII; XMP too where that is not enough.

    libvips takes what follows the last ``" ("`` for its own remark and drops it.
    """
    image.set_type(pyvips.GValue.gstr_type, "exif-ifd0-Copyright", f"{notice} (ASCII)")
    if not notice.isascii():
        xmp = _XMP.format(escape(notice, quote=False)).encode("ascii", "xmlcharrefreplace")
        image.set_type(pyvips.GValue.blob_type, "xmp-data", xmp)


def _gif_with_comment(image: Any, profile: EncoderProfile, notice: str) -> bytes:
    """A GIF with a comment extension (GIF89a, 24) before its trailer; libvips writes none."""
    options = dict(profile.options)
    encoded: bytes = _marked(image, None).gifsave_buffer(keep=_KEEP_NOTHING, **options)
    text = notice.encode()
    blocks = [text[at : at + _COMMENT_MAX] for at in range(0, len(text), _COMMENT_MAX)]
    comment = b"".join(bytes([len(block)]) + block for block in blocks)
    return encoded[:-1] + b"\x21\xfe" + comment + b"\0" + encoded[-1:]
