"""Text in the lowest bits of pixels."""

from __future__ import annotations

import gzip
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metadata.generation.detect import detect
from proxy.metadata.generation.stealth import MAX_BYTES, read
from tests.support.containers import walked
from tests.support.golden import golden

HEIGHT = 16


def hidden(magic: bytes, data: bytes, bands: int, *, length: int | None = None) -> list[bytes]:
    """Return the columns of an image with hidden data, after which the bits are noise."""
    stream = magic + (len(data) * 8 if length is None else length).to_bytes(4, "big") + data
    bits = [byte >> shift & 1 for byte in stream for shift in range(7, -1, -1)]
    values = itertools.chain(bits, itertools.cycle((1, 0, 0)))
    columns = []
    per_pixel = 1 if b"png" in magic else 3
    for _ in range(len(bits) // (HEIGHT * per_pixel) + 2):
        column = bytearray()
        for _ in range(HEIGHT):
            if per_pixel == 1:
                column += bytes([7, 8, 9, 254 | next(values)])
            else:
                column += bytes(200 | next(values) for _ in range(3)) + b"\xff" * (bands - 3)
        columns.append(bytes(column))
    return columns


@pytest.mark.parametrize(
    ("magic", "bands"),
    [
        (b"stealth_pnginfo", 4),
        (b"stealth_pngcomp", 4),
        (b"stealth_rgbinfo", 3),
        (b"stealth_rgbinfo", 4),
        (b"stealth_rgbcomp", 3),
        (b"stealth_rgbcomp", 4),
    ],
)
def test_all_four_forms_are_read(magic: bytes, bands: int) -> None:
    text = "a duck, 猫\nSteps: 20"
    data = text.encode()
    stored = gzip.compress(data) if magic.endswith(b"comp") else data
    assert read(hidden(magic, stored, bands), bands) == text


def test_no_more_columns_are_taken_than_are_needed() -> None:
    columns = iter([bytes(HEIGHT * 4)] * 100)
    assert read(columns, 4) is None
    assert len(list(columns)) > 88


@pytest.mark.parametrize("length", [0xFFFFFFF8, 9, MAX_BYTES * 8 + 8])
def test_impossible_lengths_are_no_text(length: int) -> None:
    assert read(hidden(b"stealth_pnginfo", b"text", 4, length=length), 4) is None


def test_a_truncated_or_damaged_text_is_none() -> None:
    columns = hidden(b"stealth_pnginfo", b"x" * 500, 4)
    assert read(columns[:10], 4) is None
    assert read(hidden(b"stealth_pngcomp", b"not gzip", 4), 4) is None


def test_a_bomb_is_none() -> None:
    bomb = gzip.compress(bytes(MAX_BYTES + 1))
    assert read(hidden(b"stealth_pngcomp", bomb, 4), 4) is None


def test_the_largest_text_is_read_in_linear_time() -> None:
    header = b"stealth_pnginfo" + (MAX_BYTES * 8).to_bytes(4, "big")
    bits = "".join(f"{byte:08b}" for byte in header)
    first = b"".join(bytes([0, 0, 0, int(bit)]) for bit in bits)
    column = b"".join(bytes([0, 0, 0, int(bit)]) for bit in f"{ord('x'):08b}" * 64)
    started = time.process_time()
    assert read([first, *[column] * (MAX_BYTES // 64)], 4) == "x" * MAX_BYTES
    assert time.process_time() - started < 20


@given(
    columns=st.lists(st.binary(min_size=12, max_size=12), max_size=40),
    bands=st.sampled_from([3, 4]),
)
def test_noise_never_fails(columns: list[bytes], bands: int) -> None:
    assert read(columns, bands) is None


def test_the_golden_file_has_its_prompt() -> None:
    pillow = pytest.importorskip("PIL.Image")
    path = golden("sd-parsers/tests__resources__parsers__AUTOMATIC1111__automatic1111_stealth.png")
    with pillow.open(path) as image:
        transposed = image.transpose(pillow.Transpose.TRANSPOSE).tobytes()
        size = 4 * image.height
        columns = (transposed[at : at + size] for at in range(0, len(transposed), size))
        text = read(columns, 4)
    found, _ = detect(walked(path.read_bytes()), hidden_text=text)
    assert (found["source"], found["prompt"], found["steps"]) == (
        "stable_diffusion",
        "a circle",
        20,
    )
    assert found["evidence"][0]["where"] == "pixels"
