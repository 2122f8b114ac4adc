"""Mutants are reproducible, damage what they should, and their responses are validated."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from random import Random

import pytest
from PIL import Image

from proxy.domain.formats import SNIFF_BYTES, SOURCE_TRAITS, sniff
from proxy.domain.media import MediaFacts
from tests.fuzz.anatomy import Field, FileStructure, parse_structure, repaired
from tests.fuzz.campaign import Report
from tests.fuzz.judge import Answer, fault
from tests.fuzz.mutants import mutant, originals, sketches
from tests.fuzz.mutators import MAX_BYTES, MUTATORS, mutated
from tests.support.photos import NAMES, photo

FACTS = MediaFacts("ab" * 32, 1, "png", 400, 300, False, 1, False, None, "path")  # noqa: FBT003


@pytest.fixture(autouse=True)
def _photos() -> None:
    """Mutants are made from the shared photographs."""
    photo("kodak-23.png")


def encoded(side: tuple[int, int], fmt: str) -> bytes:
    """Return an image as the server might send it."""
    target = io.BytesIO()
    Image.new("RGB", side, (200, 30, 90)).save(target, fmt)
    return target.getvalue()


def answered(status: int, media_type: str, body: bytes) -> Answer:
    return Answer(status, {"content-type": media_type, "cache-status": "smartserve"}, body, 0.1)


RIGHT = answered(200, "image/png", encoded((300, 300), "PNG"))
PROBLEM = answered(
    422, "application/problem+json", json.dumps({"status": 422, "detail": "why"}).encode()
)


def test_a_number_is_always_the_same_mutant_and_differs_by_seed() -> None:
    assert mutant(1, 17) == mutant(1, 17)
    assert mutant(1, 17) != mutant(2, 17)
    assert len({mutant(1, number).body for number in range(50)}) == 50


def test_all_photographs_are_sent_unchanged() -> None:
    assert [one.origin for one in originals()] == list(NAMES)
    assert all(one.body == photo(one.origin).read_bytes() for one in originals())


@pytest.mark.parametrize("body", [b"", b"\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0"])
def test_a_tiny_file_is_damaged_too(body: bytes) -> None:
    for turn in range(300):
        assert len(mutated(body, b"other", Random(turn))) <= MAX_BYTES


@pytest.mark.parametrize("mutator", MUTATORS)
def test_each_mutator_changes_most_files(mutator: object) -> None:
    (way,) = (one for one in MUTATORS if one is mutator)
    body, other = sketches()["sketch-moving.gif"], sketches()["sketch.jpg"]
    changed = sum(way(body, other, Random(turn)) != body for turn in range(100))
    assert changed > 60


def test_most_mutants_are_still_recognised_as_images() -> None:
    kinds = [sniff(mutant(1, number).body) for number in range(300)]
    assert kinds.count(None) < 60
    expected = {"png", "jpeg", "gif", "webp", "avif", "tiff", "bmp", "ico", "jp2", "svg", "heic"}
    assert expected <= set(kinds)


def test_every_source_type_has_sketches() -> None:
    kinds = {sniff(body[:SNIFF_BYTES]) for body in sketches().values()}
    optional = set() if find_spec("pyjpegxl") else {"jxl"}
    assert kinds == SOURCE_TRAITS.keys() - optional


def test_a_campaign_can_be_limited_to_some_extensions() -> None:
    only = ("heic", "jp2")
    made = [mutant(1, number, only) for number in range(40)]
    assert {one.origin.rpartition(".")[2] for one in made} == set(only)


def value(body: bytes, field: Field) -> int:
    return int.from_bytes(body[field.at : field.at + field.size], field.order)


@pytest.mark.parametrize("name", ["sketch.png", "sketch.jpg", "sketch.gif", "sketch.avif"])
def test_width_and_height_are_among_the_fields(name: str) -> None:
    body = sketches()[name]
    values = [value(body, field) for field in parse_structure(body).fields]
    assert (120, 120) in pairwise(values)


@pytest.mark.parametrize("name", ["sketch-moving.webp", "sketch-lzw.tiff"])
def test_other_types_are_parsed_too(name: str) -> None:
    bones = parse_structure(sketches()[name])
    assert len(bones.fields) > 20
    assert len(bones.blocks) > 8


def test_a_file_that_is_not_an_image_has_no_structure() -> None:
    assert parse_structure(b"plain text") == FileStructure((), ())


def test_a_repaired_png_has_correct_checksums() -> None:
    body = bytearray(sketches()["sketch.png"])
    body[18] = 1
    with pytest.raises((OSError, SyntaxError)):
        Image.open(io.BytesIO(body)).load()
    assert Image.open(io.BytesIO(repaired(bytes(body)))).width == 376


def test_the_expected_image_and_an_allowed_problem_are_correct() -> None:
    assert fault(RIGHT, "size=thumbnail", FACTS) is None
    assert fault(PROBLEM, "size=thumbnail", None) is None


@pytest.mark.parametrize(
    "wrong",
    [
        replace(RIGHT, body=encoded((300, 299), "PNG")),
        replace(RIGHT, body=encoded((300, 300), "JPEG")),
        replace(RIGHT, body=RIGHT.body[:60]),
        replace(RIGHT, body=b""),
        replace(PROBLEM, status=500),
        replace(PROBLEM, status=400),
        replace(PROBLEM, status=404),
        replace(PROBLEM, headers={"content-type": "application/json"}),
    ],
)
def test_any_other_response_is_wrong(wrong: Answer) -> None:
    assert fault(wrong, "size=thumbnail", FACTS) is not None


def test_an_uncounted_crash_is_reported() -> None:
    counted = Report(deaths=2, restarts=Counter({"recycled": 1, "crash": 1}))
    assert not counted.lost
    assert replace(counted, deaths=3).lost


def test_an_image_without_facts_is_wrong() -> None:
    assert fault(RIGHT, "size=thumbnail", None) is not None
