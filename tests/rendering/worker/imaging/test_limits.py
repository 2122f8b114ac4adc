"""Limits: what is too large is refused by its header, at once and without memory."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image

from proxy.domain.formats import Format
from proxy.domain.geometry import Geometry
from proxy.domain.worker_protocol import JobFailure, Limits, ProbeJob
from proxy.rendering.worker.imaging.error_translation import SourceRefused
from proxy.rendering.worker.imaging.load import Header, check_header
from proxy.rendering.worker.imaging.probe import probe
from tests.rendering.worker.imaging import crafted, studio
from tests.support.photos import photo

BOMBS = {
    "a PNG of 30,000 a side": crafted.png(30_000, 30_000),
    "a PNG as wide as can be": crafted.png(65_536, 1),
    "an interlaced PNG of 16 bits": crafted.png(16_000, 16_000, depth=16, colour=6, interlace=1),
    "a PNG within the pixels and over the bytes": crafted.png(9_900, 9_900, depth=16, colour=6),
    "a GIF with large pages": crafted.gif(8_000, 8_000, pages=40),
    "a GIF whose pages overflow 32 bits": crafted.gif(65_535, 65_535, pages=3),
    "a GIF with many pages": crafted.gif(2, 2, pages=2_000),
}
SMALL = Geometry(10, 10, 10, 10)


def resident_bytes() -> int:
    """What this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def peak_bytes() -> int:
    """The most that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_at_once_and_costs_no_memory(bomb: bytes) -> None:
    job = studio.job_of(SMALL, studio.PROFILES[Format.WEBP], animated=True)
    with studio.descriptor(bomb) as source, studio.descriptor(b"") as target:
        resident, peak, start = resident_bytes(), peak_bytes(), time.monotonic()
        answers = [
            probe(ProbeJob(studio.LIMITS, strict=True), source),
            studio.render(job, source, target),
        ]
        assert time.monotonic() - start < 1
        assert resident_bytes() - resident < 20_000_000
        assert peak_bytes() - max(peak, resident) < 20_000_000
    for answer in answers:
        assert isinstance(answer, JobFailure)
        assert answer.kind == "too_large"


def test_the_refusal_names_both_figures() -> None:
    failure = studio.refused_or_known(crafted.png(20_000, 10))
    assert failure == JobFailure(
        "too_large", "the source has 20,000 pixels on its longer side; 16,384 are allowed"
    )


def test_a_picture_longer_than_the_limit_is_refused() -> None:
    failure = studio.refused_or_known(photo("giant.jpg"))
    assert isinstance(failure, JobFailure)
    assert failure.kind == "too_large"


def test_a_large_picture_within_wider_limits_is_rendered() -> None:
    wide = replace(
        studio.LIMITS, max_side=20_000, max_pixels=300_000_000, max_raw_bytes=300_000_000
    )
    known = studio.looked_at(photo("giant.jpg"), limits=wide)
    assert (known.width, known.height) == (20_000, 14_000)


HEADER = Header("png", 100, 50, 4, 1, 10, rotated=False, alpha=True, foreign_colour=False)


def limited(name: str, value: int) -> Limits:
    """The limits with one of them changed."""
    return Limits(**{**asdict(studio.LIMITS), name: value})


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("max_side", 99),
        ("max_pixels", 4_999),
        ("max_bands", 3),
        ("max_raw_bytes", 19_999),
        ("max_pages", 9),
        ("max_animation_pixels", 49_999),
    ],
)
def test_each_limit_refuses_what_is_one_past_it(limit: str, value: int) -> None:
    check_header(HEADER, limited(limit, value + 1))
    with pytest.raises(SourceRefused, match="are allowed"):
        check_header(HEADER, limited(limit, value))


def test_a_type_that_is_not_on_the_list_is_unsupported() -> None:
    only_png = replace(studio.LIMITS, source_types=("png",))
    source = studio.saved(Image.new("RGB", (8, 8)), "JPEG")
    assert studio.refused_or_known(source, limits=only_png) == JobFailure(
        "unsupported", "jpeg is not accepted"
    )
