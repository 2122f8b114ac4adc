"""IPTC-IIM: datasets of the application record that hold text."""

from __future__ import annotations

from proxy.metadata.container.collector import Collector, decode_text
from proxy.metadata.container.result import TextEntry

_MARKER = 0x1C
_HEADER = 5
_EXTENDED = 0x8000
_NAMES = {
    5: "ObjectName",
    7: "EditStatus",
    12: "SubjectReference",
    15: "Category",
    20: "SupplementalCategories",
    22: "FixtureIdentifier",
    25: "Keywords",
    26: "ContentLocationCode",
    27: "ContentLocationName",
    40: "SpecialInstructions",
    55: "DateCreated",
    60: "TimeCreated",
    62: "DigitalCreationDate",
    63: "DigitalCreationTime",
    65: "OriginatingProgram",
    70: "ProgramVersion",
    80: "By-line",
    85: "By-lineTitle",
    90: "City",
    92: "Sub-location",
    95: "Province-State",
    100: "Country-PrimaryLocationCode",
    101: "Country-PrimaryLocationName",
    103: "OriginalTransmissionReference",
    105: "Headline",
    110: "Credit",
    115: "Source",
    116: "CopyrightNotice",
    118: "Contact",
    120: "Caption-Abstract",
    122: "Writer-Editor",
}
_APPLICATION = 2


def read(collector: Collector, content: bytes) -> None:
    """Add the datasets of a block."""
    at = 0
    while at + _HEADER <= len(content) and content[at] == _MARKER:
        collector.count_chunk()
        record, dataset = content[at + 1], content[at + 2]
        length = int.from_bytes(content[at + 3 : at + 5], "big")
        at += _HEADER
        if length & _EXTENDED:
            # The low bits are the number of bytes that hold the length.
            digits = length & ~_EXTENDED
            length = int.from_bytes(content[at : at + min(digits, 8)], "big")
            at += digits
        value = content[at : at + length]
        if len(value) < length:
            collector.damage("IPTC is truncated")
        if record == _APPLICATION and dataset in _NAMES:
            collector.iptc.append(TextEntry(_NAMES[dataset], "IPTC", decode_text(value)))
        at += length
