"""What a file reveals about places, devices and people."""

from __future__ import annotations

import re
from typing import Any

from proxy.metadata.forensics.facts import excerpt, leaves, observation
from proxy.metadata.tags import Groups

MAX_ENTRIES = 100
"""Of each kind."""

_NOT = re.compile(r"ICC.*|Composite|JUMBF|CBOR")
"""Groups about a colour profile, and those whose tags are listed themselves."""
_KINDS: dict[str, tuple[re.Pattern[str], str, tuple[str, ...]]] = {
    "gps": (
        re.compile(
            r"GPS(Dest)?(Latitude|Longitude|Position)|GPSCoordinates|GPSAltitude|GPSAreaInformation"
            r"|(Decimal|Verbatim)(Latitude|Longitude)|Sub-?location|Location(Name)?|City"
            r"|Province-?State|State|Country(-PrimaryLocationName|Name)?|Locality|GeoTiff.*"
            r"|Location(Created|Shown).*"
        ),
        "The place where the image was taken, or that it shows.",
        ("Phones write positions by default.", "Agencies write places into captions."),
    ),
    "serials": (
        re.compile(r"\w*SerialNumber\w*|\w*SerialNo|CameraID|DeviceID|UniqueCameraID|BodySerial"),
        "Images of one device can be linked by this number.",
        ("Cameras and lenses write it by default.",),
    ),
    "owner": (
        re.compile(
            r"(Camera)?Owner(Name)?|Artist|Creator(?!Tool|Software|Atom)\w*|By-line|Author|XPAuthor"
            r"|Photographer|Copyright(Notice)?|Rights|Credit|PersonInImage\w*|PersonDisplayName"
            r"|HostComputer|Editor|Contact|Writer-Editor|CaptionWriter|AuthorsPosition"
        ),
        "A name of a person, of an organisation, or of a computer.",
        ("Photographers and agencies write their names to be credited.",),
    ),
    "software": (
        re.compile(
            r"Software\w*|\w+Software|CreatorTool|SoftwareAgent|ProcessingSoftware|HistorySoftware"
            r"|OriginatingProgram|CreatingApplication|Producer|Tool_Name|Firmware(Version)?"
        ),
        "A program that wrote the file, or a part of its metadata.",
        ("Cameras and all editors write their name.",),
    ),
}
_NO_SERIAL = re.compile(r"SerialNumberFormat|SerialInfo")
_REGION = re.compile(r"RegionList\[\d+\]\.Name$")
_EMPTY = re.compile(r"[\s0:.]*")


def privacy_of(groups: Groups) -> dict[str, list[dict[str, Any]]]:
    """Return observations by kind: ``gps``, ``serials``, ``owner`` and ``software``."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    for leaf in leaves(groups):
        if _NOT.fullmatch(leaf.group) or _NO_SERIAL.fullmatch(leaf.name):
            continue
        # Cameras reserve room for names that nobody has set.
        if isinstance(leaf.value, bool | None) or _EMPTY.fullmatch(str(leaf.value)):
            continue
        # Regions are faces.
        name = "PersonInImage" if _REGION.search(leaf.path) else leaf.name
        for kind, (names, means, reasons) in _KINDS.items():
            if names.fullmatch(name) and len(found[kind]) < MAX_ENTRIES:
                seen = observation(leaf.name, leaf.path, means, *reasons)
                found[kind].append({**seen, "value": excerpt(leaf.value)})
    return found
