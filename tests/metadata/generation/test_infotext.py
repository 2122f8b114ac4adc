"""The tokenizer of infotext: quotes, brackets, and texts that look like one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metadata.generation.infotext import pairs, parse

RESOURCES = '[{"type":"lora","weight":0.8,"modelName":"Ink, wash"},{"type":"checkpoint"}]'


def test_commas_in_quotes_and_brackets_do_not_end_a_value() -> None:
    line = (
        f'Steps: 20, Lora hashes: "a: 1, b: 2", Civitai resources: {RESOURCES},'
        ' Hashes: {"model": "x, y"}, ADetailer prompt: "say \\"hi\\",\\nSteps: 1", Seed: 5'
    )
    assert list(pairs(line)) == [
        ("Steps", "20"),
        ("Lora hashes", "a: 1, b: 2"),
        ("Civitai resources", RESOURCES),
        ("Hashes", '{"model": "x, y"}'),
        ("ADetailer prompt", 'say "hi",\nSteps: 1'),
        ("Seed", "5"),
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('A: "not closed, B: 2', [("A", '"not closed'), ("B", "2")]),
        ("A: [1, B: 2", [("A", "[1"), ("B", "2")]),
        ('A: "x" y, B: 2', [("A", '"x" y'), ("B", "2")]),
        ("A:, B: 2", [("A", ""), ("B", "2")]),
        ("text without key, B: 2", [("B", "2")]),
        ("A: 1\nB: 2", [("A", "1"), ("B", "2")]),
    ],
)
def test_damaged_values_end_at_a_comma(line: str, expected: list[tuple[str, str]]) -> None:
    assert list(pairs(line)) == expected


def test_prompt_lines_negative_prompt_and_settings_are_parts() -> None:
    text = parse(
        "one\ntwo: three, four\n\nNegative prompt: bad\nworse\r\n"
        "Steps: 20, Seed: 1, CFG scale: 7.50"
    )
    assert text is not None
    assert (text.prompt, text.negative) == ("one\ntwo: three, four", "bad\nworse")
    assert text.settings == {"Steps": "20", "Seed": "1", "CFG scale": "7.50"}
    assert text.get("cfg scale") == "7.50"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a photo of steps: 20 of them",
        "Model: Nikon",
        "Negative prompt: only",
        "Size: large",
        ", , ,",
    ],
)
def test_other_texts_are_no_infotext(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "a:[" * 100_000,
        'a:"' * 100_000,
        "Steps: 1," * 50_000,
        "\nSteps: 1" * 50_000,
        "{" * 10**5,
        "Lora hashes: " + "a" * 10**6,
    ],
)
def test_hostile_texts_take_linear_time(text: str) -> None:
    started = time.process_time()
    parse("Steps: 20, Seed: 1, " + text)
    parse(text)
    assert time.process_time() - started < 20


@given(text=st.text(alphabet='aS:,"[]{}\\\n 1', max_size=80))
def test_noise_never_fails(text: str) -> None:
    list(pairs(text))
    parse(f"Steps: 1, Seed: 2, {text}")
