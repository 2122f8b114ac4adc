"""The whole analysis: accepted sources, failures, and that it runs in a sandbox."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from proxy.domain.analysis import AnalysisResult, SourceGamut
from proxy.domain.worker_protocol import MAX_DATAGRAM, AnalyseJob, JobFailure, encode
from proxy.rendering.pool.pool import WorkerPool
from proxy.settings import LimitSettings, WorkerSettings
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.imaging.analysis.bench import analysed, attempted
from tests.support.photos import case, photo

REFUSED = {
    "corrupt-header.jpg": "undecodable",
    "giant.jpg": "too_large",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_rendered_cannot_be_analysed(name: str) -> None:
    found = attempted(photo(name))
    assert isinstance(found, JobFailure)
    assert found.kind == REFUSED[name]


@pytest.mark.parametrize(
    "name",
    ["animated.gif", "animated.webp", "grey16-alpha.png", "display-p3.png", "truncated.jpg"],
)
def test_images_of_all_sorts_are_analysed(name: str) -> None:
    found = analysed(photo(name))
    assert len(encode(found)) < MAX_DATAGRAM / 16
    assert set(found.stages) >= {"look", "detail", "colours", "sharpness", "phash", "focus"}


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 900), (900, 1), (7, 5), (17, 17)])
def test_an_image_of_few_pixels_is_analysed(width: int, height: int) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    found = analysed(Image.fromarray(noise))
    assert (found.width, found.height) == (width, height)
    assert 0 <= found.quality.score <= 100


def test_size_and_focus_are_those_of_the_upright_image() -> None:
    found, known = analysed(photo("exif-orientation-6.jpg")), photo("exif-orientation-6.jpg")
    facts = studio.looked_at(known)
    assert (found.width, found.height, found.focus) == (facts.width, facts.height, facts.focus)


async def test_a_worker_analyses() -> None:
    limits = LimitSettings().to_limits()
    pool = WorkerPool(
        WorkerSettings(count=1), source_types=limits.source_types, max_output_bytes=1024
    )
    source = os.open(photo("kodak-23.png"), os.O_RDONLY)
    try:
        async with pool:
            found = await pool.run(AnalyseJob(limits), source)
    finally:
        os.close(source)
    assert isinstance(found, AnalysisResult)
    assert (found.width, found.height, found.kind.name) == (768, 512, "photo")


SEALED = """
import os, sys
from proxy.rendering.worker.__main__ import run
from proxy.rendering.worker.imaging.libvips import configure, lock_loaders
from proxy.domain.worker_protocol import AnalyseJob
from proxy.settings import LimitSettings

limits = LimitSettings().to_limits()
configure()
lock_loaders(limits.source_types)
sources = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]
forbidden = ("open", "import", "os.fork", "os.posix_spawn", "os.putenv", "socket.")

def refuse(event, args):
    if event.startswith(forbidden):
        print(event, args)
        os._exit(1)

sys.addaudithook(refuse)
kinds = [run(AnalyseJob(limits), source, -1).kind.name for source in sources]
print(" ".join(kinds))
"""


def test_an_analysis_opens_and_imports_nothing_once_the_worker_is_up() -> None:
    """Not even the first one: a worker that is locked in can do it."""
    names = ("kodak-23.png", "photo-6mp.jpg", "cmyk.jpg", "animated.webp", "flag.png")
    done = subprocess.run(
        [sys.executable, "-c", SEALED, *(str(photo(name)) for name in names)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout.split() == ["photo", "photo", "photo", "logo", "graphic"], done


def gamut_of(source: studio.Source) -> SourceGamut:
    return analysed(source).gamut


@pytest.mark.parametrize(
    ("name", "srgb", "p3"),
    [
        # Half of these pixels are saturated; Display P3 has all that Display P3 can have.
        ("C29-cicp-p3.png", 0.3, 0.0),
        ("H08-cicp-p3.avif", 0.0, 0.0),
        ("C28-cicp-pq.png", 0.1, 0.0),
    ],
)
def test_the_share_of_clipped_pixels_is_known(name: str, srgb: float, p3: float) -> None:
    found = gamut_of(case(name))
    assert found.outside_srgb >= srgb
    assert found.outside_srgb >= found.outside_p3 >= p3


def test_a_profile_that_is_wider_than_the_colours_loses_nothing() -> None:
    with Image.open(photo("display-p3.png")) as wide:
        profile = wide.info["icc_profile"]
    grey = studio.saved(Image.new("RGB", (64, 64), (120, 120, 120)), icc_profile=profile)
    half = Image.new("RGB", (64, 64), (120, 120, 120))
    half.paste((0, 255, 0), (0, 0, 32, 64))
    assert gamut_of(grey) == SourceGamut()
    found = gamut_of(studio.saved(half, icc_profile=profile))
    assert found.outside_srgb == pytest.approx(0.5, abs=0.03)
    assert found.outside_p3 == 0
    coded = studio.saved(half, "PNG")
    content = b"cICP" + bytes((9, 13, 0, 1))
    chunk = struct.pack(">I", 4) + content + struct.pack(">I", zlib.crc32(content))
    coded = coded[:33] + chunk + coded[33:]
    found = gamut_of(coded)
    assert found.outside_srgb == pytest.approx(0.5, abs=0.03)
    assert found.outside_p3 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("name", ["kodak-23.png", "flowers.jpg", "grey16-alpha.png"])
def test_srgb_clips_nothing_of_srgb(name: str) -> None:
    assert gamut_of(photo(name)) == SourceGamut()


def test_a_gain_map_is_known() -> None:
    assert gamut_of(photo("gain-map.jpg")) == SourceGamut(gain_map=True)
