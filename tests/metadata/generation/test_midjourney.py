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
        (f"a fox --c x --v {JOB}", {"mjChaos": None, "mjVersion": None}),
        ("a fox --v niji 6", {"mjVersion": "niji 6"}),
        ("a fox --ar 2:3 --niji", {"mjVersion": "niji", "mjAspectRatio": "2:3"}),
        ("a fox --AR 16:9, --v 5.2.", {"mjAspectRatio": "16:9", "mjVersion": "5.2"}),
        (f"a fox --v 7 --ar 16:9. {JOB}", {"mjAspectRatio": "16:9", "mjVersion": "7"}),
        (f"a fox --v 7 --stylize 250 (edited) {JOB}", {"mjStylize": 250, "prompt": "a fox"}),
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
    "flag",
    [
        *("--ar 16:9", "--v 6", "--v 6.1", "--niji 5", "--chaos 10", "--stylize 1000"),
        *("--weird 3000", "--exp 25", "--sref 4242", "--sref random", "--sw 1000", "--iw 1.5"),
        *("--cref https://s.mj.run/c", "--cw 50", "--oref https://s.mj.run/o", "--ow 300"),
        "--raw --exp 25 --q 2 --iw 1.5",
        "--cref https://s.mj.run/c --cw 50",
        *("--version 6 --quality 2", "--c 10 --s 250", "--w 5 --style raw"),
        *("--ar 16:9 --no text, people", "--ar 16:9 --newflag 5", "--ar 16:9 --tile --p abc def"),
        "--ar 16:9 --stylize 250 - Upscaled by @somebody",
    ],
)
def test_a_flag_of_midjourney_with_a_valid_value_is_enough(flag: str) -> None:
    found = of_texts({"Description": f"a castle {flag}"})
    assert known(found, "source", "prompt") == {"source": "midjourney", "prompt": "a castle"}


@pytest.mark.parametrize(
    "text",
    [
        "a fox",
        "run it with --verbose --no-cache",
        "a fox --like this",
        "a --no b",
        "-- v 5",
        "x--v 5",
        "--chaos 5",
        "Screenshot of terminal: $ node --version v18.0",
        "rendered with: blender --version 3.6 -b scene.blend",
        "blender --version 3.6",
        "Generated by ImageMagick: convert -size 10x10 xc:red --version",
        "convert in.png --aspect 16:9 out.png",
        "mplayer film.avi --aspect 16:9",
        "tool --ar 16:9 out.png",
        "ls --c",
        "git log --no-merges --stylize x",
        "gcc --version 13 --quality 80",
        "encoder --quality 2 --seed 4 --fast --raw --tile --no b",
        "kubectl get pods --v 6 --namespace a b",
        "monkey --chaos 5000",
        "openssl --exp never --cw a --iw 7.5",
        "bench --v 10",
        "a fox --sref bold",
        "submitted with sbatch. Job ID: 12345678",
        "Job ID: 0a1b2c3d-1111-2222-3333-444455556666, printed on HP",
    ],
)
def test_other_descriptions_are_not_midjourney(text: str) -> None:
    found = of_texts({"Description": text, "Author": "somebody"})
    assert known(found, "source", "evidence") == {"source": "unknown", "evidence": []}


@pytest.mark.parametrize("keyword", ["Comment", "Title"])
def test_texts_that_are_no_description_need_a_job(keyword: str) -> None:
    text = "a fox --ar 3:2 --chaos 5 --v 6"
    assert of_texts({keyword: text})["source"] == "unknown"
    assert of_texts({keyword: f"{text} {JOB}"})["mjVersion"] == "6"


def test_a_comment_of_exif_needs_a_job() -> None:
    def photo(text: str) -> bytes:
        comment = b"ASCII\0\0\0" + text.encode()
        return jpeg(segment(0xE1, b"Exif\0\0" + tiff({}, {0x9286: comment})))

    assert of_file(photo("a fox --ar 3:2 --v 6"))["source"] == "unknown"
    assert of_file(photo(f"a fox {JOB}"))["source"] == "midjourney"


def test_the_evidence_names_a_flag_that_proves_something() -> None:
    found = of_texts({"Description": "a castle --raw --seed 5 --exp 25"})
    assert [fact["says"] for fact in found["evidence"]] == ["flag --exp"]


def test_repeated_flags_lose_no_value() -> None:
    found = of_texts(
        {
            "Description": "a fox --sref 123 456 --sref 789 --no dogs --no text --cref https://a.b/1"
            " --cref https://a.b/2 --ar 3:2 --ar 1:1 --v 7 --new 1 --new 2 --new --chaos x 7"
            f" --stylize 250 more --tile {JOB}"
        }
    )
    assert found["mjStyleReferences"] == ["123", "456", "789"]
    assert found["negativePrompt"] == "dogs, text"
    assert found["mjCharacterReference"] == "https://a.b/1 https://a.b/2"
    assert (found["mjAspectRatio"], found["mjStylize"], found["mjChaos"]) == ("3:2", 250, None)
    assert known(found["rawParameters"], "aspect", "new", "chaos", "stylize", "tile") == {
        "aspect": "1:1",
        "new": ["1", "2", True],
        "chaos": "x 7",
        "stylize": "250 more",
        "tile": True,
    }


def test_many_repeated_flags_are_read_in_time() -> None:
    text = "a fox --ar 3:2 --v 7 " + "--x --no a --ar 1:1 " * 20_000
    assert of_texts({"Description": text})["source"] == "midjourney"


@given(text=st.text(alphabet="-vario: \n1\u2014J", max_size=60))
def test_noise_never_fails(text: str) -> None:
    of_texts({"Description": f"{text} --v 5 {text}"})
