"""SVG: checks a document, rebuilds it from the parts that are drawn, and draws it at any size.

librsvg never parses the source document. It gets a new one without document types, entities,
processing instructions, scripts, foreign markup and references to other files, whatever the
encoding of the source. Embedded JPEG and PNG files are passed on unchanged, after their headers
were checked. Its size is that of the rendition: a drawing has no pixels to enlarge.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes
from xml.parsers import expat

import pyvips

from proxy.domain.formats import SNIFF_BYTES, sniff
from proxy.domain.worker_protocol import Limits
from proxy.rendering.worker.imaging import fonts, heif_items
from proxy.rendering.worker.imaging.libvips import SourceRefused

MAX_BYTES = 32 * 1024 * 1024
"""Limit of a document, after decompression."""
MAX_ELEMENTS = 200_000
"""Limit of the elements of a document, also of those that are drawn through references."""
MAX_DEPTH = 200
# A primitive of a filter takes as long as some hundred shapes.
_FILTER_COST = 200
_VERTEX_CHARACTERS = 4

# An SVG counts as an image with a longer side of 7680 pixels, which is twice the largest width of
# `proxy.domain.request.WIDTHS`. The shorter side of a long one has 1600, so that crops are sharp.
_LONGER_SIDE, _SHORTER_SIDE = 7680, 1600
_MAX_SIDE = 16383
_ROUNDING = 1e-6
_RGBA = 4
_BLANK = b"\xef\xbb\xbf \t\r\n"
_GZIP, _GZIP_WINDOW = b"\x1f\x8b", 31

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_XML = "http://www.w3.org/XML/1998/namespace"
_XINCLUDE = "http://www.w3.org/2001/XInclude"
# Fragments that were copied out of HTML lack these declarations.
_PREFIXES: Mapping[str, str] = {"": _SVG, "xml": _XML, "xlink": _XLINK, "svg": _SVG}

_MAX_ENTITIES, _MAX_ENTITY = 64, 1024
# librsvg reads the first two; the others are converted.
_EMBEDDED = ("jpeg", "png", "gif", "webp", "avif")
# Not drawn by librsvg, and nothing of them must be run or fetched.
_DROPPED = frozenset(
    [
        *("script", "handler", "listener", "foreignObject", "audio", "video", "iframe", "canvas"),
        *("metadata", "title", "desc", "cursor", "color-profile", "discard", "set", "mpath"),
        *("animate", "animateTransform", "animateMotion", "animateColor"),
        *("font", "font-face", "missing-glyph", "glyph", "hkern", "vkern"),
    ]
)
_TEXT = frozenset({"text", "tspan", "textPath", "tref"})
_OWN_SIZE = frozenset({"width", "height", "viewBox", "preserveAspectRatio", "x", "y"})

_INCH, _EM = 96.0, 16.0
_VIPS_INCH = 72.0
_PIXELS: Mapping[str, float] = {
    "": 1.0,
    "px": 1.0,
    "in": _INCH,
    "cm": _INCH / 2.54,
    "mm": _INCH / 25.4,
    "q": _INCH / 101.6,
} | {"pt": _INCH / 72, "pc": _INCH / 6, "em": _EM, "rem": _EM, "ex": _EM / 2, "ch": _EM / 2}
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_LENGTH = re.compile(rf"\s*({_NUMBER})\s*([a-zA-Z]*)\s*", re.ASCII)
_SEPARATOR = re.compile(r"[\s,]+")
# Of a document without a size, as in browsers (CSS 2.1, 10.3.2).
_DEFAULT_SIZE = (300.0, 150.0)
# Sides that librsvg can compute with.
_SMALLEST, _LARGEST = 1e-6, 1e7
# Aspect ratios that differ by less are equal: their sides were rounded.
_SAME_SHAPE = 0.01

_URL = re.compile(r"""url\(\s*(?:"([^"]*)"|'([^']*)'|([^)]*))""", re.IGNORECASE)
_CSS_ESCAPE = re.compile(r"\\(?:([0-9a-fA-F]{1,6})\s?|(.))", re.DOTALL)
_CSS_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
_FONT_FACE = re.compile(r"@font-face\s*\{[^{}]*\}", re.IGNORECASE)
_IMPORT = re.compile(r"@import", re.IGNORECASE)
_SHOWN = 60
# The size of the root in its own style; a value may be in a string.
_OWN_STYLE = re.compile(r"(?<![\w-])(?:min-|max-)?(?:width|height)\s*:[^;]*;?", re.IGNORECASE)

# Encodings that expat does not contain; a confined worker cannot load their tables.
for _name in ("cp1250", "cp1251", "cp1252"):
    codecs.lookup(_name)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A checked document."""

    attributes: str
    """Of the root, without its style and those that determine its size."""
    style: str
    body: str
    ratio: float
    """Width divided by height."""
    view_box: str
    aspect: str
    """The value of ``preserveAspectRatio``."""

    def size(self, limits: Limits) -> tuple[int, int]:
        """Return the largest width and height at which it is drawn, in pixels."""
        ratio = self.ratio
        longer, shorter = max(ratio, 1.0), min(ratio, 1.0)
        # In units of the other side: one of both is 1.
        side = max(_LONGER_SIDE / longer, _SHORTER_SIDE / shorter)
        pixels = min(limits.max_pixels, limits.max_raw_bytes // _RGBA)
        side = min(
            side, min(limits.max_side, _MAX_SIDE) / longer, math.sqrt(pixels / (longer * shorter))
        )
        wide, narrow = (max(1, math.floor(side * one + _ROUNDING)) for one in (longer, shorter))
        return (wide, narrow) if ratio >= 1 else (narrow, wide)

    def drawn(self, size: tuple[int, int]) -> Any:
        """Return the drawing at exactly this size: sRGB with alpha, 8 bits; lazy."""
        width, height = size
        document = (
            f'<svg xmlns="{_SVG}" xmlns:xlink="{_XLINK}" width="{width}" height="{height}"'
            f' viewBox="{self.view_box}" preserveAspectRatio="{_escaped(self.aspect)}"'
            # A rule of a style sheet overrides attributes, but not this.
            f' style="width:{width}px!important;height:{height}px!important;'
            f'{_escaped(self.style)}"{self.attributes}>{self.body}</svg>'
        )
        image = _load(document)
        if (image.width, image.height) != size:
            image = image.thumbnail_image(width, height=height, size="force")
        return image


def read(content: bytes, limits: Limits) -> Drawing:
    """Check a document.

    Raises:
        SourceRefused: the document is damaged, refers to other files, or exceeds a limit.
    """
    # Some programs write blank lines before the declaration, which XML forbids.
    content = _plain(content).lstrip(_BLANK)
    if len(content) > MAX_BYTES:
        _refuse("too_large", f"has more than {MAX_BYTES:,} bytes: simplify its paths")
    builder = _Builder(limits, references=content.count(b"&") + content.count(b"&\0"))
    parser = builder.parser
    try:
        parser.Parse(content, True)  # noqa: FBT003 - expat takes it by position
    except expat.ExpatError as error:
        where = f"line {error.lineno}, column {error.offset + 1}"
        reason = expat.ErrorString(error.code)
        _refuse("undecodable", f"is not well-formed XML ({reason} at {where}): export it again")
    except (LookupError, ImportError, OSError, ValueError):
        _refuse("undecodable", "has an unknown encoding: save it as UTF-8")
    return builder.drawing()


def _refuse(kind: str, what: str) -> NoReturn:
    raise SourceRefused(kind, f"the SVG {what}")


def _refuse_reference(what: str, target: str) -> NoReturn:
    target = target.strip()
    shown = target if len(target) <= _SHOWN else f"{target[:_SHOWN]}..."
    _refuse(
        "unsupported",
        f"refers to another file ({what} {shown!r}), which is never fetched: embed it as a data:"
        " URL, or remove it",
    )


def _plain(content: bytes) -> bytes:
    """Return a document decompressed, no more of it than one byte above the limit."""
    if not content.startswith(_GZIP):
        return content
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        plain = inflater.decompress(content, MAX_BYTES + 1)
    except zlib.error:
        _refuse("undecodable", "is damaged: it cannot be decompressed")
    if len(plain) <= MAX_BYTES and not inflater.eof:
        _refuse("undecodable", "is truncated: its compressed data end early")
    if sniff(plain[:SNIFF_BYTES]) != "svg":
        raise SourceRefused("unsupported", "the source is compressed by gzip and is not an SVG")
    return plain


@dataclass(slots=True, eq=False)
class _Scope:
    """An element with an id, or the root: what is drawn when something refers to it."""

    elements: int = 1
    references: list[tuple[str, int]] = field(default_factory=list)
    """Ids, and how often each is drawn."""
    inner: list[_Scope] = field(default_factory=list)
    drawn: int | None = None


class _Builder:
    """Receives a document from expat and writes the part of it that is drawn."""

    def __init__(self, limits: Limits, *, references: int) -> None:
        self._limits = limits
        self._references = references
        self._entities = 0
        self._prefixes: list[Mapping[str, str]] = [_PREFIXES]
        # The open elements that are written; 0 or the depth inside of one that is not.
        self._open: list[str] = []
        self._dropped = 0
        self._root: dict[str, str] = {}
        self._out: list[str] = []
        self._css: list[str] = []
        self._elements = 0
        self._pixels = 0
        self._scopes: list[_Scope | None] = []
        self._by_id: dict[str, _Scope] = {}
        self._whole = _Scope()
        self.parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.ordered_attributes = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.EntityDeclHandler = self._entity
        parser.ProcessingInstructionHandler = self._instruction

    def drawing(self) -> Drawing:
        """Return the document, after the last byte."""
        self._count_drawn()
        root = self._root
        view_box = _view_box(root.get("viewBox", ""))
        width, height = (_length(root.get(side, "")) for side in ("width", "height"))
        rest = {name: value for name, value in root.items() if name not in _OWN_SIZE}
        style = _OWN_STYLE.sub("", rest.pop("style", ""))
        attributes = "".join(f' {name}="{_escaped(value)}"' for name, value in rest.items())
        body, aspect = "".join(self._out), root.get("preserveAspectRatio", "xMidYMid")
        if view_box is None:
            width, height = width or _DEFAULT_SIZE[0], height or _DEFAULT_SIZE[1]
            box = f"0 0 {width:.9g} {height:.9g}"
            return Drawing(attributes, style, body, width / height, box, "none")
        ratio = own = view_box[2] / view_box[3]
        if width is not None and height is not None:
            ratio = width / height
        # The sides of a rendition are whole pixels: with "none" it is filled to its edges.
        same = abs(math.log(ratio / own)) < _SAME_SHAPE
        box = " ".join(f"{value:.9g}" for value in view_box)
        return Drawing(attributes, style, body, ratio, box, "none" if same else aspect)

    def _instruction(self, target: str, content: str) -> None:
        if target == "xml-stylesheet":
            _refuse_reference("<?xml-stylesheet?>", content)

    def _entity(
        self,
        name: str,
        is_parameter: int,
        value: str | None,
        _base: str | None,
        system_id: str | None,
        _public_id: str | None,
        _notation: str | None,
    ) -> None:
        if system_id is not None:
            _refuse_reference(f"entity {name}", system_id)
        self._entities += 1
        text = value or ""
        # Illustrator declares a dozen namespaces as entities. An entity that contains entities
        # or markup serves no export, but bombs.
        nested = is_parameter or "&" in text or "%" in text or "<" in text
        expanded = self._references * len(text)
        if nested or self._entities > _MAX_ENTITIES or len(text) > _MAX_ENTITY:
            _refuse("unsupported", "declares entities in entities, or too many: export it again")
        if expanded > MAX_BYTES:
            _refuse("too_large", f"has more than {MAX_BYTES:,} bytes with its entities expanded")

    def _start(self, name: str, pairs: Sequence[str]) -> None:
        attributes = dict(zip(pairs[::2], pairs[1::2], strict=True))
        prefixes = self._prefixes[-1]
        if any(one.startswith("xmlns") for one in attributes):
            own = {one[6:]: uri for one, uri in attributes.items() if _declares(one)}
            prefixes = {**prefixes, **own}
        self._prefixes.append(prefixes)
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            _refuse("too_large", f"has more than {MAX_ELEMENTS:,} elements: simplify it")
        if len(self._prefixes) > MAX_DEPTH:
            _refuse("too_large", f"has elements nested more than {MAX_DEPTH} deep: ungroup them")
        prefix, _, local = name.rpartition(":")
        # An empty default namespace is the lack of one.
        namespace = prefixes.get(prefix, "?") or _SVG
        if not self._open and not self._dropped:
            self._start_document(local if namespace == _SVG else name)
        elif namespace == _XINCLUDE:
            _refuse_reference("xinclude", attributes.get("href", ""))
        if self._dropped or namespace != _SVG or local in _DROPPED:
            self._dropped += 1
            return
        kept = dict(self._attributes(local, attributes, prefixes))
        self._count(local, kept)
        if not self._open:
            self._root = kept
        else:
            text = "".join(f' {one}="{_escaped(value)}"' for one, value in kept.items())
            self._out.append(f"<{local}{text}>")
        self._open.append(local)

    def _start_document(self, name: str) -> None:
        if self._elements > 1:
            return
        if name != "svg":
            detail = f"the source is an XML document of <{name[:_SHOWN]}>, not an SVG"
            raise SourceRefused("unsupported", detail)

    def _end(self, _name: str) -> None:
        self._prefixes.pop()
        if self._dropped:
            self._dropped -= 1
            return
        local = self._open.pop()
        if (scope := self._scopes.pop()) is not None and self._open:
            self._scope.inner.append(scope)
        if local == "style":
            self._out.append(_escaped(_checked_sheet("".join(self._css))))
            self._css.clear()
        if self._open:
            self._out.append(f"</{local}>")

    def _text(self, text: str) -> None:
        if self._dropped:
            return
        if self._open[-1] == "style":
            self._css.append(text)
        elif not _TEXT.isdisjoint(self._open):
            if not text.isspace() and (reason := fonts.missing()):
                # Not a fault of the file: an upload must not be deleted for it.
                _refuse(
                    "no_decoder",
                    f"has text, and the server has no fonts ({reason}): convert the text to paths",
                )
            self._out.append(_escaped(text))

    def _attributes(
        self, element: str, attributes: Mapping[str, str], prefixes: Mapping[str, str]
    ) -> Iterator[tuple[str, str]]:
        """Yield the attributes that are drawn, with the prefixes of the new document."""
        for name, value in attributes.items():
            prefix, _, local = name.rpartition(":")
            namespace = prefixes.get(prefix, "?") if prefix else ""
            if local == "href" and namespace in ("", _XLINK):
                if target := self._target(element, value):
                    yield ("xlink:href" if prefix else "href"), target
            elif namespace == _XML and local in ("space", "lang"):
                yield f"xml:{local}", value
            elif not prefix and not local.startswith(("xmlns", "on")):
                if "(" in value or "\\" in value:
                    _check_css(value, f"{element} {name}")
                yield name, value

    def _target(self, element: str, value: str) -> str:
        """Return the reference of an element if it is one to this document."""
        value = value.strip()
        # A link is not followed.
        if element == "a" or not value:
            return ""
        if value.startswith("#"):
            return value
        if element in ("image", "feImage") and value[:5].lower() == "data:":
            return self._embedded(value)
        _refuse_reference(f"href of <{element}>", value)

    def _embedded(self, url: str) -> str:
        """Return the ``data:`` URL of an image that is within the limits."""
        head, _, text = url.partition(",")
        try:
            if head.lower().endswith(";base64"):
                content = base64.b64decode("".join(unquote_to_bytes(text).decode("ascii").split()))
            else:
                content = unquote_to_bytes(text)
        except (binascii.Error, ValueError):
            _refuse("undecodable", "embeds an image that is not Base64: export it again")
        found = sniff(content[:SNIFF_BYTES])
        if found not in _EMBEDDED or found not in self._limits.source_types:
            _refuse(
                "unsupported",
                f"embeds an image of type {found or 'unknown'}: embed it as PNG or JPEG",
            )
        try:
            if found == "avif":
                heif_items.check(content, self._limits)
            image = pyvips.Image.new_from_buffer(content, "", access="sequential")
            self._pixels += image.width * image.height
            if self._pixels > (most := self._limits.max_raw_bytes // _RGBA):
                _refuse("too_large", f"embeds {self._pixels:,} pixels; {most:,} are allowed")
            if found not in _EMBEDDED[:2]:
                found, content = "png", image.pngsave_buffer(compression=1)
        except pyvips.Error:
            _refuse("undecodable", f"embeds a {found} image that is damaged: export it again")
        return f"data:image/{found};base64,{base64.b64encode(content).decode()}"

    @property
    def _scope(self) -> _Scope:
        return next(scope for scope in reversed(self._scopes) if scope is not None)

    def _count(self, element: str, attributes: Mapping[str, str]) -> None:
        name = attributes.get("id")
        if not self._scopes:
            self._scopes.append(self._whole)
        elif name is None:
            self._scopes.append(None)
            self._scope.elements += 1
        else:
            self._scopes.append(_Scope())
        if name is not None:
            self._by_id.setdefault(name, self._scope)
        if element.startswith("fe"):
            self._scope.elements += _FILTER_COST
        references = self._scope.references
        for attribute, value in attributes.items():
            if attribute.endswith("href") and value.startswith("#"):
                references.append((value[1:], 1))
            elif "(" in value:
                # A marker is drawn at each vertex.
                marks = "marker" in (value if attribute == "style" else attribute)
                path = attributes.get("d") or attributes.get("points", "")
                times = 1 + len(path) // _VERTEX_CHARACTERS if marks else 1
                references += ((one[1:], times) for one in _urls(value) if one[:1] == "#")

    def _count_drawn(self) -> None:
        """Refuse a document whose references draw more elements than it may have."""
        # Post-order without recursion: a chain of references may be as long as the document.
        pending = [(self._whole, False)]
        active: set[int] = set()
        while pending:
            scope, complete = pending.pop()
            targets = [(inner, 1) for inner in scope.inner]
            found = ((self._by_id.get(name), times) for name, times in scope.references)
            targets += ((one, times) for one, times in found if one is not None)
            if complete:
                active.discard(id(scope))
                # librsvg does not draw circular references; they count as nothing.
                scope.drawn = scope.elements + sum(
                    times * (one.drawn or 0) for one, times in targets
                )
                if scope.drawn > MAX_ELEMENTS:
                    _refuse(
                        "too_large",
                        f"draws more than {MAX_ELEMENTS:,} elements by references: simplify it",
                    )
            elif scope.drawn is None and id(scope) not in active:
                active.add(id(scope))
                pending.append((scope, True))
                pending += ((one, False) for one, _ in targets if one.drawn is None)


def _escaped(text: str) -> str:
    # Not by xml.sax.saxutils, which imports an HTTP client.
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace('"', "&quot;")


def _declares(attribute: str) -> bool:
    return attribute == "xmlns" or attribute.startswith("xmlns:")


def _urls(css: str) -> list[str]:
    """Return the targets of ``url()``."""
    return ["".join(found).strip() for found in _URL.findall(css)]


def _unescaped(css: str) -> str:
    def character(found: re.Match[str]) -> str:
        number = int(found[1], 16) if found[1] else 0
        return chr(number) if 0 < number < 0x110000 else found[2] or "\ufffd"  # noqa: PLR2004

    return _CSS_ESCAPE.sub(character, css) if "\\" in css else css


def _check_css(css: str, where: str) -> None:
    """Refuse references to other files."""
    css = _unescaped(_CSS_COMMENT.sub(" ", css))
    if _IMPORT.search(css):
        _refuse_reference(where, css[css.lower().index("@import") :])
    for target in _urls(css):
        if target and not target.startswith("#"):
            _refuse_reference(f"{where} url", target)


def _checked_sheet(css: str) -> str:
    """Return a style sheet without fonts that it contains: librsvg does not read them."""
    css = _CSS_COMMENT.sub(" ", css)
    for face in _FONT_FACE.findall(css):
        for target in _urls(_unescaped(face)):
            if target[:5].lower() != "data:":
                _refuse_reference("@font-face url", target)
    css = _FONT_FACE.sub(" ", css)
    _check_css(css, "<style>")
    return css


def _length(text: str) -> float | None:
    """Return a length in pixels; None if it is relative to something unknown, or no size."""
    found = _LENGTH.fullmatch(text)
    if found is None or (scale := _PIXELS.get(found[2].lower())) is None:
        return None
    length = float(found[1]) * scale
    return length if _SMALLEST <= length <= _LARGEST else None


def _view_box(text: str) -> tuple[float, float, float, float] | None:
    parts = _SEPARATOR.split(text.strip())
    try:
        left, top, width, height = map(float, parts)
    except ValueError:
        return None
    # Also false for NaN.
    sized = all(_SMALLEST <= side <= _LARGEST for side in (width, height))
    placed = all(abs(place) <= _LARGEST for place in (left, top))
    return (left, top, width, height) if sized and placed else None


def _load(document: str) -> Any:
    # Without "unlimited" libxml2 refuses embedded images of over 10 MB. By "dpi" librsvg converts
    # millimetres and points; libvips assumes 72 and multiplies the size of the image by dpi / 72.
    return pyvips.Image.svgload_buffer(
        document.encode(), unlimited=True, dpi=_INCH, scale=_VIPS_INCH / _INCH
    )
