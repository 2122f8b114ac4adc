"""Texts of the walk among the tags of an engine."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from proxy.metadata.container.result import ImageFacts, TextEntry, Walk
from proxy.metadata.exact_texts import add_xmp, with_exact_texts, xmp_group
from proxy.metadata.tags import Groups

EMPTY = Walk("jpeg", 1000, ImageFacts(), (), (), (), (), (), (), (), damaged=False)


def test_texts_of_the_walk_replace_converted_values() -> None:
    walked = replace(
        EMPTY,
        texts=(TextEntry("Flag", "PNG tEXt", "True"), TextEntry("Flag", "PNG tEXt", "true")),
        exif=(TextEntry("UserComment", "ExifIFD", "right"), TextEntry("Gone", "IFD0", "x")),
        xmp=(TextEntry("xmp:Rating", "XMP-xmp", "True"),),
    )
    groups: Any = {
        "PNG": {"Flag": True, "Copy1:Flag": True, "Other": 7},
        "XMP-xmp": {"Rating": True, "Label": ["a", "b"]},
        "ExifIFD": {"UserComment": "wrong", "ISO": 100},
    }
    found = with_exact_texts(groups, walked)
    assert found["PNG"] == {"Flag": "True", "Copy1:Flag": "true", "Other": 7}
    assert found["XMP-xmp"] == {"Rating": "True", "Label": ["a", "b"]}
    assert found["ExifIFD"] == {"UserComment": "right", "ISO": 100}
    assert "IFD0" not in found


def test_a_text_that_exiftool_has_decoded_wrongly_or_made_a_number_is_the_one_of_the_walk() -> None:
    walked = replace(
        EMPTY,
        texts=(TextEntry("Comment", "JPEG COM", "True"),),
        exif=(TextEntry("Artist", "IFD0", "true"), TextEntry("Software", "IFD0", "007")),
        iptc=(
            TextEntry("CopyrightNotice", "IPTC", "© Corbis"),
            TextEntry("Keywords", "IPTC", "Zürich"),
            TextEntry("Keywords", "IPTC", "False"),
            TextEntry("City", "IPTC", "Bern"),
        ),
    )
    groups: Any = {
        "File": {"Comment": True, "ImageWidth": 3},
        "IFD0": {"Artist": True, "Software": "007", "Make": "Canon"},
        "IPTC": {
            "CopyrightNotice": "Â© Corbis",
            "Keywords": ["ZÃ¼rich", False],
            "City": "Bern   ",
            "Urgency": 5,
        },
    }
    found = with_exact_texts(groups, walked)
    assert found["File"] == {"Comment": "True", "ImageWidth": 3}
    assert found["IFD0"] == {"Artist": "true", "Software": "007", "Make": "Canon"}
    assert found["IPTC"] == {
        "CopyrightNotice": "© Corbis",
        "Keywords": ["Zürich", "False"],
        "City": "Bern   ",
        "Urgency": 5,
    }


def test_ten_thousand_texts_of_one_name_are_matched_in_order() -> None:
    count = 30_000
    texts = tuple(TextEntry("k", "PNG tEXt", f"é{number % 7}") for number in range(count))
    tags = {f"Copy{number}:K": f"Ã©{number % 7}" for number in range(count)}
    started = time.process_time()
    found = with_exact_texts({"PNG": dict(tags)}, replace(EMPTY, texts=texts))["PNG"]
    assert time.process_time() - started < 20
    assert found == {key: value.replace("Ã©", "é") for key, value in tags.items()}


def test_texts_of_thousands_of_groups_are_matched_within_seconds() -> None:
    count = 20_000
    walked = replace(
        EMPTY,
        exif=tuple(TextEntry("Software", f"IFD{number}", "True") for number in range(count)),
        xmp=tuple(TextEntry(f"n{number}:a", f"XMP-n{number}", "True") for number in range(count)),
    )
    groups: Any = {f"IFD{number}": {"Software": True} for number in range(count)}
    groups |= {f"XMP-n{number}": {"A": True} for number in range(count)}
    started = time.process_time()
    found = with_exact_texts(groups, walked)
    assert time.process_time() - started < 20
    assert found["IFD7"] == {"Software": "True"}
    assert found["XMP-n7"] == {"A": "True"}


def test_two_exif_blocks_keep_their_own_texts() -> None:
    walked = replace(
        EMPTY, exif=(TextEntry("Artist", "IFD0", "first"), TextEntry("Artist", "IFD0", "second"))
    )
    groups: Any = {"IFD0": {"Artist": "first", "Copy1:Artist": "second"}}
    assert with_exact_texts(groups, walked)["IFD0"] == groups["IFD0"]


def test_groups_have_the_names_of_exiftool() -> None:
    assert xmp_group("Iptc4xmpExt") == "XMP-iptcExt"
    assert xmp_group("MicrosoftPhoto") == "XMP-microsoft"
    assert xmp_group("dc") == "XMP-dc"


def entry(keyword: str, text: str) -> TextEntry:
    return TextEntry(keyword, f"XMP-{keyword.partition(':')[0]}", text)


def test_texts_in_structures_and_in_groups_with_other_names_are_as_written() -> None:
    walked = replace(
        EMPTY,
        xmp=(
            entry("Iptc4xmpCore:Location", "True"),
            entry("Iptc4xmpExt:LocationCreated/Iptc4xmpExt:City", "True"),
            entry("Iptc4xmpExt:LocationCreated/Iptc4xmpExt:CountryCode", "007"),
            entry("Iptc4xmpExt:LocationShown/Iptc4xmpExt:City", "FALSE"),
            entry("Iptc4xmpExt:LocationShown/Iptc4xmpExt:City", "tRue"),
        ),
    )
    groups: Groups = {
        "XMP-iptcCore": {"Location": True},
        "XMP-iptcExt": {
            "LocationCreated": [{"City": True, "CountryCode": "007"}],
            "LocationShown": [{"City": False}, {"City": True, "Unknown": 7}],
        },
    }
    found = with_exact_texts(groups, walked)
    assert found["XMP-iptcCore"] == {"Location": "True"}
    assert found["XMP-iptcExt"] == {
        "LocationCreated": [{"City": "True", "CountryCode": "007"}],
        "LocationShown": [{"City": "FALSE"}, {"City": "tRue", "Unknown": 7}],
    }


def test_a_truth_under_a_name_that_only_exiftool_uses_is_as_written() -> None:
    walked = replace(
        EMPTY,
        xmp=(
            entry("mwg-rs:Regions/mwg-rs:RegionList/mwg-rs:Name", "True"),
            entry("xmpDM:videoAlphaPremultipleColor", "TRUE"),
        ),
    )
    groups: Groups = {
        "XMP-mwg-rs": {"RegionInfo": {"RegionList": [{"Name": True, "Type": "Face"}]}},
        "XMP-xmpDM": {"Renamed": True},
    }
    found = with_exact_texts(groups, walked)
    assert found["XMP-mwg-rs"] == {"RegionInfo": {"RegionList": [{"Name": "True", "Type": "Face"}]}}
    assert found["XMP-xmpDM"] == {"Renamed": "TRUE"}


def test_a_translation_has_the_language_in_its_name() -> None:
    walked = replace(EMPTY, xmp=(entry("dc:title", "True"), entry("dc:title", "TRUE")))
    found = with_exact_texts({"XMP-dc": {"Title": True, "Title-de": True}}, walked)
    assert found["XMP-dc"] == {"Title": "True", "Title-de": "TRUE"}


def test_properties_become_tags_with_the_joined_names_of_their_fields() -> None:
    groups: Groups = {}
    add_xmp(
        groups,
        (
            entry("dc:subject", "a"),
            entry("dc:subject", "b"),
            entry("dc:title", "A cat"),
            replace(entry("dc:title", "Katze"), language="de"),
            entry("Iptc4xmpExt:LocationCreated/Iptc4xmpExt:City", "Bern"),
        ),
    )
    assert groups["XMP-dc"] == {"Subject": ["a", "b"], "Title": "A cat", "Title-de": "Katze"}
    assert groups["XMP-iptcExt"] == {"LocationCreatedCity": "Bern"}


def test_deeply_nested_values_are_returned() -> None:
    value: Any = True
    for _ in range(5000):
        value = {"a": [value]}
    walked = replace(EMPTY, xmp=(entry("x:a", "text"),))
    found = with_exact_texts({"XMP-x": {"A": value, "B": "b"}}, walked)["XMP-x"]
    assert found["A"].keys() == {"a"}


def test_fifty_thousand_values_of_one_name_are_added_within_seconds() -> None:
    groups: Groups = {}
    started = time.process_time()
    add_xmp(groups, (entry("dc:subject", f"{number}") for number in range(50_000)))
    assert time.process_time() - started < 20
    assert len(groups["XMP-dc"]["Subject"]) == 50_000
