"""Walks a file of any format: the reader of its container, then the blocks found in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import BinaryIO

from proxy.domain.errors import UnknownImageFormat
from proxy.metadata.container import (
    bitmap,
    gif,
    iptc,
    isobmff,
    jpeg,
    photoshop,
    png,
    riff,
    svg,
    tiff,
    xmp,
)
from proxy.metadata.container.collector import Collector
from proxy.metadata.container.result import Block, BlockKind, Walk
from proxy.metadata.formats import DETECT_BYTES, UNSUPPORTED_FORMAT, detect


def walk(file: BinaryIO) -> Walk:
    """Read the metadata of a seekable file; a damaged file gives what was read, and warnings.

    Raises:
        UnknownImageFormat: the file is of no supported format.
        MetadataTooLarge: a limit of `proxy.metadata.container.collector` is exceeded.
    """
    collector = Collector(file)
    name = detect(collector.read(0, DETECT_BYTES))
    if name is None:
        raise UnknownImageFormat(UNSUPPORTED_FORMAT)
    if name in ("tiff", "cr2", "orf", "rw2"):
        is_dng = tiff.read_file(collector)
        name = "dng" if name == "tiff" and is_dng else name
    elif reader := _READERS.get(name):
        reader(collector)
    _interpret(collector)
    return collector.result(name)


def _raf(collector: Collector) -> None:
    inner = bitmap.embedded_jpeg(collector)
    if inner and collector.read(inner.offset, 2) == b"\xff\xd8":
        jpeg.read(collector, inner.offset)


_READERS: Mapping[str, Callable[[Collector], None]] = {
    "jpeg": jpeg.read,
    "png": png.read,
    "webp": riff.read,
    "heic": isobmff.read,
    "heif": isobmff.read,
    "avif": isobmff.read,
    "cr3": isobmff.read,
    "jxl": isobmff.read_jxl,
    "gif": gif.read,
    "bmp": bitmap.read_bmp,
    "ico": bitmap.read_ico,
    "svg": svg.read,
    "psd": photoshop.read,
    "raf": _raf,
}


def _interpret(collector: Collector) -> None:
    """Read the blocks; those inside of them are appended and read as well."""
    done = 0
    while done < len(collector.blocks):
        _block(collector, collector.blocks[done])
        done += 1


def _block(collector: Collector, block: Block) -> None:
    match block.kind:
        case BlockKind.EXIF:
            tiff.read_block(collector, block.content, block.where)
        case BlockKind.XMP:
            xmp.read(collector, block.content, block.where)
        case BlockKind.IPTC:
            iptc.read(collector, block.content)
        case BlockKind.PHOTOSHOP:
            photoshop.expand(collector, block)
        case BlockKind.ICC | BlockKind.C2PA | BlockKind.OTHER:
            pass
