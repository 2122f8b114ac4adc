"""The table of parsers: order, filling of fields, and inputs that are hostile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metadata.generation.detect import FIELDS, MAX_RAW_BYTES, detect, is_generated
from tests.metadata.generation.test_credentials import CHATGPT
from tests.metadata.generation.test_finding import ANYTHING
from tests.support.containers import jpeg_with_comment, png_with_texts, walked
from tests.support.generations import of_file, of_texts
from tests.support.golden import golden

ALL = {
    *FIELDS,
    *("source", "generator", "involvement", "loras", "mjStyleReferences", "rawParameters"),
    *("confidence", "evidence"),
}
INFOTEXT = "a cat\nSteps: 20, Sampler: Euler, Seed: 1"
GRAPH = {"1": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 9, "positive": ["2", 0]}}}


def test_every_field_of_the_specification_is_present() -> None:
    names = (
        "source prompt negativePrompt steps cfgScale sampler scheduler seed checkpoint model vae"
        " clipSkip loras mjVersion mjAspectRatio mjChaos mjQuality mjStylize mjStyle mjRaw"
        " mjWeirdness mjExperimental mjJobId mjStyleReferences mjStyleWeight mjImageWeight"
        " mjCharacterReference mjCharacterWeight mjOmniReference mjOmniWeight mjAuthor version"
        " fullParametersText rawParameters generator involvement digital_source_type confidence"
        " evidence"
    )
    for found in (of_texts({}), of_texts({"parameters": INFOTEXT})):
        assert set(found) == set(names.split()) == ALL


def test_nothing_found_is_unknown_and_not_denied() -> None:
    found = of_texts({"Title": "holiday"})
    assert (found["source"], found["involvement"], found["confidence"]) == (
        "unknown",
        "none_found",
        None,
    )
    assert found["rawParameters"] == {
        "comfyNodeCount": None,
        "comfyWorkflowId": None,
        "workflow": None,
    }
    assert not is_generated(found)
    assert not is_generated({})


def test_the_first_parser_sets_the_source_and_others_fill_fields() -> None:
    found = of_texts({"parameters": INFOTEXT, "prompt": GRAPH})
    assert (found["source"], found["seed"], found["steps"]) == ("comfyui", "5", 9)
    assert (found["prompt"], found["sampler"]) == ("a cat", "Euler")
    assert [fact["key"] for fact in found["evidence"]] == ["prompt", "parameters"]
    assert is_generated(found)


def test_credentials_add_evidence_to_another_source() -> None:
    found = of_texts(
        {"parameters": INFOTEXT},
        content_credentials={**CHATGPT, "trust": "trusted", "state": "valid"},
    )
    assert (found["source"], found["confidence"]) == ("stable_diffusion", 0.95)


def test_equal_keywords_are_both_read() -> None:
    content = png_with_texts({"parameters": "nothing", "Parameters": INFOTEXT})
    assert of_file(content)["prompt"] == "a cat"


def test_the_result_is_json() -> None:
    deep = '{"class_type": "x", "inputs": ' + '{"a": [' * 400 + "1" + "]}" * 400 + "}"
    for texts in (
        {"prompt": json.dumps(GRAPH)},
        {"prompt": '{"1": ' + deep + "}"},
        {"parameters": INFOTEXT, "workflow": '{"nodes": [{"id": NaN, "type": "x"}]}'},
    ):
        assert json.loads(json.dumps(of_texts(texts), allow_nan=False))


def test_raw_parameters_that_are_too_large_are_left_out_with_a_warning() -> None:
    workflow = {"id": "w", "nodes": [{"id": 1, "type": "x" * 1_100_000}]}
    content = png_with_texts({"prompt": json.dumps(GRAPH), "workflow": json.dumps(workflow)})
    found, warnings = detect(walked(content))
    assert found["rawParameters"]["workflow"] is None
    assert found["rawParameters"]["comfyWorkflowId"] == "w"
    assert warnings == ("rawParameters.workflow is larger than 1 MiB and is left out",)
    assert len(json.dumps(found["rawParameters"])) <= MAX_RAW_BYTES


KEYS = [
    *("parameters", "prompt", "workflow", "Comment", "Description", "Software", "Dream", "Author"),
    *("ml_lib_metadata", "invokeai_metadata", "sd-metadata", "use_stable_diffusion_model"),
]
NAMES = st.sampled_from(
    (
        *("class_type", "inputs", "nodes", "links", "widgets_values", "type", "id", "prompt"),
        *("seed", "steps", "sampler", "uc", "scale", "c", "base_model", "loras", "model", "image"),
        *("sui_image_params", "positive", "negative", "text", "caption", "v4_prompt", "guider"),
        *("base_caption", "extraMetadata", "Comment", "Software"),
    )
)
JSON = st.recursive(
    ANYTHING | st.just(["1", 0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(values=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_json_of_wrong_types_never_fails(values: dict[str, Any]) -> None:
    of_texts(values)


@given(block=st.dictionaries(NAMES, JSON, max_size=6))
def test_a_block_of_wrong_types_never_fails_wherever_it_is(block: dict[str, Any]) -> None:
    text = json.dumps(block)
    for key in KEYS:
        of_texts({key: text})
    of_file(jpeg_with_comment(text))
    of_texts({}, hidden_text=text, content_credentials=block)


KINDS = (
    *("KSampler", "CLIPTextEncode", "LoraLoader", "SaveImage", "StringConcatenate"),
    "ControlNetApplyAdvanced",
)
INPUTS = (
    *("positive", "negative", "text", "model", "seed", "images", "string_a", "lora_name", "steps"),
)
LINKS = st.tuples(st.sampled_from("12345"), st.integers(0, 1)).map(list)
NODES = st.fixed_dictionaries(
    {
        "class_type": st.sampled_from(KINDS),
        "inputs": st.dictionaries(st.sampled_from(INPUTS), LINKS | ANYTHING),
    }
)


@given(nodes=st.dictionaries(st.sampled_from("12345"), NODES))
def test_graphs_of_any_shape_never_fail(nodes: dict[str, Any]) -> None:
    assert of_texts({"prompt": nodes})["source"] in ("comfyui", "unknown")


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10**6,
        "a: [" * 99_000,
        "--v 5 " * 50_000,
        "{" * 10**6,
        " " * 10**6 + "x",
        "[\n" * 10**5,
    ],
)
def test_huge_texts_are_read(text: str) -> None:
    for key in ("parameters", "Description", "Comment", "Dream"):
        of_texts({key: text})


def test_golden_photographs_are_not_generated() -> None:
    for folder in ("exiftool/images", "metadata-extractor"):
        for path in golden(folder).iterdir():
            if path.suffix.lower() in (".jpg", ".png", ".webp", ".avif", ".heic", ".tif"):
                found, _ = detect(walked(path.read_bytes()))
                assert found["source"] == "unknown", (path.name, found["evidence"])
                assert found["evidence"] == [], path.name
