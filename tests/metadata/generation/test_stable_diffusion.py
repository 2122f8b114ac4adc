"""Infotext of the web interfaces, and the JSON of other tools of Stable Diffusion."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.containers import gif, jpeg_with_comment, jpeg_with_xmp, sub_blocks
from tests.support.generations import known, of_file, of_texts
from tests.support.golden import golden

A1111 = (
    "photo of a duck, <lora:detail:0.8>\nNegative prompt: monochrome\nSteps: 15, Sampler: DPM++ 2M,"
    " Schedule type: Karras, CFG scale: 5, Seed: 235284042, Size: 512x400, Model hash: c0d1994c73,"
    ' Model: realistic, VAE: v.pt, Clip skip: 2, Lora hashes: "detail: 9aa4a2a1b2c3",'
    " Version: v1.9.4"
)
EXPECTED = {
    "source": "stable_diffusion",
    "prompt": "photo of a duck, <lora:detail:0.8>",
    "negativePrompt": "monochrome",
    "steps": 15,
    "cfgScale": 5.0,
    "sampler": "DPM++ 2M",
    "scheduler": "Karras",
    "seed": "235284042",
    "checkpoint": "realistic",
    "vae": "v.pt",
    "clipSkip": 2,
    "version": "v1.9.4",
    "generator": "AUTOMATIC1111 Stable Diffusion WebUI",
    "fullParametersText": A1111,
    "involvement": "generated",
    "confidence": 0.9,
}


def comment_in_xmp(text: str) -> bytes:
    escaped = text.replace("<", "&lt;").replace('"', "&quot;")
    return jpeg_with_xmp(
        '<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/"><exif:UserComment><rdf:Alt>'
        f'<rdf:li xml:lang="x-default">{escaped}</rdf:li></rdf:Alt></exif:UserComment>'
        "</rdf:Description>"
    )


@pytest.mark.parametrize(
    "found",
    [
        of_texts({"parameters": A1111}),
        of_file(jpeg_with_comment(A1111)),
        of_file(gif(b"\x21\xfe" + sub_blocks(A1111.encode()))),
        of_file(comment_in_xmp(A1111)),
        of_texts({}, hidden_text=A1111),
    ],
    ids=["PNG", "EXIF", "GIF", "XMP", "pixels"],
)
def test_infotext_is_read_wherever_it_is(found: dict[str, Any]) -> None:
    assert known(found, *EXPECTED) == EXPECTED
    assert found["loras"] == [{"name": "detail", "weight": 0.8, "hash": "9aa4a2a1b2c3"}]
    assert found["rawParameters"]["Model hash"] == "c0d1994c73"


@pytest.mark.parametrize("seed", ["007", "18446744073709551615", "1e400", "True"])
def test_a_seed_is_returned_as_written(seed: str) -> None:
    found = of_texts({"parameters": f"a\nSteps: 20, CFG scale: 7.50, Seed: {seed}, Sampler: Euler"})
    assert (found["seed"], found["cfgScale"]) == (seed, 7.5)


@pytest.mark.parametrize(
    ("settings", "generator"),
    [
        ("Version: f2.0.1v1.10.1-previous-543-g22e2bc3b", "Stable Diffusion WebUI Forge"),
        ("App: SD.Next, Version: 9f2a6c1", "SD.Next"),
        ("Parser: Full parser, Version: 1a2b3c", "SD.Next"),
        ("Civitai resources: []", "Civitai"),
        ("Hires steps: 5", "Stable Diffusion"),
    ],
)
def test_the_generator_is_named_by_the_settings(settings: str, generator: str) -> None:
    found = of_texts({"parameters": f"a\nSteps: 20, Seed: 1, {settings}"})
    assert (found["generator"], found["source"]) == (generator, "stable_diffusion")


def test_infotext_of_comfyui_is_of_comfyui() -> None:
    assert (
        of_texts({"parameters": "a\nSteps: 20, Seed: 1, Version: ComfyUI"})["source"] == "comfyui"
    )


def test_resources_of_civitai_are_read_whole() -> None:
    resources = [
        {"type": "checkpoint", "modelVersionId": 1, "modelName": "Pony, XL"},
        {"type": "lora", "weight": 0.75, "modelName": "Ink"},
        "broken",
    ]
    text = f"a\nSteps: 20, Seed: 1, Civitai resources: {json.dumps(resources)}, Clip skip: 2"
    found = of_texts({"parameters": text})
    assert known(found, "model", "clipSkip") == {"model": "Pony, XL", "clipSkip": 2}
    assert found["loras"] == [{"name": "Ink", "weight": 0.75, "hash": None}]
    assert found["rawParameters"]["Civitai resources"] == resources


def test_swarmui_is_read() -> None:
    block = {
        "sui_image_params": {
            "prompt": "a cat",
            "negativeprompt": "",
            "model": "Flux/flux1-dev",
            "seed": 305223794,
            "steps": 25,
            "cfgscale": 1.0,
            "sampler": "euler",
            "scheduler": "normal",
            "loras": ["ink"],
            "loraweights": ["0.5"],
            "swarm_version": "0.9.1",
        },
        "sui_models": [{"name": "ink.safetensors", "param": "loras", "hash": "0xab"}],
    }
    for found in (of_texts({"parameters": block}), of_file(jpeg_with_comment(json.dumps(block)))):
        assert known(found, "source", "generator", "checkpoint", "seed", "cfgScale", "version") == {
            "source": "stable_diffusion",
            "generator": "SwarmUI",
            "checkpoint": "flux1-dev",
            "seed": "305223794",
            "cfgScale": 1.0,
            "version": "0.9.1",
        }
        assert found["loras"] == [{"name": "ink", "weight": 0.5, "hash": "0xab"}]


def test_draw_things_is_read() -> None:
    block = {
        "c": "a shrine",
        "uc": "blurry",
        "model": "flux_1_dev_q5p.ckpt",
        "sampler": "DPM++ 2M AYS",
        "scale": 5,
        "seed": 1105283975,
        "steps": 30,
        "lora": [{"model": "detail.ckpt", "weight": 0.8}],
        "v2": {"clipSkip": 1},
    }
    found = of_file(comment_in_xmp(json.dumps(block)))
    assert known(
        found, "generator", "prompt", "negativePrompt", "seed", "cfgScale", "checkpoint"
    ) == {
        "generator": "Draw Things",
        "prompt": "a shrine",
        "negativePrompt": "blurry",
        "seed": "1105283975",
        "cfgScale": 5.0,
        "checkpoint": "flux_1_dev_q5p",
    }
    assert found["loras"] == [{"name": "detail", "weight": 0.8, "hash": None}]


EASY = {
    "prompt": "a cat",
    "negative_prompt": "dog",
    "seed": 5,
    "num_inference_steps": 25,
    "guidance_scale": 7.5,
    "sampler_name": "euler_a",
    "use_stable_diffusion_model": "models/sd-v1-5",
    "use_lora_model": ["ink"],
    "lora_alpha": [0.5],
}


def test_easy_diffusion_is_read_from_single_texts_and_from_json() -> None:
    texts = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in EASY.items()
    }
    for found in (of_texts(texts), of_file(jpeg_with_comment(json.dumps(EASY)))):
        assert known(found, "source", "generator", "steps", "cfgScale", "seed", "checkpoint") == {
            "source": "stable_diffusion",
            "generator": "Easy Diffusion",
            "steps": 25,
            "cfgScale": 7.5,
            "seed": "5",
            "checkpoint": "sd-v1-5",
        }
        assert found["loras"] == [{"name": "ink", "weight": 0.5, "hash": None}]


@pytest.mark.parametrize(
    ("keyword", "block"),
    [
        (
            "generation_data",
            {
                "prompt": "a cat",
                "seed": "42",
                "steps": 25,
                "cfgScale": 6,
                "samplerName": "Euler",
                "baseModel": {"label": "x", "modelFileName": "pony.safetensors"},
            },
        ),
        (
            "parameters-json",
            {
                "PositivePrompt": "a cat",
                "Seed": 42,
                "Steps": 25,
                "CfgScale": 6.0,
                "Sampler": "Euler",
                "ModelName": "folder/pony.safetensors",
            },
        ),
    ],
    ids=["Tensor.Art", "Stability Matrix"],
)
def test_blocks_with_other_names_are_read(keyword: str, block: dict[str, Any]) -> None:
    found = of_texts({keyword: json.dumps(block) + "\0"})
    assert known(found, "prompt", "seed", "steps", "cfgScale", "sampler", "checkpoint") == {
        "prompt": "a cat",
        "seed": "42",
        "steps": 25,
        "cfgScale": 6.0,
        "sampler": "Euler",
        "checkpoint": "pony",
    }


@pytest.mark.parametrize(
    "value",
    [
        {"sui_image_params": []},
        {"sui_image_params": {"loras": 5, "model": {}, "steps": [1]}, "sui_models": "x"},
        {"c": 1, "uc": 2, "lora": "x"},
        {"prompt": [], "steps": {}, "seed": None},
        {**EASY, "lora_alpha": None, "use_lora_model": {"a": 1}},
    ],
)
def test_wrong_types_are_no_failure(value: Any) -> None:
    assert of_texts({"parameters": value})["source"] in ("stable_diffusion", "unknown")


@pytest.mark.parametrize("name", ["automatic1111_cropped.png", "automatic1111_cropped.jpg"])
def test_golden_files_are_read(name: str) -> None:
    path = golden(f"sd-parsers/tests__resources__parsers__AUTOMATIC1111__{name}")
    found = of_file(path.read_bytes())
    assert known(found, "prompt", "negativePrompt", "steps", "sampler", "seed", "checkpoint") == {
        "prompt": "photo of a duck",
        "negativePrompt": "monochrome",
        "steps": 15,
        "sampler": "UniPC",
        "seed": "235284042",
        "checkpoint": "realistic_realisticVisionV20_v20",
    }


def test_golden_texts_of_flux_are_read() -> None:
    basic = json.loads(golden("image-metahub/basic-flux.json").read_text())
    assert known(of_texts(basic), "prompt", "checkpoint") == {
        "prompt": "The battlefield is an unimaginable hellscape.",
        "checkpoint": "flux1-dev-Q8_0",
    }
    example = json.loads(golden("image-metahub/flux-example.json").read_text())
    found = of_texts(example)
    assert known(found, "generator", "steps", "cfgScale") == {
        "generator": "Draw Things",
        "steps": 30,
        "cfgScale": 5.0,
    }
    assert [lora["weight"] for lora in found["loras"]] == [0.9, 0.8, 1.0]


def test_the_golden_png_of_image_metahub_is_read() -> None:
    found = of_file(golden("image-metahub/a1111.png").read_bytes())
    assert known(found, "sampler", "scheduler", "clipSkip", "version") == {
        "sampler": "DPM++ 2M",
        "scheduler": "Karras",
        "clipSkip": 2,
        "version": "v1.9.4",
    }


def lora_of(texts: dict[str, Any]) -> list[Any]:
    return [[one["name"], one["weight"], one["hash"]] for one in of_texts(texts)["loras"]]


def test_resources_without_a_name_are_named_by_their_urn() -> None:
    urns: list[dict[str, Any]] = [
        {"air": "urn:air:sdxl:checkpoint:civitai:101055@128078"},
        {"air": "urn:air:sdxl:lora:civitai:1@2", "weight": 0.5},
        {"air": "broken"},
    ]
    text = f"a cat\nSteps: 25, Sampler: Euler a, Seed: 5, Civitai resources: {json.dumps(urns)}"
    assert of_texts({"parameters": text})["model"] == urns[0]["air"]
    assert lora_of({"parameters": text}) == [["urn:air:sdxl:lora:civitai:1@2", 0.5, None]]


def test_weights_of_loras_are_read_from_settings_and_lists() -> None:
    text = 'a cat\nSteps: 25, Sampler: x, Lora hashes: "off: abc", Lora weights: "off: 0.1"'
    assert lora_of({"parameters": text}) == [["off", 0.1, "abc"]]
    models = [
        {"type": "LORA", "modelFileName": "detail", "weight": 0.5, "hash": "AB"},
        {"type": "BASE_MODEL", "modelFileName": "base"},
    ]
    block = {"models": models, "prompt": "a cat", "steps": 25, "seed": "5"}
    assert lora_of({"generation_data": json.dumps(block)}) == [["detail", 0.5, "AB"]]
