"""Each failure is returned with the kind that names its cause."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from proxy.domain.formats import Format
from proxy.domain.variant import Geometry
from proxy.domain.worker_protocol import JobFailure, ProbeJob, RenderResult, RenditionSet
from proxy.rendering.worker.imaging.probe import probe
from tests.rendering.worker.imaging import studio
from tests.support.photos import photo

SMALL = Geometry(10, 10, 10, 10)


def kind_of(answer: object) -> str:
    """The kind of a failure."""
    assert isinstance(answer, JobFailure), answer
    return answer.kind


def small_job(fmt: Format = Format.JPEG) -> RenditionSet:
    """Any order."""
    return studio.job_of(SMALL, studio.PROFILES[fmt])


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (b"", "unsupported"),
        (b"no picture at all", "unsupported"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "unsupported"),
        (b"%PDF-1.7\n", "unsupported"),
        (b"BM" + bytes(60), "unsupported"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "undecodable"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "undecodable"),
        (b"GIF89a" + bytes(40), "undecodable"),
        (b"RIFF\x20\0\0\0WEBPVP8 " + bytes(40), "undecodable"),
        (b"II*\0" + bytes(40), "undecodable"),
        (b"\0\0\0\x14ftypavif\0\0\0\0avif" + bytes(40), "undecodable"),
    ],
)
def test_what_is_not_an_image_is_distinguished_from_a_broken_one(source: bytes, kind: str) -> None:
    assert kind_of(studio.refused_or_known(source)) == kind
    with studio.descriptor(source) as opened, studio.descriptor(b"") as target:
        assert kind_of(studio.render(small_job(), opened, target)) == kind


def test_an_svg_is_unsupported() -> None:
    assert kind_of(studio.refused_or_known(photo("icon.svg"))) == "unsupported"


def test_a_corrupt_header_is_undecodable() -> None:
    assert kind_of(studio.refused_or_known(photo("corrupt-header.jpg"))) == "undecodable"


@pytest.mark.parametrize("fmt", list(Format))
def test_the_readable_part_of_a_truncated_image_is_rendered(fmt: Format) -> None:
    result, encoded = studio.attempt(photo("truncated.jpg"), fmt, box=studio.contain(300, 300))
    assert isinstance(result, RenderResult)
    whole = studio.pixels(studio.rendered(photo("photo-6mp.jpg"), box=studio.contain(300, 300)))
    assert studio.difference(studio.pixels(encoded)[:3], whole[:3]) < 12


def test_a_strict_probe_rejects_a_truncated_image() -> None:
    assert kind_of(studio.refused_or_known(photo("truncated.jpg"), strict=True)) == "undecodable"


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF"])
def test_a_strict_probe_finds_damage_in_every_type(fmt: str) -> None:
    noise = Image.effect_noise((200, 200), 80).convert("RGB")
    source = studio.saved(noise, fmt)
    assert studio.looked_at(source, strict=True).width == 200
    damaged = source[: len(source) * 2 // 3]
    assert kind_of(studio.refused_or_known(damaged, strict=True)) == "undecodable"


def test_a_source_that_cannot_be_read_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "closed.png"
    path.write_bytes(studio.saved(Image.new("RGB", (8, 8))))
    writable_only = os.open(path, os.O_WRONLY)
    with studio.descriptor(b"") as target:
        assert kind_of(studio.render(small_job(), writable_only, target)) == "unreadable"
    assert kind_of(probe(ProbeJob(studio.LIMITS), writable_only)) == "unreadable"
    os.close(writable_only)


@pytest.mark.parametrize("notice", [None, "Example"])
@pytest.mark.parametrize("fmt", list(Format))
def test_a_closed_pipe_is_a_fault_and_not_blamed_on_the_source(
    fmt: Format, notice: str | None
) -> None:
    source = studio.saved(Image.effect_noise((300, 300), 90).convert("RGB"))
    plan = Geometry(300, 300, 300, 300)
    job = studio.job_of(plan, studio.PROFILES[fmt], notice=notice)
    reader, writer = os.pipe()
    os.close(reader)
    with studio.descriptor(source) as opened:
        assert kind_of(studio.render(job, opened, writer)) == "fault"
    os.close(writer)


def test_a_target_that_is_not_open_is_a_fault() -> None:
    with studio.descriptor(studio.saved(Image.new("RGB", (8, 8)))) as opened:
        assert kind_of(studio.render(small_job(), opened, 9999)) == "fault"
