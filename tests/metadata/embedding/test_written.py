"""What is written of metadata, and what of a file is recognised as written by an earlier run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from proxy.metadata.embedding import ImageMetadataEmbedding, ImageMetadataWriter
from proxy.metadata.embedding.exif import exif_of
from proxy.metadata.embedding.writer import embed
from proxy.metadata.embedding.written import FULL_JSON, EarlierMetadata, exif_data, texts_of
from tests.metadata.embedding.conftest import make

IMAGE = Image.effect_noise((24, 16), 64)
GRAPH = '{"3": {"class_type": "KSampler"}}'
OLD, NEW = make(seed=1, prompt="Größe 日本"), make(seed=2, prompt="a dog", pipeline_type="x")
EARLIER = EarlierMetadata([OLD])


def encoded(kind: str, exif: Image.Exif | None = None, **texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    options: dict[str, Any] = {"exif": exif} if exif else {}
    buffer = io.BytesIO()
    IMAGE.save(buffer, kind, **options, **({"pnginfo": info} if kind == "PNG" else {}))
    return buffer.getvalue()


def opened(content: bytes) -> Any:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def extracted(content: bytes, folder: Path) -> ImageMetadataEmbedding | None:
    (folder / "image").write_bytes(content)
    return ImageMetadataWriter().extract_metadata(folder / "image")


def changed(content: bytes, kind: str, **tags: Any) -> bytes:
    """Return the file as a program saves it that sets tags and copies everything else."""
    image = opened(content)
    exif = image.getexif()
    exif.update({int(tag.removeprefix("x"), 16): value for tag, value in tags.items()})
    info = PngImagePlugin.PngInfo()
    for keyword, text in getattr(image, "text", {}).items():
        info.add_text(keyword, text)
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif, **({"pnginfo": info} if kind == "PNG" else {}))
    return buffer.getvalue()


def test_chunks_and_exif_data_of_another_program_survive_many_embeddings(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    content = encoded("PNG", exif, prompt=GRAPH, workflow=GRAPH)
    for metadata in (OLD, NEW, OLD, NEW):
        content = embed(content, metadata)
        assert extracted(content, tmp_path) == metadata
        image = opened(content)
        assert (image.text["prompt"], image.text["workflow"]) == (GRAPH, GRAPH)
        assert image.text["seed"] == str(metadata.seed)
        assert dict(image.getexif()) == {0x010F: "Camera", 0x0112: 6}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_second_embedding_leaves_nothing_of_the_first(kind: str, tmp_path: Path) -> None:
    once = embed(encoded(kind), OLD)
    assert embed(once, NEW) == embed(encoded(kind), NEW)
    resaved = embed(changed(once, kind), NEW)
    assert extracted(resaved, tmp_path) == NEW
    exif = opened(resaved).getexif()
    assert (exif[0x010E], exif[0x0131]) == ("a dog", "x")
    if kind == "PNG":
        assert opened(resaved).text == texts_of(NEW)


@pytest.mark.parametrize(
    "tags",
    [{"x0112": 6, "x8298": "someone"}, {"x010E": "my caption"}, {"x0131": "Editor 2"},
     {"x0132": "2026:01:01 00:00:00"}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_exif_data_that_another_program_changed_is_not_lost(
    kind: str, tags: dict[str, Any]
) -> None:
    content = changed(embed(encoded(kind), OLD), kind, **tags)
    if kind != "PNG":
        with pytest.raises(ValueError, match=r"EXIF data of another program.*sidecar"):
            embed(content, NEW)
        return
    image = opened(embed(content, NEW))
    for tag, value in tags.items():
        assert image.getexif()[int(tag[1:], 16)] == value
    assert image.text["seed"] == "2"


def test_a_chunk_that_another_program_changed_stays() -> None:
    texts = {**texts_of(OLD), "sampler": "DPM++ 3M"}
    content = encoded("PNG", None, **texts)
    image = opened(embed(content, make(sampler="Euler")))
    assert image.text["sampler"] == "DPM++ 3M"
    assert json.loads(image.text[FULL_JSON])["sampler"] == "Euler"


def test_damaged_json_under_the_own_keyword_does_not_hide_the_new_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    content = embed(encoded("PNG", exif, ml_lib_metadata="{other"), NEW)
    assert extracted(content, tmp_path) == NEW
    assert b"{other" in content


def test_metadata_of_ml_lib_itself_is_replaced(tmp_path: Path) -> None:
    data = {**OLD.to_dict(), "user": "someone", "base_model_id": "/home/someone/a.ckpt"}
    exif = Image.Exif()
    exif[0x9286], exif[0x010E], exif[0x0131] = json.dumps(data, indent=2), "Gr??e", "ml_lib 1.0"
    texts = {"ml_lib_metadata": json.dumps(data, indent=2), "base_model": "/home/someone/a.ckpt"}
    for kind in ("PNG", "JPEG", "WEBP"):
        content = embed(encoded(kind, exif, **(texts if kind == "PNG" else {})), NEW)
        assert extracted(content, tmp_path) == NEW
        assert b"someone" not in content


def test_own_texts_are_recognised_in_both_encodings() -> None:
    for keyword, text in texts_of(OLD).items():
        assert EARLIER.is_own_text(keyword, text.encode())
    assert EarlierMetadata([make(prompt="Größe")]).is_own_text("prompt", "Größe".encode("latin-1"))
    assert EarlierMetadata([make(prompt="a\0b\ud800")]).is_own_text("prompt", b"ab?")


@pytest.mark.parametrize(
    ("keyword", "text"),
    [("prompt", b"other"), ("prompt", b""), ("comment", b"1"), (FULL_JSON, b"{}"), ("", b"")],
)
def test_other_texts_are_not_recognised(keyword: str, text: bytes) -> None:
    assert not EARLIER.is_own_text(keyword, text)
    assert not EarlierMetadata([]).is_own_text(keyword, text)


def test_exif_data_is_recognised_by_its_comment_and_tags() -> None:
    assert EARLIER.is_own_exif(exif_data(OLD, limit=None))
    assert EARLIER.is_own_exif(exif_data(make(generation_timestamp="some day"), limit=None))
    comment = b"UNICODE\0" + OLD.to_json().encode("utf-16-le")
    assert EARLIER.is_own_exif(exif_of({}, {}, comment))
    for other in (
        b"",
        b"II*\0",
        exif_of({0x010E: OLD.prompt.encode()}, {}),
        exif_of({}, {}, b"UNICODE\0{\0}\0"),
        exif_of({}, {}, b"ASCII\0\0\0a comment"),
        exif_of({}, {0x9003: b"2025:01:11 14:30:22"}, comment),
        exif_of({0x013B: b"someone"}, {}, comment),
    ):
        assert not EARLIER.is_own_exif(other)


def test_a_jpeg_whose_comment_was_too_long_is_not_recognised() -> None:
    with pytest.warns(UserWarning, match="too long for JPEG"):
        tiff = exif_data(make(prompt="cat " * 8_000), limit=60_000)
    assert not EARLIER.is_own_exif(tiff)
