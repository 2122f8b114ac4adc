"""Removal of metadata: the pixels are the same, and nothing else about the image is left."""

from __future__ import annotations

import io
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from proxy.domain.worker_protocol import JobFailure, KeptRange, RemovalPlan
from proxy.rendering.worker.metadata_removal import plan_removal

SECRET = b"SECRET-OF-THE-PHOTOGRAPHER"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def planned(content: bytes, directory: Path) -> RemovalPlan | JobFailure:
    path = directory / "file"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return plan_removal(descriptor)
    finally:
        os.close(descriptor)


def stripped(content: bytes, directory: Path) -> bytes:
    plan = planned(content, directory)
    assert isinstance(plan, RemovalPlan), plan
    plan.check(len(content))
    result = b"".join(one.new + content[one.start : one.stop] for one in plan.kept)
    assert len(result) == plan.length
    return result


def picture(kind: str, *, orientation: int = 6, **options: Any) -> bytes:
    noise = Image.frombytes("RGB", (64, 48), random.Random(1).randbytes(64 * 48 * 3))
    image = noise.convert("P" if kind == "GIF" else "RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = SECRET.decode()
    buffer = io.BytesIO()
    if kind in ("JPEG", "WEBP", "PNG"):
        options |= {"exif": exif.tobytes(), "icc_profile": PROFILE}
    if kind in ("JPEG", "WEBP"):
        options["xmp"] = b"<x:xmpmeta>" + SECRET + b"</x:xmpmeta>"
    if kind in ("JPEG", "GIF"):
        options["comment"] = SECRET
    if kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("Comment", SECRET.decode())
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", SECRET.decode())
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pixels_profile_and_orientation_stay_and_all_else_goes(kind: str, tmp_path: Path) -> None:
    content = picture(kind, quality=90)
    assert SECRET in content
    result = stripped(content, tmp_path)
    assert SECRET not in result
    before, after = opened(content), opened(result)
    assert before.tobytes() == after.tobytes()
    assert after.info["icc_profile"] == PROFILE
    assert dict(after.getexif()) == {0x0112: 6}
    # Once more changes nothing.
    assert stripped(result, tmp_path) == result


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_upright_image_gets_no_exif(kind: str, tmp_path: Path) -> None:
    result = stripped(picture(kind, orientation=1), tmp_path)
    assert dict(opened(result).getexif()) == {}
    assert b"Exif" not in result
    assert b"eXIf" not in result


def test_a_gif_keeps_its_loop_and_frames(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), (60 * number, 0, 0)) for number in range(1, 4)]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], loop=0, duration=50, comment=SECRET
    )
    content = buffer.getvalue()
    # The text of XMP is no sub-block: its bytes are taken for lengths, up to a descending trailer.
    xmp = b"\x21\xff\x0bXMP DataXMP" + SECRET + bytes([1, *range(255, -1, -1), 0])
    said = b"\x21\xfe" + bytes([len(SECRET)]) + SECRET + b"\0"
    content = content[:-1] + xmp + said + b";" + SECRET
    result = stripped(content, tmp_path)
    assert SECRET not in result
    image = Image.open(io.BytesIO(result))
    assert getattr(image, "n_frames", 1) == 3
    assert image.info["loop"] == 0


def test_images_behind_the_first_one_of_a_jpeg_go(tmp_path: Path) -> None:
    first, second = picture("JPEG", orientation=1), picture("JPEG")
    mpf = b"MPF\0" + SECRET
    segment = struct.pack(">BBH", 0xFF, 0xE2, len(mpf) + 2) + mpf
    content = first[:2] + segment + first[2:] + second + SECRET
    result = stripped(content, tmp_path)
    assert SECRET not in result
    assert result.count(b"\xff\xd8\xff") == 1
    assert opened(result).tobytes() == opened(first).tobytes()


def test_a_progressive_jpeg_with_restart_markers_is_found_to_its_end(tmp_path: Path) -> None:
    content = picture("JPEG", progressive=True, quality=95, restart_marker_rows=1)
    result = stripped(content + SECRET, tmp_path)
    assert SECRET not in result
    assert result.endswith(b"\xff\xd9")
    assert opened(result).tobytes() == opened(content).tobytes()


@pytest.mark.parametrize("marker", range(0xE0, 0xF0))
def test_no_segment_of_an_application_hides_metadata(marker: int, tmp_path: Path) -> None:
    for begin in (b"", b"\xff\xff", b"JFXX\0", b"ICC_PROFIL"):
        body = begin + SECRET
        segment = struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
        content = picture("JPEG", orientation=1)
        assert SECRET not in stripped(content[:2] + segment + content[2:], tmp_path)


def test_unknown_chunks_and_trailers_go(tmp_path: Path) -> None:
    png = picture("PNG", orientation=1)
    chunk = struct.pack(">I", len(SECRET)) + b"prVt" + SECRET + b"\0\0\0\0"
    content = png[:33] + chunk + png[33:] + SECRET
    assert SECRET not in stripped(content, tmp_path)
    webp = picture("WEBP", orientation=1)
    padded = SECRET + b"\0" * (len(SECRET) & 1)
    body = webp[12:] + b"JUNK" + struct.pack("<I", len(SECRET)) + padded
    content = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body + SECRET
    assert SECRET not in stripped(content, tmp_path)


def test_a_bmp_is_kept_as_it_is(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "BMP")
    assert stripped(buffer.getvalue(), tmp_path) == buffer.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "AVIF"])
def test_a_type_that_would_have_to_be_encoded_again_is_refused(kind: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    failure = planned(buffer.getvalue(), tmp_path)
    assert isinstance(failure, JobFailure)
    assert failure.kind == "unsupported"
    assert "metadata=kept" in failure.detail


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_end_with_a_plan_within_the_file_or_a_failure(
    kind: str, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(picture(kind))
    for _ in range(data.draw(st.integers(0, 5))):
        at = data.draw(st.integers(2, min(len(content), 300) - 1))
        content[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    plan = planned(bytes(content[:cut]), tmp_path)
    if isinstance(plan, JobFailure):
        assert plan.kind in ("undecodable", "unsupported", "too_large")
    else:
        plan.check(cut)


@pytest.mark.parametrize(
    "kept",
    [
        [KeptRange(0, 11)],
        [KeptRange(-1, 5)],
        [KeptRange(5, 3)],
        [KeptRange(4, 8), KeptRange(0, 2)],
        [KeptRange(0, 2, "zz")],
    ],
)
def test_a_plan_beyond_the_file_is_refused(kept: list[KeptRange]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - two sentences
        RemovalPlan(tuple(kept)).check(10)
