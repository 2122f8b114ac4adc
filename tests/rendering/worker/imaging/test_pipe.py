"""Pipes: bytes flow as they are encoded, and the end is seen when the worker closes its end."""

from __future__ import annotations

import os
import select
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from proxy.domain.formats import EncoderProfile, Format
from proxy.domain.geometry import Geometry
from proxy.domain.worker_protocol import RenderResult
from tests.rendering.worker.imaging import studio
from tests.support.photos import photo


def open_descriptors() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def ends(reader: int) -> bool:
    """Whether a pipe gives its end now; what is in it is read and dropped."""
    while select.select([reader], [], [], 0)[0]:
        if not os.read(reader, 1 << 20):
            return True
    return False


@pytest.mark.parametrize("fmt", list(Format))
@pytest.mark.parametrize(
    "source", [studio.saved(Image.new("RGB", (50, 50), "navy")), b"\xff\xd8\xff"]
)
def test_the_reader_sees_the_end_once_the_caller_closes_its_own(source: bytes, fmt: Format) -> None:
    job = studio.job_of(Geometry(20, 20, 20, 20), studio.PROFILES[fmt], notice="me")
    reader, writer = os.pipe()
    with studio.descriptor(source) as opened:
        before = open_descriptors()
        studio.render(job, opened, writer)
        assert open_descriptors() == before
    os.close(writer)
    assert ends(reader)
    os.close(reader)


def first_and_last_byte(profile: EncoderProfile) -> tuple[float, float]:
    """Seconds until a reader has the first byte of a large picture, and until it has all."""
    plan = studio.geometry(photo("photo-6mp.jpg"), studio.contain(2400, 2400))
    reader, writer = os.pipe()
    arrivals: list[float] = []

    def read() -> None:
        while os.read(reader, 1 << 16):
            arrivals.append(time.perf_counter())

    thread = threading.Thread(target=read)
    thread.start()
    start = time.perf_counter()
    with studio.descriptor(photo("photo-6mp.jpg")) as source:
        assert isinstance(studio.render(studio.job_of(plan, profile), source, writer), RenderResult)
    os.close(writer)
    thread.join()
    os.close(reader)
    return arrivals[0] - start, arrivals[-1] - start


def test_a_baseline_jpeg_leaves_the_encoder_while_the_source_is_still_decoded() -> None:
    first, last = min(first_and_last_byte(studio.STREAMED_JPEG) for _ in range(3))
    assert first < last * 0.6
