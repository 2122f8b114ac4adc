"""InvokeAI of versions 1 to 5."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.generations import known, of_file, of_texts
from tests.support.golden import golden

V5 = {
    "app_version": "5.4.2",
    "positive_prompt": "a duck",
    "negative_prompt": "",
    "seed": 42,
    "steps": 4,
    "guidance": 3.5,
    "scheduler": "euler",
    "model": {"key": "abc", "hash": "blake3:12", "name": "FLUX Dev", "base": "flux"},
    "vae": {"name": "FLUX VAE"},
    "loras": [{"model": {"name": "ink", "hash": "h"}, "weight": 0.75}],
}


def test_version_5_is_read() -> None:
    found = of_texts({"invokeai_metadata": V5})
    assert known(
        found, "source", "prompt", "negativePrompt", "seed", "cfgScale", "model", "vae", "version"
    ) == {
        "source": "invokeai",
        "prompt": "a duck",
        "negativePrompt": None,
        "seed": "42",
        "cfgScale": 3.5,
        "model": "FLUX Dev",
        "vae": "FLUX VAE",
        "version": "5.4.2",
    }
    assert found["loras"] == [{"name": "ink", "weight": 0.75, "hash": "h"}]
    assert found["rawParameters"]["modelHash"] == "blake3:12"


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        ('"a cat [dog, rat]" -s 50 -S 007 -C7.5 -A k_lms', ("a cat", "dog, rat", "007")),
        ("a cat -s 20 -S 5", ("a cat", None, "5")),
        ('"it\'s" -S 1', ("it's", None, "1")),
        ('"not closed -s 20 -S 9', ('"not closed', None, "9")),
    ],
)
def test_a_command_line_is_read(command: str, fields: tuple[str, str | None, str]) -> None:
    found = of_texts({"Dream": command})
    assert (found["prompt"], found["negativePrompt"], found["seed"]) == fields
    assert found["source"] == "invokeai"


@pytest.mark.parametrize(
    "value", ["", "hello", "-", "[]", '"a', 5, {"image": 3}, {"image": {"prompt": {}}}]
)
def test_other_values_are_no_failure(value: Any) -> None:
    for key in ("Dream", "sd-metadata", "invokeai_metadata"):
        assert of_texts({key: value})["source"] in ("unknown", "invokeai")


EXPECTED = {
    "dream1": ("k_lms", 50, "2980747362", None, 5.0),
    "imeta1": ("euler", 35, "3293022630", "juggernautXL", 8.0),
    "sdmeta1": ("k_lms", 50, "2980747362", "deliberateForInvoke_v08", 5.0),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_files_are_read(name: str) -> None:
    path = golden(f"sd-parsers/tests__resources__parsers__InvokeAI__invokeai_{name}.png")
    found = of_file(path.read_bytes())
    assert found["source"] == "invokeai"
    fields = known(found, "sampler", "steps", "seed", "checkpoint", "cfgScale")
    assert tuple(fields.values()) == EXPECTED[name]
    if name != "imeta1":
        assert found["negativePrompt"] == "rendering, glowing eyes, skinny"
        assert found["prompt"].endswith("film grain, low contrast")
