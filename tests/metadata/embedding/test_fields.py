"""The embedded fields: defaults, types, JSON, and names of models without folders."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from proxy.metadata.embedding import (
    ImageMetadataEmbedding,
    create_generation_id,
    create_timestamp,
)
from tests.metadata.embedding.conftest import VALUES, make


def test_what_nobody_supplied_is_unknown() -> None:
    defaults = {key: value for key, value in make().to_dict().items() if key not in VALUES}
    assert defaults == {
        "scheduler": None,
        "clip_skip": None,
        "base_model_id": "unknown",
        "base_model_architecture": "unknown",
        "vae_model": None,
        "loras_used": [],
        "generation_time_seconds": None,
        "peak_vram_gb": None,
        "pipeline_type": "unknown",
        "pipeline_version": "unknown",
    }


@pytest.mark.parametrize("name", VALUES)
def test_the_main_fields_have_no_default(name: str) -> None:
    values = {key: value for key, value in VALUES.items() if key != name}
    with pytest.raises(TypeError, match=name):
        ImageMetadataEmbedding(**values)
    with pytest.raises(ValueError, match=name):
        ImageMetadataEmbedding.from_dict(values)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        make().seed = 1  # type: ignore[misc]


def test_json_and_dictionary_give_the_same_metadata_again() -> None:
    metadata = make(
        prompt='日本 "quoted"\nline 2 \0 end',
        seed=18446744073709551615,
        loras_used=[{"name": "detail", "weight": 0.8}, {"name": "style", "weight": -1}],
        clip_skip=2,
        generation_time_seconds=1.25,
    )
    assert ImageMetadataEmbedding.from_json(metadata.to_json()) == metadata
    assert ImageMetadataEmbedding.from_dict(metadata.to_dict()) == metadata
    assert json.loads(metadata.to_json()) == metadata.to_dict()


def test_unknown_keys_are_ignored() -> None:
    lora = {"name": "a", "weight": 1.0}
    data = {**VALUES, "user": "someone", "loras_used": [{**lora, "path": "/home/someone"}]}
    metadata = ImageMetadataEmbedding.from_dict(data)
    assert metadata == make(loras_used=[lora])
    assert "someone" not in metadata.to_json()


WRONG: dict[str, list[Any]] = {
    "generation_id": [None, 1, ""],
    "generation_timestamp": [None, 1736605822, datetime(2025, 1, 11, tzinfo=UTC)],
    "prompt": [None, b"bytes", ["a"]],
    "negative_prompt": [None, 0],
    "seed": ["42", 42.5, True, [42], 10**400, -(10**5000), float("nan")],
    "steps": ["30", 30.0],
    "cfg_scale": [
        "7.5", True, float("nan"), float("inf"), 10**400, 10**5000, Fraction(10**400, 3),
        np.float64("inf"),
    ],
    "width": ["1024", 10.5],
    "height": [{}],
    "sampler": [1],
    "scheduler": [1],
    "clip_skip": ["2", 1.5],
    "base_model_id": [None, 1],
    "base_model_architecture": [None],
    "vae_model": [1],
    "loras_used": [
        None, "detail", {"name": "a"}, ["detail"], [{"name": "a"}], [{"weight": 1.0}],
        [{"name": 1, "weight": 1.0}], [{"name": "a", "weight": "1"}],
        [{"name": "a", "weight": 10**400}],
    ],
    "generation_time_seconds": ["1"],
    "peak_vram_gb": ["8"],
    "pipeline_type": [None],
    "pipeline_version": [1.0],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
    # Python refuses to write an integer of 5000 digits, which would be part of the name.
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_wrong_type_is_refused_with_the_name_of_the_field(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        make(**{name: value})
    with pytest.raises(ValueError, match=name):
        ImageMetadataEmbedding.from_dict({**VALUES, name: value})


def test_every_field_is_checked() -> None:
    assert set(WRONG) == {one.name for one in fields(ImageMetadataEmbedding)}


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", '"text"', "1e400", "[" * 100_000, "{}", "9" * 5000,
     '{"a":' * 100_000, "\ufeff{}", b"\xff\xfe\0", b"{\xff}"],
)  # fmt: skip
def test_other_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its sentence is that of the JSON parser
        ImageMetadataEmbedding.from_json(text)


@pytest.mark.parametrize(
    ("field", "number"),
    [("cfg_scale", "9" * 401), ("cfg_scale", "9" * 5000), ("seed", "9" * 401), ("width", "1e999"),
     ("cfg_scale", "NaN"), ("peak_vram_gb", "-Infinity"), ("steps", "[" * 50_000),
     ("negative_prompt", "{" * 50_000)],
)  # fmt: skip
def test_hostile_numbers_in_json_are_refused(field: str, number: str) -> None:
    text = make().to_json().replace("}", f', "{field}": {number}}}')
    with pytest.raises(ValueError):  # noqa: PT011 - some sentences are those of the JSON parser
        ImageMetadataEmbedding.from_json(text)


def test_numbers_of_numpy_become_numbers_of_python() -> None:
    metadata = make(seed=np.int64(7), cfg_scale=np.float32(7.5), width=np.uint16(512))
    assert json.loads(metadata.to_json())["seed"] == 7
    assert [type(one) for one in (metadata.seed, metadata.cfg_scale)] == [int, float]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("/home/alice/models/dream.safetensors", "dream.safetensors"),
        (r"C:\Users\alice\dream.ckpt", "dream.ckpt"),
        ("C:dream.ckpt", "dream.ckpt"),
        ("~/models/dream/", "dream"),
        ("../dream", "dream"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "stable-diffusion-xl-base-1.0"),
        ("https://models.example/dream.safetensors?token=secret", "dream.safetensors"),
        ("dream #2", "dream #2"),
        ("models/dream #2.safetensors", "dream #2.safetensors"),
        ("civitai.com/models/5?token=SECRET", "5"),
        ("models/5?token=a/b", "5"),
        ("dream%3Ftoken=SECRET", "dream"),
        ("civitai.com/models/5&token=SECRET", "5"),
        ("civitai.com/models/5;key=SECRET", "5"),
        ("dream#access_token=SECRET", "dream"),
        ("civitai.com/models/5#SECRET", "5"),
        ("https://models.example/5#SECRET", "5"),
        ("https://user:SECRET@models.example/", "unknown"),
        ("https://user:SECRET@models.example/dream.ckpt", "dream.ckpt"),
        ("https://user:SECRET@models.example", "unknown"),
        ("https://user:SEC?RET@models.example/dream", "unknown"),
        ("https://user:SEC#RET@models.example/dream", "dream"),
        ("https://models.example", "unknown"),
        ("https://models.example?token=SECRET", "unknown"),
        ("https://", "unknown"),
        ("s3://bucket", "unknown"),
        ("s3://bucket/models/dream.ckpt", "dream.ckpt"),
        ("file:///home/alice/dream.ckpt", "dream.ckpt"),
        ("C://alice/dream.ckpt", "dream.ckpt"),
        ("C://dream.ckpt", "dream.ckpt"),
        ("user:SECRET@models.example", "unknown"),
        ("user:SECRET@models.example/", "unknown"),
        ("u:SECRET@models.example:8080/", "unknown"),
        ("//user:SECRET@models.example/", "unknown"),
        ("user:SECRET@models.example/dream", "dream"),
        ("git@models.example:dream", "dream"),
        ("git@models.example:alice/dream.git", "dream.git"),
        ("?token=SECRET", "unknown"),
        ("dream@fp16", "dream@fp16"),
        ("llama3:8b", "llama3:8b"),
        ("llama3:8b@sha256:0123", "llama3:8b@sha256:0123"),
        ("urn:air:sdxl:checkpoint:civitai:101055@128078",
         "urn:air:sdxl:checkpoint:civitai:101055@128078"),
        ("black & white", "black & white"),
        ("/", "unknown"),
    ],
)  # fmt: skip
def test_models_are_named_without_folders(model: str, name: str) -> None:
    lora = {"name": model, "weight": 0.5}
    safe = make(base_model_id=model, vae_model=model, loras_used=[lora]).without_folders()
    assert safe.base_model_id == safe.vae_model == safe.loras_used[0]["name"] == name
    assert make().without_folders() == make()


@pytest.mark.parametrize("model", ["a", "#", "a.", "/", "://", "a:b@", "&", "\\"])
def test_a_long_name_of_a_model_takes_no_longer_than_its_length(model: str) -> None:
    began = time.process_time()
    make(base_model_id=model * 1_000_000).without_folders()
    assert time.process_time() - began < 1


def test_ids_are_random_and_timestamps_are_in_utc() -> None:
    assert uuid.UUID(create_generation_id()).version == 4
    assert create_generation_id() != create_generation_id()
    assert datetime.fromisoformat(create_timestamp()).utcoffset() == UTC.utcoffset(None)
