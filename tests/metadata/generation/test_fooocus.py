"""Fooocus and RuinedFooocus."""

from __future__ import annotations

import json

from tests.support.containers import jpeg_with_comment
from tests.support.generations import known, of_file, of_texts
from tests.support.golden import golden

BLOCK = {
    "prompt": "a goldfish",
    "negative_prompt": "",
    "base_model": "juggernautXL_v8.safetensors",
    "base_model_hash": "aeb7e9e689",
    "guidance_scale": 4.0,
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "seed": "6952411511246973023",
    "steps": 30,
    "loras": [["offset", 0.1, "4852686128"], [], "x"],
    "version": "Fooocus v2.4.3",
}


def test_the_block_is_read_from_png_and_exif() -> None:
    for found in (of_texts({"parameters": BLOCK}), of_file(jpeg_with_comment(json.dumps(BLOCK)))):
        assert known(found, "source", "checkpoint", "cfgScale", "seed", "version") == {
            "source": "fooocus",
            "checkpoint": "juggernautXL_v8",
            "cfgScale": 4.0,
            "seed": "6952411511246973023",
            "version": "Fooocus v2.4.3",
        }
        assert found["loras"] == [{"name": "offset", "weight": 0.1, "hash": "4852686128"}]
        assert found["rawParameters"]["base_model_hash"] == "aeb7e9e689"


def test_the_names_of_the_log_are_read() -> None:
    block = {
        "Prompt": "a cat",
        "Negative Prompt": "dog",
        "Base Model": "x.safetensors",
        "Guidance Scale": 7,
        "Seed": 5,
        "LoRA 1": "ink.safetensors : 0.5",
    }
    found = of_texts({"Comment": block})
    assert known(found, "source", "prompt", "negativePrompt", "cfgScale") == {
        "source": "fooocus",
        "prompt": "a cat",
        "negativePrompt": "dog",
        "cfgScale": 7.0,
    }
    assert found["loras"] == [{"name": "ink", "weight": 0.5, "hash": None}]


def test_infotext_that_names_fooocus_is_of_fooocus() -> None:
    text = (
        "a cat\nNegative prompt: dog\nSteps: 30, Sampler: Euler, Seed: 5, Version: Fooocus v2.5.0"
    )
    assert known(of_texts({"parameters": text}), "source", "prompt", "steps") == {
        "source": "fooocus",
        "prompt": "a cat",
        "steps": 30,
    }


def test_the_golden_file_is_read() -> None:
    path = golden("sd-parsers/tests__resources__parsers__Fooocus__fooocus1_cropped.png")
    found = of_file(path.read_bytes())
    assert known(found, "source", "prompt", "steps", "sampler", "scheduler", "clipSkip") == {
        "source": "fooocus",
        "prompt": "a smiling goldfish",
        "steps": 30,
        "sampler": "dpmpp_2m_sde_gpu",
        "scheduler": "karras",
        "clipSkip": 2,
    }
