"""All dates of a file in order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

from proxy.metadata.forensics.facts import Leaf, excerpt, leaves
from proxy.metadata.tags import Groups

_DATE = re.compile(
    r"(\d{4})[:-](\d\d)[:-](\d\d)"
    r"(?:[ T](\d\d):(\d\d)(?::(\d\d)(\.\d{1,9})?)?)?"
    r"\s?(Z|[+-]\d\d:?\d\d)?",
    # `fromisoformat` accepts no other digits.
    re.ASCII,
)
_OFFSET = re.compile(r"Z|[+-]\d\d:?\d\d", re.ASCII)
_NAME = re.compile(r"date|time|when|created|modified|digitized", re.IGNORECASE)
_COMPUTED = {
    "DateTimeCreated": "IPTC:DateCreated",
    "DigitalCreationDateTime": "IPTC:DigitalCreationDate",
    "GPSDateTime": "GPS:GPSDateStamp",
}
"""Dates that exiftool joins from two tags, and the tag whose place they take."""
_EXIF = {
    "DateTimeOriginal": "Original",
    "CreateDate": "Digitized",
    "ModifyDate": "",
}
"""EXIF dates, and the suffix of the tags with their fraction and their offset."""


class Moment(NamedTuple):
    """A date of a file."""

    time: datetime
    """Without an offset in the file it counts as UTC."""
    when: str
    """ISO 8601, as exact as the file has it."""
    field: str
    value: str
    has_time: bool
    has_offset: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of a timeline."""
        return {"when": self.when, "field": self.field, "value": self.value}


def moments(groups: Groups, signed_at: object = None) -> list[Moment]:
    """Return all dates in order; ``signed_at`` is that of the Content Credentials."""
    found = list(_dates(groups))
    if signed := parsed(Leaf("c2pa", "signed_at", "c2pa:signed_at", signed_at)):
        found.append(signed)
    return sorted(found, key=lambda one: one.time)


def _dates(groups: Groups) -> Iterator[Moment]:
    computed = groups.get("Composite", {})
    replaced = {tag for name, tag in _COMPUTED.items() if name in computed}
    for leaf in leaves(groups):
        if leaf.group == "Composite" and leaf.name not in _COMPUTED:
            continue  # made of tags that are listed themselves
        if leaf.path in replaced or not _NAME.search(leaf.name):
            continue
        if moment := parsed(leaf, *_exif_details(groups, leaf)):
            yield moment


def _exif_details(groups: Groups, leaf: Leaf) -> tuple[str, str]:
    """Return fraction and offset of an EXIF date, which are tags of their own."""
    if leaf.group not in ("IFD0", "ExifIFD") or leaf.name not in _EXIF:
        return "", ""
    exif, suffix = groups.get("ExifIFD", {}), _EXIF[leaf.name]
    fraction = str(exif.get(f"SubSecTime{suffix}", "")).strip()
    offset = exif.get(f"OffsetTime{suffix}") or ""
    digits = fraction[:9] if fraction.isascii() and fraction.isdigit() else ""
    return (f".{digits}" if digits else ""), str(offset).strip()


def parsed(leaf: Leaf, fraction: str = "", offset: str = "") -> Moment | None:
    """Return the date of a value, or None."""
    match = _DATE.fullmatch(str(leaf.value).strip()) if isinstance(leaf.value, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second, own_fraction, own_offset = match.groups()
    if not _OFFSET.fullmatch(offset):
        offset = ""
    zone = (own_offset or offset) if hour else ""
    try:
        day_of = datetime(int(year), int(month), int(day), tzinfo=_zone(zone))
        time = day_of.replace(hour=int(hour or 0), minute=int(minute or 0), second=int(second or 0))
        # An offset at the end of the calendar leads out of it.
        time = time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    when = f"{year}-{month}-{day}"
    if hour:
        when += f"T{hour}:{minute}:{second or '00'}{own_fraction or fraction}{zone}"
    return Moment(time, when, leaf.path, excerpt(leaf.value), bool(hour), bool(zone))


def _zone(offset: str) -> timezone:
    if offset in ("", "Z"):
        return UTC
    sign = -1 if offset[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(offset[1:3]), minutes=int(offset[-2:])))
