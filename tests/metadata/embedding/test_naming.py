"""File names: the parts and their order, excerpts of prompts, and values that are refused."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metadata.embedding import ImageMetadataEmbedding, ImageMetadataWriter, ImageNamingConfig
from tests.metadata.embedding.conftest import make

GUID = "a3f2e9d4-b2c1-4a8e-9f3d-1e2a4b5c6d7e"


def name(config: ImageNamingConfig, prefix: str | None = None, **values: Any) -> str:
    return ImageMetadataWriter(config).generate_filename(make(**values), prefix)


def excerpt(prompt: str, length: int = 30) -> str:
    config = ImageNamingConfig(
        include_guid=False, include_prompt_excerpt=True, prompt_excerpt_length=length
    )
    return name(config, prompt=prompt).removeprefix("20250111_143022").strip("_")[:-4]


def test_names_are_those_of_the_requirements(metadata: ImageMetadataEmbedding) -> None:
    descriptive, guid_only = ImageNamingConfig.descriptive(), ImageNamingConfig.guid_only()
    assert ImageMetadataWriter().generate_filename(metadata) == "20250111_143022_a3f2e9d4.png"
    assert name(ImageNamingConfig.standard()) == "20250111_143022_a3f2e9d4.png"
    assert name(descriptive) == "20250111_143022_beautiful-sunset_a3f2e9d4.png"
    assert name(guid_only) == f"{GUID}.png"
    custom = ImageNamingConfig(
        include_prompt_excerpt=True,
        prompt_excerpt_length=20,
        timestamp_format="%Y%m%d",
        separator="-",
    )
    prompt = "fantasy landscape with castle"
    assert name(custom, prompt=prompt) == "20250111-fantasy-landscape-a3f2e9d4.png"
    assert name(ImageNamingConfig.standard(), "test") == "test_20250111_143022_a3f2e9d4.png"


def test_a_name_is_never_empty_and_a_guid_alone_is_whole() -> None:
    nothing = ImageNamingConfig(include_timestamp=False, include_guid=False)
    assert name(nothing) == f"{GUID}.png"
    assert name(nothing, "test") == "test.png"
    assert name(ImageNamingConfig.guid_only(), "test") == "test_a3f2e9d4.png"
    no_words = ImageNamingConfig(include_timestamp=False, include_prompt_excerpt=True)
    assert name(no_words, prompt="日本") == f"{GUID}.png"


def test_an_id_cannot_lead_out_of_the_folder() -> None:
    config = ImageNamingConfig.guid_only()
    assert name(config, generation_id="../../etc/passwd") == "-etc-passwd.png"


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ("2025-01-11T14:30:22Z", "20250111_143022"),
        ("2025-01-11T14:30:22", "20250111_143022"),
        ("2025-01-11T23:30:22-02:00", "20250112_013022"),
        ("2025-01-11T14:30:22.999+00:00", "20250111_143022"),
    ],
)
def test_the_time_is_in_utc(timestamp: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ImageNamingConfig(include_guid=False)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        found = name(config, generation_timestamp=timestamp)
    time.tzset()
    assert found == f"{expected}.png"


@pytest.mark.parametrize("timestamp", ["", "yesterday", "11.01.2025", "0001-01-01T00:00:00+14:00"])
def test_a_timestamp_that_cannot_be_parsed_is_refused_where_it_is_needed(timestamp: str) -> None:
    with pytest.raises(ValueError, match=r"generation_timestamp .* is not ISO 8601"):
        name(ImageNamingConfig.standard(), generation_timestamp=timestamp)
    assert name(ImageNamingConfig.guid_only(), generation_timestamp=timestamp) == f"{GUID}.png"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a beautiful sunset over mountains", "beautiful-sunset"),
        ("The an a cat", "cat"),
        ("Crème brûlée, déjà vu!", "creme-brulee-deja-vu"),
        ("ﬁne № ² art", "fine-no-2-art"),
        ("don't/stop\\now", "don-t-stop-now"),
        ("portrait of a", "portrait"),
        ("Supercalifragilisticexpialidocious words", "supercalifragilisticexpialidoc"),
        ("in the", ""),
        ("日本語", ""),
        ("...", ""),
        ("", ""),
    ],
)
def test_an_excerpt_has_whole_words(prompt: str, expected: str) -> None:
    assert excerpt(prompt) == expected


def test_an_excerpt_fits_exactly() -> None:
    assert excerpt("red green blue", 9) == "red-green"
    assert excerpt("red green blue", 8) == "red"
    assert excerpt("red", 2) == "re"


@given(st.text(max_size=80), st.integers(1, 40))
def test_an_excerpt_is_short_and_has_no_special_characters(prompt: str, length: int) -> None:
    found = excerpt(prompt, length)
    assert len(found) <= length
    assert not found or all(word.isascii() and word.isalnum() for word in found.split("-"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"separator": "/"}, "separator"),
        ({"separator": "\\"}, "separator"),
        ({"separator": "a\0"}, "separator"),
        ({"separator": "\n"}, "separator"),
        ({"timestamp_format": "%Y/%m/%d"}, "timestamp_format"),
        ({"timestamp_format": "%D"}, "timestamp_format"),
        ({"timestamp_format": ""}, "empty name"),
        ({"extension": ""}, "extension"),
        ({"extension": "gif"}, "extension"),
        ({"extension": ".png"}, "extension"),
        ({"extension": "png/../x"}, "extension"),
        ({"prompt_excerpt_length": 0}, "prompt_excerpt_length"),
        ({"prompt_excerpt_length": True}, "prompt_excerpt_length"),
    ],
)
def test_a_configuration_that_gives_no_file_name_is_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ImageNamingConfig(**values)


WRONG: dict[str, tuple[str, list[Any]]] = {
    "prompt_excerpt_length": ("an integer", ["30", None, 2.5, []]),
    **dict.fromkeys(
        ("separator", "timestamp_format", "extension"), ("text", [None, 1, b"png", ["png"]])
    ),
    **dict.fromkeys(
        ("include_timestamp", "include_guid", "include_prompt_excerpt"),
        ("True or False", [None, 1, "no"]),
    ),
}


@pytest.mark.parametrize("field", WRONG)
def test_a_value_of_another_type_is_refused(field: str) -> None:
    expected, values = WRONG[field]
    for value in values:
        with pytest.raises(ValueError, match=f"{field} must be {expected}, not"):
            ImageNamingConfig(**{field: value})


def test_a_length_of_numpy_becomes_one_of_python() -> None:
    config = ImageNamingConfig(prompt_excerpt_length=np.int64(9))  # type: ignore[arg-type]
    assert type(config.prompt_excerpt_length) is int
    assert excerpt("red green blue", np.int64(9)) == "red-green"  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", ["a " * 4_000_000 + "cat", "e\u0301\u0327" * 2_000_000])
def test_a_hostile_prompt_takes_no_longer_than_a_short_one(prompt: str) -> None:
    began = time.process_time()
    excerpt(prompt)
    excerpt("a" + prompt[2:].replace("e", ""))
    assert time.process_time() - began < 1


def test_the_sentence_about_a_timestamp_is_short() -> None:
    with pytest.raises(ValueError, match="is not ISO 8601") as caught:
        name(ImageNamingConfig.standard(), generation_timestamp="x" * 1_000_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("prefix", ["../up", "a/b", "a\\b", "a\0b", "a\nb"])
def test_a_prefix_with_a_folder_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="custom_prefix"):
        name(ImageNamingConfig.standard(), prefix)


def test_a_prefix_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="custom_prefix must be text"):
        name(ImageNamingConfig.standard(), 5)  # type: ignore[arg-type]
