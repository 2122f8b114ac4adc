"""The frame count equals that of a decoder, up to the limit."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from proxy.rendering.worker.imaging import frame_count
from proxy.rendering.worker.imaging.load import open_source
from tests.rendering.worker.imaging import crafted, studio
from tests.support.photos import photo


def counted(source: studio.Source, source_type: str, *, most: int = 1_000) -> int:
    with studio.descriptor(source) as opened:
        return frame_count.count(opened, source_type, most=most)


def animation(kind: str, frames: int) -> bytes:
    """Frames that differ, for Pillow merges equal ones."""
    drawn = [Image.new("RGB", (20, 10), (number, 255 - number, 0)) for number in range(frames)]
    file = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    drawn[0].save(file, kind, save_all=True, append_images=drawn[1:], duration=20, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
@pytest.mark.parametrize("frames", [2, 3, 50])
def test_frames_are_counted(kind: str, frames: int) -> None:
    assert counted(animation(kind, frames), kind.lower()) == frames


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp"])
def test_a_real_animation_has_as_many_as_libvips_finds(name: str) -> None:
    source = photo(name)
    with studio.descriptor(source) as opened:
        found = open_source(opened, studio.LIMITS).header.pages
    assert counted(source, name.partition(".")[2]) == found > 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_counting_ends_at_the_limit(kind: str) -> None:
    assert counted(animation(kind, 50), kind.lower(), most=7) == 7


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
@pytest.mark.parametrize("part", [0.001, 0.3, 0.6, 0.99])
def test_a_file_that_ends_early_is_counted_to_its_end(kind: str, part: float) -> None:
    whole = animation(kind, 20)
    cut = whole[: max(1, int(len(whole) * part))]
    assert 0 <= counted(cut, kind.lower()) <= 20


def test_a_still_webp_has_no_frames_to_count() -> None:
    assert counted(photo("photo.webp"), "webp") == 0


def test_other_types_are_one() -> None:
    assert counted(photo("kodak-03.png"), "png") == 1


@pytest.mark.parametrize("bomb", [crafted.gif(2, 2, pages=600), crafted.webp(2, 2, pages=600)])
def test_too_many_are_refused_before_the_decoder_sees_them(bomb: bytes) -> None:
    failure = studio.refused_or_known(bomb)
    assert getattr(failure, "detail", "") == "the source has more than 500 pages"
