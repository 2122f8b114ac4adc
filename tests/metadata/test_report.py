"""The report of the confined worker."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from io import BytesIO
from typing import Any

import orjson
import pytest

from proxy.metadata.container.result import TextEntry
from proxy.metadata.container.walk import walk
from proxy.metadata.media_tags import tags_of
from proxy.metadata.moderation import moderate
from proxy.metadata.report import report
from proxy.metadata.tags import MAX_OUTPUT_BYTES
from tests.metadata.files import jpeg
from tests.support.containers import chunk, png, png_with_texts, segment

TAGS: Any = {"File": {"FileType": "JPEG"}, "IFD0": {"Make": "Canon"}}


def test_tags_of_exiftool_are_used_and_otherwise_those_of_the_fallback() -> None:
    file = BytesIO(jpeg())
    with_tags = report(file, walk(file), TAGS, None, file_name="a.jpg")
    assert with_tags.fallback is False
    assert with_tags.content["metadata"]["groups"]["IFD0"] == {"Make": "Canon"}
    without = report(file, walk(file), None, None, file_name="a.jpg")
    assert without.fallback is True
    assert "ExifIFD" in without.content["metadata"]["groups"]


@pytest.mark.parametrize("size", ["5", "9" * 20])
def test_text_of_a_file_is_never_taken_for_binary_data(size: str) -> None:
    binary = f"(Binary data {size} bytes)"
    file = BytesIO(
        png_with_texts({"parameters": f"{binary}\nSteps: 20, Sampler: Euler, Model: {binary}"})
    )
    content = report(file, walk(file), TAGS, None, file_name="a.png").content
    generation = content["metadata"]["ai_generation"]
    assert (generation["prompt"], generation["checkpoint"]) == (binary, binary)
    assert f"model:{binary.lower()}" in tags_of(generation)
    assert moderate(content["metadata"], ["binary"])["requiresReview"] is True
    orjson.dumps(content)


_INFINITE = [bytes([one, 2, 11, 0, 1, 0, 0, 0, 0, 0, 0x80, 0x7F]) for one in (1, 2)]
BROKEN_EXIF = [
    *(b"II*\0"[:length] + bytes(max(0, length - 4)) for length in range(1, 9)),
    b"II+\0\x08\0\0\0\x10" + bytes(7),
    b"MM\0+\0\x08\0\0" + bytes(7) + b"\x10",
    # A thumbnail whose offset and length are infinite.
    b"II*\0\x08\0\0\0\0\0\x0e\0\0\0\x02\0" + _INFINITE[0] + _INFINITE[1] + bytes(4),
]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("exif", BROKEN_EXIF)
@pytest.mark.parametrize("tags", [TAGS, None])
def test_exif_that_cannot_be_read_costs_only_itself(exif: bytes, tags: Any) -> None:
    end = jpeg().index(b"\xff\xdb")
    for content in (
        b"\xff\xd8" + segment(0xE1, b"Exif\0\0" + exif) + jpeg()[end:],
        png(chunk(b"eXIf", exif)),
    ):
        file = BytesIO(content)
        found = report(file, walk(file), tags, None, file_name="a.jpg", advanced=True).content
        assert found["metadata"]["width"]
        assert found["advanced"]["thumbnail"] == {"present": False, "distance": None}


def test_the_output_is_bounded_and_names_what_is_left_out() -> None:
    file = BytesIO(jpeg())
    large: Any = {"IFD0": {f"Tag{index}": "\u20ac" * 20_000 for index in range(200)}}
    walked = replace(
        walk(file), texts=tuple(TextEntry("k", "JPEG COM", "x" * 60_000) for _ in range(60))
    )
    content = report(file, walked, large, None, file_name="a.jpg").content
    assert len(orjson.dumps(content)) <= MAX_OUTPUT_BYTES
    truncated = content["metadata"]["truncated"]
    assert any(one.startswith("groups.IFD0.Tag") for one in truncated)


def test_the_advanced_part_counts_towards_the_limit() -> None:
    file = BytesIO(jpeg())
    large: Any = {
        "IFD0": {f"Tag{index}": "\u20ac" * 20_000 for index in range(200)},
        "XMP-dc": {"Creator": ["\u20ac" * 900] * 900},
    }
    warnings = {f"Copy{index}:Warning": f"{index}" + "\u20ac" * 900 for index in range(900)}
    content = report(
        *(file, walk(file), large, {"codes": ["x" * 60_000] * 40}),
        file_name="a.jpg",
        validation={"ExifTool": warnings},
        advanced=True,
    ).content
    assert len(orjson.dumps(content)) <= MAX_OUTPUT_BYTES
    assert content["metadata"]["truncated"]
    assert content["advanced"]["c2pa"] is None
    assert "c2pa" in content["metadata"]["truncated"]
    assert content["advanced"]["privacy"]["owner"]


@pytest.mark.parametrize("printed", ["names", "groups", "warnings", "lists"])
def test_no_file_makes_the_output_too_large(printed: str) -> None:
    file = BytesIO(jpeg())
    euro = "\u20ac" * 300
    hostile: dict[str, Any] = {
        "names": {"XMP-x": {f"{euro}{index}": 1 for index in range(9_000)}},
        "groups": {f"XMP-{euro}{index}": {"A": 1} for index in range(9_000)},
        "warnings": {"ExifTool": {f"Copy{one}:Warning": f"{one}{euro * 90}" for one in range(300)}},
        "lists": {"XMP-x": {f"Tag{index}": ["y"] * 900 for index in range(1_500)}},
    }
    content = report(file, walk(file), hostile[printed], None, file_name="a.jpg").content
    assert len(orjson.dumps(content)) <= MAX_OUTPUT_BYTES - 64 * 1024
    if printed != "warnings":
        assert content["metadata"]["truncated"]


@pytest.mark.parametrize("extension", ["\ud800", "p\x07\x1bng", "y" * 100_000, "\n-ver", "\0"])
def test_an_extension_of_a_hostile_client_is_quoted_safely(extension: str) -> None:
    file = BytesIO(jpeg())
    content = report(file, walk(file), TAGS, None, file_name=f"a.{extension}").content
    assert content["metadata"]["extension_matches"] is False
    (action,) = content["quality"]["recommended_actions"]
    assert len(orjson.dumps(content)) < 10_000
    assert action.endswith("rename.")
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", action)


def test_credentials_that_are_too_large_are_left_out() -> None:
    file = BytesIO(jpeg())
    credentials = {"actions": ["x" * 60_000] * 100}
    content = report(file, walk(file), TAGS, credentials, file_name="a.jpg").content
    assert content["metadata"]["c2pa"] is None
    assert "c2pa" in content["metadata"]["truncated"]


def test_a_format_that_the_walk_does_not_know_has_no_completeness() -> None:
    file = BytesIO(jpeg())
    walked = replace(walk(file), image=replace(walk(file).image, width=None), ranges=())
    content = report(file, walked, TAGS, None, file_name="a.jpg").content
    assert content["quality"]["extraction_completeness"] is None
    assert "extraction_completeness" in content["metadata"]["reasons"]


@pytest.mark.parametrize(
    ("name", "media_type", "matches"),
    [
        ("a.jpg", "", True),
        ("a.jpg", "image/jpg", True),
        ("a.jpg", "image/png", False),
        ("photo", "image/png", False),
        ("photo", "image/jpeg", None),
        ("a.png", "", False),
    ],
)
def test_extension_and_declared_type_are_compared_with_the_content(
    *, name: str, media_type: str, matches: bool | None
) -> None:
    file = BytesIO(jpeg())
    content = report(*(file, walk(file), TAGS, None), file_name=name, media_type=media_type).content
    assert content["metadata"]["extension_matches"] is matches
    # Only a wrong extension costs confidence.
    expected = 0.9 if name == "a.png" else 1
    assert content["quality"]["confidence_score"] == expected
    reason = content["metadata"]["reasons"].get("extension_matches", "")
    if media_type == "image/png":
        assert reason == "the declared type is image/png"
    else:
        assert reason == ("" if matches is not None else "the file name has no extension")


def test_a_position_without_a_hemisphere_is_explained() -> None:
    file = BytesIO(jpeg())
    tags: Any = {"GPS": {"GPSLatitude": 33.5, "GPSLongitude": 70.25}}
    metadata = report(file, walk(file), tags, None, file_name="a.jpg").content["metadata"]
    assert metadata["gps"] is None
    assert metadata["reasons"]["gps"] == "the position has no hemisphere"


def test_the_properties_of_a_compressed_drawing_are_tags() -> None:
    rdf = (
        '<metadata><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/"><rdf:Description dc:format="image/svg+xml"/>'
        "</rdf:RDF></metadata>"
    )
    drawing = f'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="3">{rdf}</svg>'
    file = BytesIO(gzip.compress(drawing.encode()))
    tags: Any = {"File": {"FileType": "GZIP"}, "ZIP": {"Compression": 8}}
    metadata = report(file, walk(file), tags, None, file_name="a.svgz").content["metadata"]
    assert metadata["groups"]["XMP-dc"] == {"Format": "image/svg+xml"}
    assert (metadata["width"], metadata["extension_matches"]) == (4, True)
