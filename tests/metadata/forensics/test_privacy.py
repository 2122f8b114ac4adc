"""What a file reveals."""

from __future__ import annotations

from typing import Any

from proxy.metadata.forensics.privacy import MAX_ENTRIES, privacy_of


def places(groups: Any) -> dict[str, list[tuple[str, str]]]:
    found = privacy_of(groups)
    for one in (entry for entries in found.values() for entry in entries):
        assert set(one) == {"what", "where", "means", "innocent_reasons", "value"}
        assert one["innocent_reasons"]
    return {kind: [(one["where"], one["value"]) for one in found[kind]] for kind in found}


def test_every_kind_is_found_wherever_it_is() -> None:
    groups = {
        "IFD0": {"Software": "GIMP 2.10", "Artist": "A. Person", "HostComputer": "Ann's Mac"},
        "ExifIFD": {"SerialNumber": "0123", "LensSerialNumber": "00a1"},
        "Canon": {"InternalSerialNumber": "X7", "OwnerName": "A. Person"},
        "GPS": {"GPSLatitude": 1.5, "GPSLongitude": 2.5},
        "IPTC": {"City": "Oslo", "By-line": ["One", "Two"]},
        "XMP-mwg-rs": {"RegionInfo": {"RegionList": [{"Name": "A. Face", "Type": "Face"}]}},
        "XMP-xmp": {"CreatorTool": "Adobe Photoshop"},
        "XMP-iptcExt": {"LocationCreated": [{"City": "Bergen"}], "PersonInImage": ["P. Person"]},
    }
    assert places(groups) == {
        "gps": [
            ("GPS:GPSLatitude", "1.5"),
            ("GPS:GPSLongitude", "2.5"),
            ("IPTC:City", "Oslo"),
            ("XMP-iptcExt:LocationCreated[0].City", "Bergen"),
        ],
        "serials": [
            ("ExifIFD:SerialNumber", "0123"),
            ("ExifIFD:LensSerialNumber", "00a1"),
            ("Canon:InternalSerialNumber", "X7"),
        ],
        "owner": [
            ("IFD0:Artist", "A. Person"),
            ("IFD0:HostComputer", "Ann's Mac"),
            ("Canon:OwnerName", "A. Person"),
            ("IPTC:By-line[0]", "One"),
            ("IPTC:By-line[1]", "Two"),
            ("XMP-mwg-rs:RegionInfo.RegionList[0].Name", "A. Face"),
            ("XMP-iptcExt:PersonInImage[0]", "P. Person"),
        ],
        "software": [("IFD0:Software", "GIMP 2.10"), ("XMP-xmp:CreatorTool", "Adobe Photoshop")],
    }


def test_empty_fields_and_colour_profiles_reveal_nothing() -> None:
    groups = {
        "Canon": {"OwnerName": "  ", "SerialNumber": "0000", "SerialNumberFormat": 1},
        "ICC_Profile": {"ProfileCopyright": "HP", "Copyright": "HP"},
        "Composite": {"GPSLatitude": 1.5},
    }
    assert places(groups) == {"gps": [], "serials": [], "owner": [], "software": []}


def test_the_lists_are_bounded() -> None:
    groups: Any = {"XMP-dc": {"Creator": ["x" * 5000] * 1000}}
    found = privacy_of(groups)["owner"]
    assert len(found) == MAX_ENTRIES
    assert max(len(one["value"]) for one in found) == 200
