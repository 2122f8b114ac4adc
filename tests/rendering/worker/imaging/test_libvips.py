"""Only loaders on the allow-list are enabled; a failure has the kind that names its cause."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms

from proxy.domain.errors import ConfigurationError
from proxy.domain.formats import Format
from proxy.domain.variant import Geometry, QualitySearch
from proxy.domain.worker_protocol import JobFailure, RenderResult, RenditionSet
from proxy.rendering.worker.imaging import libvips
from proxy.rendering.worker.imaging.libvips import configure, hello, lock_loaders
from tests.rendering.worker.imaging import studio
from tests.support.memory_files import memory_file
from tests.support.photos import case, photo


@pytest.fixture
def _restored() -> Iterator[None]:
    yield
    lock_loaders(studio.LIMITS.source_types)


@pytest.mark.usefixtures("_restored")
def test_only_the_loaders_asked_for_are_open() -> None:
    lock_loaders(("jpeg", "png"))
    assert {name.partition("load")[0] for name in libvips.open_loaders()} == {
        "jpeg",
        "png",
    }
    assert hello().source_types == ("jpeg", "png")


@pytest.mark.usefixtures("_restored")
def test_a_locked_type_is_unsupported_even_if_a_job_allows_it() -> None:
    lock_loaders(("png",))
    failure = studio.refused_or_known(studio.saved(Image.new("RGB", (8, 8)), "JPEG"))
    assert failure == JobFailure("unsupported", "jpeg is not accepted")


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("source_type", ["jpeg", "gif", "webp"])
@pytest.mark.parametrize("search", [None, QualitySearch(75, 50, 90)])
@pytest.mark.parametrize("fmt", Format)
def test_every_format_is_made_if_only_one_type_of_source_is_accepted(
    fmt: Format, search: QualitySearch | None, source_type: str
) -> None:
    lock_loaders((source_type,))
    graphic = Image.new("RGB", (64, 64), "teal")
    graphic.paste("white", (0, 0, 32, 16))
    source = studio.saved(graphic, source_type.upper())
    assert studio.rendered(source, fmt, search=search)


def test_the_dangerous_loaders_are_closed() -> None:
    families = {name.partition("load")[0] for name in libvips.open_loaders()}
    assert not families & {"uhdr", "csv", "matrix", "raw", "vips"}


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("name", ["icon.svg", "gain-map.jpg"])
def test_libvips_itself_refuses_a_closed_loader(name: str) -> None:
    lock_loaders(("jpeg", "png"))
    family = {"icon.svg": "svgload_buffer", "gain-map.jpg": "uhdrload_buffer"}[name]
    with pytest.raises(pyvips.Error, match="blocked"):
        pyvips.Operation.call(family, photo(name).read_bytes())


@pytest.mark.usefixtures("_restored")
def test_a_loader_that_remains_enabled_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # csvload has no family of its own here: as if libvips had not blocked it.
    monkeypatch.setattr(libvips, "open_loaders", lambda: ("csvload", "pngload"))
    with pytest.raises(ConfigurationError, match="csvload"):
        lock_loaders(("png",))


def test_the_capabilities_name_the_types_that_decode() -> None:
    said = hello()
    assert said.libvips == ".".join(str(pyvips.version(part)) for part in range(3))
    assert set(said.source_types) >= {"jpeg", "png", "webp", "avif", "gif", "tiff"}
    # These are decoded in other workers.
    assert set(said.source_types) >= {"bmp", "ico", "jp2"}
    assert ("jxl" in said.source_types) == bool(find_spec("pyjpegxl"))


def test_heic_is_unsupported_where_the_codec_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvips, "pi_heif", None)
    libvips.loadable_types.cache_clear()
    answer = studio.refused_or_known(libvips._HEIC_SAMPLE)
    missing = "heic" not in hello().source_types
    libvips.loadable_types.cache_clear()
    # A libvips of the system may have it.
    if missing:
        assert answer == JobFailure("unsupported", "heic is not accepted")


# Sizes of the page, and one that is larger than most.
HEIC_SIZES = (80, 300, 1200, 4032)


@pytest.mark.slow
@pytest.mark.parametrize("side", HEIC_SIZES)
def test_the_heic_of_a_telephone_is_upright_and_right_in_every_size(side: int) -> None:
    """12 megapixels in 48 tiles, turned by ``irot``, in Display P3."""
    pi_heif = pytest.importorskip("pi_heif")
    source = case("IMG_0001.HEIC")
    known = studio.looked_at(source)
    assert (known.source_type, known.width, known.height) == ("heic", 3024, 4032)
    ours = studio.pixels(studio.rendered(source, studio.LOSSLESS, box=studio.contain(side, side)))
    assert ours.shape[:2] == (side, side * 3 // 4)
    plain = pi_heif.open_heif(source.read_bytes()).to_pillow()
    profile = ImageCms.ImageCmsProfile(io.BytesIO(plain.info["icc_profile"]))
    small = plain.convert("RGB").resize(ours.shape[1::-1], Image.Resampling.LANCZOS)
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    srgb = ImageCms.profileToProfile(small, profile, ImageCms.createProfile("sRGB"), intent)
    assert srgb is not None
    assert studio.difference(ours, studio.pixels(srgb)) < 1


def coded_heic(primaries: int, curve: int, flags: int = 0x80) -> bytes:
    """The sample, which is grey 128, with other code points."""
    at = libvips._HEIC_SAMPLE.index(b"colrnclx") + 8
    coded = struct.pack(">HHHB", primaries, curve, 6, flags)
    return libvips._HEIC_SAMPLE[:at] + coded + libvips._HEIC_SAMPLE[at + 7 :]


@pytest.mark.parametrize(
    ("source", "change"),
    [
        (coded_heic(12, 13), lambda level: level),
        (coded_heic(1, 8), lambda level: 255 * (1.055 * (level / 255) ** (1 / 2.4) - 0.055)),
        (coded_heic(1, 13, flags=0), lambda level: (level - 16) * 255 / 219),
    ],
)
def test_the_code_points_of_a_heic_count(source: bytes, change: Callable[[float], float]) -> None:
    pytest.importorskip("pi_heif")
    (level,) = set(studio.pixels(studio.rendered(libvips._HEIC_SAMPLE)).flat)
    assert np.abs(studio.pixels(studio.rendered(source)) - change(float(level))).max() <= 1


@pytest.mark.parametrize("length", [400, 420, 430])
def test_a_heic_that_ends_early_is_undecodable(length: int) -> None:
    pytest.importorskip("pi_heif")
    answer = studio.refused_or_known(libvips._HEIC_SAMPLE[:length], strict=True)
    assert isinstance(answer, JobFailure)
    assert (answer.kind, answer.traceback) == ("undecodable", "")


def test_a_type_that_the_settings_exclude_is_unsupported() -> None:
    limits = replace(studio.LIMITS, source_types=("png",))
    source = studio.saved(Image.new("RGB", (8, 8)), "BMP")
    answer = studio.refused_or_known(source, limits=limits)
    assert answer == JobFailure("unsupported", "bmp is not accepted")


def test_a_worker_keeps_no_cache_and_one_thread() -> None:
    configure()
    assert pyvips.cache_get_max() == 0
    assert pyvips.concurrency_get() == 1


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
        (b"<SVG/>", "unsupported"),
        (b"<svg><g></svg>", "undecodable"),
        (b"%PDF-1.7\n", "unsupported"),
        (b"BM" + bytes(60), "undecodable"),
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
    with memory_file(source) as opened, memory_file(b"") as target:
        assert kind_of(studio.render(small_job(), opened, target)) == kind


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
    with memory_file(b"") as target:
        assert kind_of(studio.render(small_job(), writable_only, target)) == "unreadable"
    assert kind_of(studio.probed(writable_only)) == "unreadable"
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
    with memory_file(source) as opened:
        assert kind_of(studio.render(job, opened, writer)) == "fault"
    os.close(writer)


def test_a_target_that_is_not_open_is_a_fault() -> None:
    with memory_file(studio.saved(Image.new("RGB", (8, 8)))) as opened:
        assert kind_of(studio.render(small_job(), opened, 9999)) == "fault"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TypeError("length"), "undecodable"),
        (ZeroDivisionError(), "undecodable"),
        (RecursionError(), "undecodable"),
        (MemoryError(), "too_large"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_an_exception_is_a_fault_of_the_image_and_has_its_traceback(
    error: Exception, kind: str
) -> None:
    def work() -> None:
        raise error

    failure = libvips.answered(work)
    assert kind_of(failure) == kind
    assert isinstance(failure, JobFailure)
    assert ("in work" in failure.traceback) == (kind == "undecodable")
    # The text of an exception may contain anything.
    assert "length" not in failure.detail
