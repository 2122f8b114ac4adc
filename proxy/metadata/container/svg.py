"""SVG: size, title, description and metadata; never rendered."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Mapping

from proxy.domain.errors import MetadataTooLarge, UnknownImageFormat
from proxy.metadata.container import xmp
from proxy.metadata.container.collector import Collector
from proxy.metadata.container.result import BlockKind
from proxy.metadata.formats import DETECT_BYTES, UNSUPPORTED_FORMAT, detect, is_gzip

MAX_BYTES = 2 << 20
_TOO_LARGE = f"The SVG is larger than {MAX_BYTES >> 20} MiB."
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_SVG = "{http://www.w3.org/2000/svg}"
_MANIFEST = "{http://c2pa.org/manifest}manifest"
_TEXTS = {"title": "Title", "desc": "Description"}
_LENGTH = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(?:px)?\s*")


class _Drawing(xmp.PropertyReader):
    """Collects the root's size, titles, descriptions, and the RDF inside ``metadata``."""

    def __init__(self, collector: Collector) -> None:
        super().__init__()
        self._collector = collector
        self._tags: list[str] = []
        self._inside = 0
        self._text: list[str] = []

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if not self._tags:
            _size(self._collector, attributes)
        self._tags.append(tag)
        self._text = []
        if self._inside:
            super().start(tag, attributes)
        self._inside += bool(self._inside) or tag == f"{_SVG}metadata"

    def data(self, text: str) -> None:
        self._text.append(text)
        if self._inside:
            super().data(text)

    def end(self, tag: str) -> None:
        self._tags.pop()
        name = tag.removeprefix(_SVG)
        text = "".join(self._text).strip()
        if name in _TEXTS and text:
            self._collector.count_chunk()
            self._collector.add_text(_TEXTS[name], f"SVG {name}", text)
        elif tag == _MANIFEST:
            self._manifest(text)
        self._inside -= bool(self._inside)
        if self._inside:
            super().end(tag)

    def _manifest(self, text: str) -> None:
        try:
            content = base64.b64decode(text)
        except (binascii.Error, ValueError):
            self._collector.warn("SVG: the C2PA manifest is not Base64")
            return
        self._collector.add_block(BlockKind.C2PA, "SVG manifest", content)


def _size(collector: Collector, attributes: Mapping[str, str]) -> None:
    box = re.split(r"[\s,]+", attributes.get("viewBox", "").strip()[:100])
    defaults = box[2:] if len(box) == 4 else ["", ""]  # noqa: PLR2004 - x, y, width, height
    for name, default in zip(("width", "height"), defaults, strict=True):
        found = _LENGTH.fullmatch(attributes.get(name, "")) or _LENGTH.fullmatch(default)
        if found:
            collector.set_image(**{name: round(float(found[1]))})


def read(collector: Collector) -> None:
    """Read a document of at most `MAX_BYTES`, which may be compressed by gzip.

    Raises:
        UnknownImageFormat: what is compressed is no SVG.
        MetadataTooLarge: the document is larger.
    """
    head = collector.read(0, DETECT_BYTES)
    if compressed := is_gzip(head):
        # Before the check of the size: an archive is refused for what it is.
        content, _ = _inflated(head, DETECT_BYTES)
        if is_gzip(content) or detect(content) != "svg":
            raise UnknownImageFormat(UNSUPPORTED_FORMAT)
    if collector.size > MAX_BYTES:
        raise MetadataTooLarge(_TOO_LARGE)
    document = collector.read(0, collector.size)
    if compressed:
        document, complete = _inflated(document, MAX_BYTES + 1)
        if len(document) > MAX_BYTES:
            raise MetadataTooLarge(_TOO_LARGE)
        if not complete:
            collector.damage("The compressed SVG is truncated or damaged")
    target = _Drawing(collector)
    xmp.parse(collector, document, target, "SVG")
    collector.xmp.extend(target.entries)
    start = document.find(b"<metadata")
    end = document.rfind(b"</metadata>")
    # Compressed metadata has no place of its own in the file.
    if 0 <= start < end and not compressed:
        collector.claim(start, end - start + len(b"</metadata>"))


def _inflated(content: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """Return at most this much of the first member, and whether the compressed data end there."""
    stream = zlib.decompressobj(_GZIP_WINDOW)
    try:
        return stream.decompress(content, max_bytes), stream.eof
    except zlib.error:
        return b"", False
