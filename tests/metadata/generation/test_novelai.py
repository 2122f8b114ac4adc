"""NovelAI of versions 1 to 4, in PNG texts, in EXIF and in the pixels."""

from __future__ import annotations

import json

from tests.support.containers import jpeg_with_comment, walked
from tests.support.generations import known, of_file, of_texts
from tests.support.golden import golden

V4 = {
    "prompt": "1girl, cafe",
    "steps": 28,
    "seed": 2648571283,
    "scale": 5.5,
    "sampler": "k_euler_ancestral",
    "noise_schedule": "karras",
    "uc": "lowres",
    "v4_prompt": {
        "caption": {"base_caption": "1girl, cafe", "char_captions": [{"char_caption": "girl, red"}]}
    },
    "v4_negative_prompt": {"caption": {"base_caption": "lowres", "char_captions": []}},
}
CHUNKS = {
    "Software": "NovelAI",
    "Source": "NovelAI Diffusion V4 37442FCA",
    "Comment": json.dumps(V4),
}


def test_version_4_is_read_with_its_characters() -> None:
    found = of_texts(CHUNKS)
    assert known(found, "source", "prompt", "negativePrompt", "seed", "scheduler", "model") == {
        "source": "novelai",
        "prompt": "1girl, cafe",
        "negativePrompt": "lowres",
        "seed": "2648571283",
        "scheduler": "karras",
        "model": "NovelAI Diffusion V4 37442FCA",
    }
    assert found["rawParameters"]["characterPrompts"] == ["girl, red"]


def test_the_hidden_text_is_read_as_the_chunks_are() -> None:
    found = of_file(golden_like(), hidden_text=json.dumps(CHUNKS))
    assert (found["source"], found["cfgScale"]) == ("novelai", 5.5)
    assert found["evidence"][0]["where"] == "pixels"


def golden_like() -> bytes:
    return jpeg_with_comment("nothing")


def test_chunks_as_one_object_in_a_user_comment_are_read() -> None:
    found = of_file(jpeg_with_comment(json.dumps(CHUNKS)))
    assert known(found, "source", "steps", "sampler") == {
        "source": "novelai",
        "steps": 28,
        "sampler": "k_euler_ancestral",
    }


def test_the_prompt_is_the_base_caption_if_there_is_no_other() -> None:
    block = {key: value for key, value in V4.items() if key != "prompt"}
    assert of_texts({**CHUNKS, "Comment": block})["prompt"] == "1girl, cafe"


def test_the_software_alone_is_a_tool_string() -> None:
    found = of_texts({"Software": "NovelAI", "Description": "a cat", "Comment": "{broken"})
    assert known(found, "source", "prompt", "confidence") == {
        "source": "novelai",
        "prompt": "a cat",
        "confidence": 0.5,
    }


def test_draw_things_is_not_novelai() -> None:
    block = {"c": "a cat", "uc": "", "sampler": "Euler A", "scale": 5, "seed": 1, "model": "x.ckpt"}
    assert of_file(jpeg_with_comment(json.dumps(block)))["source"] == "stable_diffusion"


def test_the_golden_file_is_read() -> None:
    content = golden(
        "sd-parsers/tests__resources__parsers__NovelAI__novelai1_cropped.png"
    ).read_bytes()
    found = of_file(content)
    assert walked(content).format == "png"
    assert known(found, "source", "prompt", "steps", "sampler", "seed", "cfgScale") == {
        "source": "novelai",
        "prompt": "masterpiece, best quality,  cat, space, icon",
        "steps": 50,
        "sampler": "k_euler_ancestral",
        "seed": "2253955223",
        "cfgScale": 10.0,
    }
