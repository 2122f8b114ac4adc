"""Midjourney's descriptions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.containers import jpeg, jpeg_with_xmp, segment, tiff
from tests.support.generations import known, of_file, of_texts

JOB = "Job ID: 0a1b2c3d-1111-2222-3333-444455556666"
TEXT = (
    "a red fox --like creature, snow --ar 16:9 --chaos 85 --q 2 --stylize 250 --style raw"
    " --weird 30 --exp 15 --sref https://s.mj.run/a 4242 --sw 200 --iw 1.5"
    " --cref https://s.mj.run/c --cw 50"
    f" --oref https://s.mj.run/o --ow 300 --no trees, people --tile --v 7 {JOB}"
)


def test_every_flag_has_its_field() -> None:
    found = of_texts({"Description": TEXT, "Author": "somebody"})
    assert {key: value for key, value in found.items() if key.startswith("mj")} == {
        "mjVersion": "7",
        "mjAspectRatio": "16:9",
        "mjChaos": 85,
        "mjQuality": 2.0,
        "mjStylize": 250,
        "mjStyle": "raw",
        "mjRaw": True,
        "mjWeirdness": 30,
        "mjExperimental": 15,
        "mjJobId": "0a1b2c3d-1111-2222-3333-444455556666",
        "mjStyleReferences": ["https://s.mj.run/a", "4242"],
        "mjStyleWeight": 200,
        "mjImageWeight": 1.5,
        "mjCharacterReference": "https://s.mj.run/c",
        "mjCharacterWeight": 50,
        "mjOmniReference": "https://s.mj.run/o",
        "mjOmniWeight": 300,
        "mjAuthor": "somebody",
    }
    assert found["source"] == "midjourney"
    assert found["negativePrompt"] == "trees, people"
    assert found["fullParametersText"] == TEXT
    assert found["rawParameters"]["tile"] is True


def test_a_word_that_looks_like_a_flag_is_part_of_the_prompt() -> None:
    assert of_texts({"Description": TEXT})["prompt"] == "a red fox --like creature, snow"


def test_unknown_flags_after_a_known_one_are_raw_parameters() -> None:
    found = of_texts({"Description": "a fox --v 6.1 --newflag 5 --other"})
    assert found["prompt"] == "a fox"
    assert found["mjVersion"] == "6.1"
    assert known(found["rawParameters"], "newflag", "other") == {"newflag": "5", "other": True}


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (f"a fox {JOB}", {"prompt": "a fox", "mjVersion": None, "mjRaw": None}),
        (f"--v 5 {JOB}", {"prompt": None, "mjVersion": "5"}),
        ("a fox --niji 6", {"mjVersion": "niji 6", "prompt": "a fox"}),
        ("a fox \u2014ar 3:2 \u2014v 6", {"mjAspectRatio": "3:2", "mjVersion": "6"}),
        ("a fox --aspect 3:2 --version 4", {"mjAspectRatio": "3:2", "mjVersion": "4"}),
        ("a fox --raw --v 7 --seed 12", {"mjRaw": True, "mjStyle": None, "seed": "12"}),
        ("a fox --c x --v", {"mjChaos": None, "mjVersion": None}),
    ],
)
def test_other_forms_are_read(text: str, fields: dict[str, object]) -> None:
    found = of_texts({"Description": text})
    assert found["source"] == "midjourney"
    assert known(found, *fields) == fields


def test_exif_and_xmp_descriptions_are_read() -> None:
    exif = jpeg(segment(0xE1, b"Exif\0\0" + tiff({0x010E: TEXT, 0x013B: "somebody"})))
    xmp = jpeg_with_xmp(
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
        f'<rdf:li xml:lang="x-default">{TEXT}</rdf:li></rdf:Alt></dc:description></rdf:Description>'
    )
    for content in (exif, xmp):
        assert known(of_file(content), "source", "mjChaos") == {
            "source": "midjourney",
            "mjChaos": 85,
        }


@pytest.mark.parametrize(
    "text",
    [
        "a fox",
        "run it with --verbose --no-cache",
        "a fox --like this",
        "a --no b",
        "-- v 5",
        "x--v 5",
    ],
)
def test_other_descriptions_are_not_midjourney(text: str) -> None:
    assert of_texts({"Description": text})["source"] == "unknown"


@given(text=st.text(alphabet="-vario: \n1\u2014J", max_size=60))
def test_noise_never_fails(text: str) -> None:
    of_texts({"Description": f"{text} --v 5 {text}"})
