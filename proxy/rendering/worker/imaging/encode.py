"""Encodes images with the savers of libvips, without the metadata of the source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from typing import Any

import pyvips

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile, Gamut
from proxy.rendering.worker.imaging.libvips import loadable_types

_MAX_PALETTE = 256
_MAX_COMMENT_BLOCK = 255
# Effort limit of a WebP with transparency: with 6, libwebp tries everything on the alpha plane,
# which took 3.8 s instead of 0.2 s for the sample badge and saved 1 %.
_MAX_ALPHA_EFFORT = 5
# Opaque; also the result of a comparison that is true.
_FULL = 255
_COUNTED_ROWS = 16
_SOURCE_METADATA = (b"exif-", b"xmp-", b"iptc-", b"icc-", b"orientation", b"gif-", b"png-")
_KEEP_NOTHING = 0
_BARE = (Format.JPEG, Format.WEBP, Format.AVIF)
# ``VipsForeignKeep``: EXIF and XMP, in which only the copyright is left.
_KEEP_COPYRIGHT = 1 | 2
# XMP (ISO 16684-1) with ``dc:rights`` alone. It must be ASCII: libvips writes XMP into a PNG as
# Latin-1.
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">'
    '<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:rights>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)


def assemble(pages: Sequence[Any], *, delays: Sequence[int], loop: int) -> Any:
    """Join frames into the single column that libvips saves as an animation."""
    joined = pyvips.Image.arrayjoin(list(pages), across=1).copy()
    joined.set_type(pyvips.GValue.gint_type, "page-height", pages[0].height)
    joined.set_type(pyvips.GValue.array_int_type, "delay", list(delays))
    joined.set_type(pyvips.GValue.gint_type, "loop", loop)
    return joined


def write(
    image: Any, profile: EncoderProfile, *, target_fd: int, copyright_notice: str | None
) -> None:
    """Encode an image other than a GIF into a descriptor, while bytes leave the encoder.

    Afterwards libvips holds no duplicate of the descriptor, so the reader of a pipe sees its end
    as soon as the caller closes it.
    """
    bare, options = _prepared(image, profile, copyright_notice)
    target = pyvips.Target.new_to_descriptor(target_fd)
    pyvips.Operation.call(f"{_saver(profile.format)}_target", bare, target, **options)


def to_bytes(image: Any, profile: EncoderProfile, *, copyright_notice: str | None) -> bytes:
    """Encode an image into memory."""
    if profile.format is Format.GIF and copyright_notice:
        return _gif_with_comment(image, profile, copyright_notice)
    bare, options = _prepared(image, profile, copyright_notice)
    encoded: bytes = pyvips.Operation.call(f"{_saver(profile.format)}_buffer", bare, **options)
    return encoded


def write_bytes(descriptor: int, content: bytes) -> None:
    """Write all bytes; a pipe accepts only a part at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _saver(fmt: Format) -> str:
    return "heifsave" if fmt is Format.AVIF else f"{fmt}save"


def _prepared(
    image: Any, profile: EncoderProfile, copyright_notice: str | None
) -> tuple[Any, dict[str, Any]]:
    """Return the image without metadata of the source, and the options of the saver."""
    # Without a notice these savers write no metadata at all, so there is nothing to remove.
    bare = image
    if copyright_notice or profile.format not in _BARE:
        bare = _without_metadata(image)
    options: dict[str, Any] = dict(profile.options)
    if profile.gamut is not Gamut.SRGB:
        # Embeds the profile, without a conversion; what is kept of the source does not matter.
        options["profile"] = profile.gamut.value
    if profile.format is Format.AVIF:
        options["compression"] = "av1"
    elif profile.format is Format.PNG:
        # Never Adam7 interlacing; a palette only if it is shown to lose nothing.
        options["interlace"] = False
        palette = {"palette": True, "Q": 100, "dither": 0.0}
        if _palette_is_exact(bare, palette | dict(profile.options)):
            options |= palette
    elif profile.format is Format.WEBP and bare.hasalpha():
        options["effort"] = min(int(options.get("effort", 4)), _MAX_ALPHA_EFFORT)
    if copyright_notice:
        _add_copyright(bare, copyright_notice)
    return bare, options | {"keep": _KEEP_COPYRIGHT if copyright_notice else _KEEP_NOTHING}


def _palette_is_exact(image: Any, options: dict[str, Any]) -> bool:
    # The result is decoded, and the settings may exclude PNG as a source.
    if "png" not in loadable_types() or not _few_colours(image):
        return False
    # The quantiser may merge colours even if there are at most 256, so the result is compared.
    encoded = image.pngsave_buffer(keep=_KEEP_NOTHING, **options)
    decoded = pyvips.Image.pngload_buffer(encoded)
    return decoded.bands == image.bands and bool((decoded == image).min() == _FULL)


def _few_colours(image: Any) -> bool:
    """Return whether there are at most 256 distinct RGBA values; for a photograph it is quick."""
    rgba = image.colourspace("srgb")
    rgba = rgba if rgba.hasalpha() else rgba.bandjoin(_FULL)
    colours: set[int] = set()
    for top in range(0, rgba.height, _COUNTED_ROWS):
        rows = rgba.crop(0, top, rgba.width, min(_COUNTED_ROWS, rgba.height - top))
        colours.update(memoryview(rows.write_to_memory()).cast("I"))
        # Rows are counted in batches, so a photograph stops after the first.
        if len(colours) > _MAX_PALETTE:
            return False
    return True


def _without_metadata(image: Any) -> Any:
    bare = image.copy()
    for name in _field_names(bare):
        if name.startswith(_SOURCE_METADATA):
            bare.remove(name)
    return bare


def _field_names(image: Any) -> list[bytes]:
    """Return all metadata names. pyvips' own method fails on PNG names, which are Latin-1."""
    array = pyvips.vips_lib.vips_image_get_fields(image.pointer)
    names: list[bytes] = []
    while array[len(names)] != pyvips.ffi.NULL:
        names.append(pyvips.ffi.string(array[len(names)]))
        pyvips.glib_lib.g_free(array[len(names) - 1])
    pyvips.glib_lib.g_free(array)
    return names


def _add_copyright(image: Any, notice: str) -> None:
    """Set EXIF Copyright (tag 33432), which is ASCII, and XMP if the notice is not ASCII."""
    # libvips treats what follows the last " (" as its own remark and drops it.
    image.set_type(pyvips.GValue.gstr_type, "exif-ifd0-Copyright", f"{notice} (ASCII)")
    if not notice.isascii():
        xmp = _XMP.format(escape(notice, quote=False)).encode("ascii", "xmlcharrefreplace")
        image.set_type(pyvips.GValue.blob_type, "xmp-data", xmp)


def _gif_with_comment(image: Any, profile: EncoderProfile, notice: str) -> bytes:
    """Insert a comment extension (GIF89a, 24) before the trailer: libvips cannot write one."""
    bare = _without_metadata(image)
    encoded: bytes = bare.gifsave_buffer(keep=_KEEP_NOTHING, **dict(profile.options))
    text = notice.encode()
    blocks = (text[at : at + _MAX_COMMENT_BLOCK] for at in range(0, len(text), _MAX_COMMENT_BLOCK))
    comment = b"".join(bytes([len(block)]) + block for block in blocks)
    return encoded[:-1] + b"\x21\xfe" + comment + b"\0" + encoded[-1:]
