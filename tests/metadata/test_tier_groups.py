"""Which groups belong to which tier."""

from __future__ import annotations

import json
import subprocess

import pytest

from proxy.domain.errors import RequestError
from proxy.metadata.tier_groups import GroupClass, class_of, groups_of, is_visible, lowest_tier_of
from tests.metadata.files import require_exiftool
from tests.support.golden import golden

TIERS = ("free", "professional", "forensic", "enterprise")
VENDORS = (
    *("Apple", "Canon", "CanonCustom", "Casio", "DJI", "FLIR", "FujiFilm", "GE", "Google", "HP"),
    *("JVC", "Kodak", "KodakIFD", "KyoceraRaw", "Leica", "Minolta", "Motorola", "Nikon"),
    *("NikonCustom", "Olympus", "Panasonic", "Pentax", "PhaseOne", "Qualcomm", "Reconyx", "Ricoh"),
    *("Samsung", "Sanyo", "Sigma", "Sony", "SonyIDC", "MakerNotes", "MakerUnknown", "PrintIM"),
)


def test_each_tier_sees_what_the_lower_one_sees_and_more() -> None:
    free, professional, forensic, enterprise = map(groups_of, TIERS)
    assert free == {"EXIF", "GPS", "AI", "hashes"}
    assert professional - free == {"MakerNotes", "IPTC", "XMP", "ICC", "C2PA"}
    assert forensic - professional == {"advanced"}
    assert enterprise == forensic


@pytest.mark.parametrize(
    ("kind", "groups"),
    [
        ("EXIF", "IFD0 IFD1 ExifIFD InteropIFD SubIFD SubIFD2 File Composite JFIF QuickTime GIF"),
        ("GPS", "GPS GeoTiff"),
        ("AI", "PNG PNG-pHYs ai_generation"),
        ("hashes", "sha256 hashes"),
        ("IPTC", "IPTC IPTC2 Photoshop FotoStation PhotoMechanic"),
        ("XMP", "XMP XMP-dc XMP-xmpMM XMP-GCamera XMP-somebody-new"),
        ("ICC", "ICC_Profile ICC_Profile2 ICC-header ICC-chrm"),
        ("C2PA", "JUMBF CBOR JSON c2pa"),
        ("MakerNotes", " ".join(VENDORS)),
        ("MakerNotes", "Track3 a-vendor-of-tomorrow XMPish GPSx"),
        ("advanced", "advanced"),
    ],
)
def test_a_group_has_one_class(kind: str, groups: str) -> None:
    assert {group: class_of(group) for group in groups.split()} == dict.fromkeys(
        groups.split(), GroupClass(kind)
    )


def test_what_a_tier_does_not_see_names_the_tier_that_does() -> None:
    assert not is_visible("Canon", "free")
    assert is_visible("Canon", lowest_tier_of("Canon"))
    assert lowest_tier_of("Canon") == "professional"
    assert lowest_tier_of("GPS") == "free"
    assert lowest_tier_of("advanced") == "forensic"


def test_a_tier_that_does_not_exist_is_refused() -> None:
    with pytest.raises(RequestError, match="free, professional, forensic, enterprise"):
        is_visible("GPS", "gold")


@pytest.mark.slow
def test_the_maker_notes_of_every_camera_are_withheld_from_the_free_tier() -> None:
    """exiftool names their general group (``-G0``) MakerNotes, whatever the vendor."""
    require_exiftool()
    printed = subprocess.run(
        ["exiftool", "-j", "-G0:1", "-a", "-u", "-n", str(golden("exiftool/images"))],
        capture_output=True,
        timeout=280,
        check=False,
    )
    keys = {key for file in json.loads(printed.stdout) for key in file if key.count(":") > 1}
    notes = {one for zero, one, _ in (key.split(":", 2) for key in keys) if zero == "MakerNotes"}
    assert len(notes) > 15
    assert {one for one in notes if is_visible(one, "free")} == set()
    exif = {one for zero, one, _ in (key.split(":", 2) for key in keys) if zero == "EXIF"}
    assert {one for one in exif if not is_visible(one, "professional")} == set()
