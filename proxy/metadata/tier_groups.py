"""Which groups of metadata belong to which tier. Pure data: `tiers.withhold` applies it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from proxy.domain.errors import RequestError


class GroupClass(StrEnum):
    """Kinds of metadata that tiers are made of."""

    EXIF = "EXIF"
    """Standard EXIF, and what the container says about its image."""
    GPS = "GPS"
    AI = "AI"
    """The generator, and the text chunks in which generators write."""
    HASHES = "hashes"
    MAKER_NOTES = "MakerNotes"
    """Also every group that is not in the table, such as a vendor's trailer."""
    IPTC = "IPTC"
    XMP = "XMP"
    ICC = "ICC"
    C2PA = "C2PA"
    ADVANCED = "advanced"


_FREE = frozenset({GroupClass.EXIF, GroupClass.GPS, GroupClass.AI, GroupClass.HASHES})
_PROFESSIONAL = frozenset(GroupClass) - {GroupClass.ADVANCED}
_CLASSES: Mapping[str, frozenset[GroupClass]] = {
    "free": _FREE,
    "professional": _PROFESSIONAL,
    "forensic": frozenset(GroupClass),
    "enterprise": frozenset(GroupClass),
}
"""Classes that a tier may see, by the tier's name, lowest tier first."""

_PARTS: Mapping[str, GroupClass] = {
    "ai_generation": GroupClass.AI,
    "hashes": GroupClass.HASHES,
    "sha256": GroupClass.HASHES,
    "c2pa": GroupClass.C2PA,
    "advanced": GroupClass.ADVANCED,
}
"""Parts of an extraction that are not among its ``groups``."""

_PATTERNS: tuple[tuple[str, GroupClass], ...] = (
    (r"IFD\d*|ExifIFD|InteropIFD|SubIFD\d*|ProfileIFD|EXIF", GroupClass.EXIF),
    (r"File|Composite|JFIF|JFXX|JPEG|SPIFF|Adobe|Ducky", GroupClass.EXIF),
    # Not tracks: Canon writes its notes there.
    (r"GIF|RIFF|SVG|QuickTime|Meta|Jpeg2000", GroupClass.EXIF),
    (r"GPS\d*|GeoTiff", GroupClass.GPS),
    (r"PNG(-.*)?", GroupClass.AI),
    # Photoshop's resources are where IPTC is stored; the others are trailers with IPTC.
    (r"IPTC\d*|Photoshop|AFCP|FotoStation|PhotoMechanic", GroupClass.IPTC),
    (r"XMP\d*(-.*)?", GroupClass.XMP),
    (r"ICC(_Profile\d*|-.*)", GroupClass.ICC),
    (r"JUMBF|CBOR|JSON", GroupClass.C2PA),
)
"""Names of exiftool's groups (``-G1``)."""
_GROUPS = tuple((re.compile(pattern), kind) for pattern, kind in _PATTERNS)


def class_of(group: str) -> GroupClass:
    """Return the class of a group of exiftool (``-G1``), or of another part of an extraction.

    Maker notes have a group for each vendor, and exiftool adds new ones: they are the default.
    """
    if part := _PARTS.get(group):
        return part
    found = (kind for pattern, kind in _GROUPS if pattern.fullmatch(group))
    return next(found, GroupClass.MAKER_NOTES)


def groups_of(tier: str) -> frozenset[GroupClass]:
    """Return what a tier may see.

    Raises:
        RequestError: there is no such tier.
    """
    try:
        return _CLASSES[tier]
    except KeyError:
        known = ", ".join(_CLASSES)
        raise RequestError(f"There is no tier {tier!r}. Tiers are {known}.") from None


def is_visible(group: str, tier: str) -> bool:
    """Return whether a tier may see a group, or a part such as ``c2pa`` or ``advanced``.

    Raises:
        RequestError: there is no such tier.
    """
    return class_of(group) in groups_of(tier)


def lowest_tier_of(group: str) -> str:
    """Return the name of the lowest tier that may see a group or a part."""
    return next(tier for tier in _CLASSES if is_visible(group, tier))
