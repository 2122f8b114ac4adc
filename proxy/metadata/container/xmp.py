"""XMP: properties of a packet, read as a stream without building a tree."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from proxy.metadata.container.collector import Collector
from proxy.metadata.container.result import TextEntry

MAX_ELEMENTS = 50_000
"""Photoshop once wrote documents with a hundred thousand ancestors."""
MAX_DEPTH = 64
_MAX_KEYWORD = 300
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_META = "adobe:ns:meta/"
_DESCRIPTION = f"{{{_RDF}}}Description"
_VALUES = (f"{{{_RDF}}}resource", f"{{{_RDF}}}value")
"""Attributes of RDF that are the value of their property."""
_ABOUT = f"{{{_RDF}}}about"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"

PREFIXES = {
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/xap/1.0/mm/": "xmpMM",
    "http://ns.adobe.com/xap/1.0/rights/": "xmpRights",
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/": "Iptc4xmpCore",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt",
    "http://ns.useplus.org/ldf/xmp/1.0/": "plus",
    "http://ns.adobe.com/xmp/note/": "xmpNote",
}
"""Usual prefixes; a file may declare others for the same namespace."""


class _Enough(Exception):
    """A limit is reached; what was read so far counts."""


class PropertyReader:
    """Target of an XML parser: collects texts and attributes below RDF descriptions."""

    def __init__(self) -> None:
        """Start without a property."""
        self.entries: list[TextEntry] = []
        self._prefixes: dict[str, str] = {}
        self._path: list[str | None] = []
        self._texts: list[list[str]] = []
        self._languages: list[str] = []
        self._elements = 0

    def start_ns(self, prefix: str, uri: str) -> None:
        """Record a declared prefix."""
        self._prefixes.setdefault(uri, prefix)

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Open an element; its attributes are properties."""
        self._elements += 1
        if self._elements > MAX_ELEMENTS or len(self._path) >= MAX_DEPTH:
            raise _Enough
        self._path.append(self._name(tag))
        self._texts.append([])
        inherited = self._languages[-1] if self._languages else ""
        self._languages.append(attributes.get(_LANGUAGE, inherited))
        self._elements += len(attributes)
        for name, value in attributes.items():
            if name != _LANGUAGE and (own := self._name(name)):
                self._add([*self._path, own], value, "")
            elif value.strip() and (name in _VALUES or self._is_node(tag, name)):
                self._add(self._path, value, self._languages[-1])

    def data(self, text: str) -> None:
        """Collect a part of an element's text."""
        if self._texts:
            self._texts[-1].append(text)

    def end(self, _tag: str) -> None:
        """Close an element; its text is the value of the property."""
        text = "".join(self._texts.pop())
        if text.strip():
            self._add(self._path, text, self._languages[-1])
        self._path.pop()
        self._languages.pop()

    def close(self) -> None:
        """Return nothing; the entries are an attribute."""

    def _add(self, path: list[str | None], text: str, language: str) -> None:
        names = [name for name in path if name]
        if names:
            prefix = names[0].partition(":")[0]
            default = "" if language == "x-default" else language
            # Long names would be repeated for each of the properties inside.
            keyword = "/".join(names)[-_MAX_KEYWORD:]
            where = f"XMP-{prefix[:_MAX_KEYWORD]}"
            self.entries.append(TextEntry(keyword, where, text, default))

    def _is_node(self, tag: str, attribute: str) -> bool:
        """Return whether an attribute names the node that is the value of a property.

        On the outermost description it names the file.
        """
        return attribute == _ABOUT and tag == _DESCRIPTION and any(self._path)

    def _name(self, tag: str) -> str | None:
        """Return ``prefix:name``, or None for the elements of RDF and of the packet."""
        uri, brace, name = tag[1:].partition("}") if tag.startswith("{") else ("", "", tag)
        if not brace or uri in (_RDF, _META):
            return None
        prefix = PREFIXES.get(uri) or self._prefixes.get(uri) or "unknown"
        return f"{prefix}:{name}"[-_MAX_KEYWORD:]


def read(collector: Collector, packet: bytes, where: str) -> None:
    """Add the properties of a packet; those before a fault if it is not well-formed.

    DTDs and entities are refused, so nothing is expanded and nothing is fetched.
    """
    target = PropertyReader()
    # UTF-8 may be padded; in UTF-16 a zero byte is half a character.
    document = packet if b"\0" in packet[:4] else packet.strip(b"\0 \t\r\n")
    parse(collector, document, target, where)
    collector.xmp.extend(target.entries)


def parse(collector: Collector, document: bytes, target: object, where: str) -> None:
    """Parse XML into a target; faults become warnings."""
    try:
        parser = DefusedXMLParser(target=target, forbid_dtd=True)
        parser.feed(document)
        parser.close()
    except DefusedXmlException:
        collector.warn(f"{where}: a document type or an entity is declared; it is not read")
    except (ParseError, ValueError, LookupError) as error:
        # An unknown encoding is a LookupError or a ValueError.
        collector.warn(f"{where}: not well-formed XML ({str(error)[:80]})")
    except _Enough:
        collector.warn(f"{where}: more elements than are read")
