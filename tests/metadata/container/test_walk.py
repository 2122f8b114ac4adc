"""The walk over every format: golden files, mutants, limits of time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.errors import MetadataTooLarge, UnknownImageFormat
from proxy.metadata.formats import FORMATS, UNSUPPORTED_FORMAT
from tests.metadata.container.test_isobmff import image as avif
from tests.support.containers import gif, jpeg_with_comment, png_with_texts, tiff, walked, webp
from tests.support.golden import golden

SEEDS = {
    "jpeg": jpeg_with_comment("a prompt"),
    "png": png_with_texts({"parameters": "a prompt", "猫": "猫"}),
    "tiff": tiff({0x010E: "a description", 0x0100: 5}, {0x9286: b"ASCII\0\0\0prompt"}),
    "webp": webp((b"EXIF", tiff({0x0131: "Tool 1"}))),
    "avif": avif(),
    "gif": gif(b"\x21\xfe\x04text\0"),
}


def goldens() -> Iterator[Path]:
    for folder in ("exiftool/images", "metadata-extractor", "sd-parsers", "c2pa/public-testfiles"):
        yield from (
            p for p in sorted(golden(folder).iterdir()) if p.suffix not in {".txt", ".json"}
        )


@pytest.mark.parametrize("content", [b"", b"plain text", b"%PDF-1.4 and more"])
def test_a_file_of_another_type_is_refused_with_the_documents_sentence(content: bytes) -> None:
    with pytest.raises(UnknownImageFormat) as refused:
        walked(content)
    assert refused.value.detail == UNSUPPORTED_FORMAT
    assert refused.value.status == 400


def test_a_metadata_bomb_is_not_processable() -> None:
    assert MetadataTooLarge.status == 422


@pytest.mark.parametrize("name", SEEDS)
def test_every_format_is_walked(name: str) -> None:
    walk = walked(SEEDS[name])
    assert walk.format == name
    assert walk.warnings == ()
    assert walk.metadata_bytes > 0


def test_ranges_lie_in_the_file_in_order_and_do_not_overlap() -> None:
    for path in goldens():
        content = path.read_bytes()
        try:
            walk = walked(content)
        except UnknownImageFormat:
            continue
        end = 0
        for offset, length in walk.ranges:
            assert offset >= end, path.name
            end = offset + length
        assert end <= len(content), path.name
        assert walk.format in FORMATS


def test_sizes_of_golden_files_are_those_that_pillow_reads() -> None:
    pillow = pytest.importorskip("PIL.Image")
    compared = 0
    for path in goldens():
        try:
            with pillow.open(path) as opened:
                size, kind = opened.size, opened.format
            walk = walked(path.read_bytes())
        except (OSError, UnknownImageFormat):
            continue
        # An icon may hold larger images than its directory says; RAW files have several.
        if kind in {"JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF"} and walk.image.height:
            assert (walk.image.width, walk.image.height) == size, path.name
            compared += 1
    assert compared > 80


def mutants(content: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    for _ in range(count):
        mutant = bytearray(content)
        for _ in range(rng.choice((1, 2, 8, 40))):
            at = rng.randrange(4, len(mutant))
            mutant[at] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        yield bytes(mutant[: rng.choice((len(mutant), rng.randrange(4, len(mutant))))])


@pytest.mark.parametrize("name", SEEDS)
def test_mutants_of_small_files_never_fail(name: str) -> None:
    rng = random.Random(name)
    for mutant in mutants(SEEDS[name], rng, 400):
        try:
            assert walked(mutant).format in FORMATS
        except (UnknownImageFormat, MetadataTooLarge):
            continue


def test_mutants_of_golden_files_never_fail() -> None:
    rng = random.Random(15)
    for path in goldens():
        content = path.read_bytes()[:60_000]
        for mutant in mutants(content, rng, 6) if len(content) > 8 else ():
            try:
                walked(mutant)
            except (UnknownImageFormat, MetadataTooLarge):
                continue


@given(noise=st.binary(max_size=300), name=st.sampled_from(sorted(SEEDS)))
def test_noise_behind_a_signature_never_fails(noise: bytes, name: str) -> None:
    try:
        walked(SEEDS[name][:16] + noise)
    except (UnknownImageFormat, MetadataTooLarge):
        return
