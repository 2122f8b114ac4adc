"""Limits of sources, their colours, and the frames of animations."""

from __future__ import annotations

import io
import os
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms

from proxy.domain.formats import Format
from proxy.domain.variant import Geometry, QualitySearch
from proxy.domain.worker_protocol import (
    AnalyseJob,
    JobFailure,
    Limits,
    ProbeJob,
    RenderOutput,
    RenderResult,
    RenditionSet,
    RenditionSetResult,
)
from proxy.rendering.worker.imaging import load, render
from proxy.rendering.worker.imaging.analysis.analyse import analyse
from proxy.rendering.worker.imaging.file_structure import count_frames
from proxy.rendering.worker.imaging.libvips import SourceRefused, answered
from proxy.rendering.worker.imaging.load import (
    Header,
    check_header,
    open_source,
    shrunk,
    to_srgb,
)
from proxy.rendering.worker.imaging.probe import probe
from tests.rendering.worker.imaging import crafted, heif_bombs, studio
from tests.rendering.worker.imaging.crafted import gif_of
from tests.support.memory_files import memory_file
from tests.support.photos import photo

BOMBS = {
    "a PNG of 30,000 a side": crafted.png(30_000, 30_000),
    "a PNG as wide as can be": crafted.png(65_536, 1),
    "an interlaced PNG of 16 bits": crafted.png(16_000, 16_000, depth=16, colour=6, interlace=1),
    "a PNG within the pixels and over the bytes": crafted.png(9_900, 9_900, depth=16, colour=6),
    "a GIF with large pages": crafted.gif(8_000, 8_000, pages=40),
    "a GIF whose pages overflow 32 bits": crafted.gif(65_535, 65_535, pages=3),
    "a GIF with many pages": crafted.gif(2, 2, pages=2_000),
    "an animated PNG with many pages": crafted.apng(2, 2, pages=2_000),
    "an animated PNG with large pages": crafted.apng(8_000, 8_000, pages=20),
    "an animated AVIF with many pages": heif_bombs.sequence(600),
    "an animated AVIF with large pages": heif_bombs.sequence(20, 8_000),
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
    with memory_file(bomb) as source, memory_file(b"") as target:
        resident, peak, start = resident_bytes(), peak_bytes(), time.process_time()
        answers = [
            studio.probed(source, strict=True),
            studio.render(job, source, target),
        ]
        assert time.process_time() - start < 1
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


def test_an_image_longer_than_the_limit_is_refused() -> None:
    failure = studio.refused_or_known(photo("giant.jpg"))
    assert isinstance(failure, JobFailure)
    assert failure.kind == "too_large"


def test_a_large_image_within_wider_limits_is_rendered() -> None:
    wide = replace(
        studio.LIMITS, max_side=20_000, max_pixels=300_000_000, max_raw_bytes=300_000_000
    )
    known = studio.looked_at(photo("giant.jpg"), limits=wide)
    assert (known.width, known.height) == (20_000, 14_000)


HEADER = Header("png", 100, 50, 4, 1, 10, rotated=False)


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


def as_srgb(path: Path) -> Image.Image:
    """The colours of a picture as LittleCMS converts them, relative colorimetric."""
    picture = Image.open(path)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
    opaque = picture if picture.mode == "CMYK" else picture.convert("RGB")
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(
        opaque, profile, srgb, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB"
    )
    assert converted is not None
    return converted


@pytest.mark.parametrize("name", ["display-p3.png", "prophoto.png"])
def test_a_wide_gamut_is_converted_to_srgb(name: str) -> None:
    ours = studio.pixels(studio.rendered(photo(name)))
    theirs = studio.pixels(as_srgb(photo(name)))
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 2


def test_cmyk_is_converted_by_its_own_profile() -> None:
    ours = studio.pixels(studio.rendered(photo("cmyk.jpg")))
    assert studio.difference(ours, studio.pixels(as_srgb(photo("cmyk.jpg")))) < 2


def test_cmyk_without_a_profile_still_comes_out_as_rgb() -> None:
    source = studio.saved(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG")
    red, green, blue = studio.pixels(studio.rendered(source))[10, 10]
    assert red > 180
    assert max(green, blue) < 90


@pytest.mark.parametrize("fmt", list(Format))
def test_no_profile_is_left_in_the_output(fmt: Format) -> None:
    assert "icc_profile" not in studio.opened(studio.rendered(photo("display-p3.png"), fmt)).info


def test_a_profile_that_is_garbage_is_ignored() -> None:
    source = studio.saved(Image.new("RGB", (8, 8), (10, 200, 30)), icc_profile=b"x" * 300)
    assert studio.pixels(studio.rendered(source))[4, 4].tolist() == [10, 200, 30]


def test_a_profile_of_another_kind_of_image_is_ignored() -> None:
    with Image.open(photo("prophoto.png")) as picture:
        profile = picture.info["icc_profile"]
    source = studio.saved(Image.new("L", (8, 8), 77), icc_profile=profile)
    assert studio.pixels(studio.rendered(source))[4, 4].tolist() == [77, 77, 77]


def test_sixteen_bits_become_eight() -> None:
    ramp = np.linspace(0, 65535, 256 * 4, dtype=np.uint16).reshape(4, 256)
    source = studio.saved(Image.fromarray(ramp))
    ours = studio.pixels(studio.rendered(source), "L")
    assert np.abs(ours.astype(int) - (ramp >> 8).astype(int)).max() <= 1


def test_sixteen_bit_grey_with_alpha_keeps_its_alpha() -> None:
    ours = studio.pixels(studio.rendered(photo("grey16-alpha.png")), "RGBA")
    theirs = studio.pixels(Image.open(photo("grey16-alpha.png")), "RGBA")
    assert studio.difference(ours[..., 3], theirs[..., 3]) < 1


def test_grey_stays_grey_in_a_jpeg() -> None:
    source = studio.saved(Image.new("L", (64, 64), 90))
    assert studio.opened(studio.rendered(source, Format.JPEG)).mode == "L"


@pytest.mark.parametrize("fmt", [Format.WEBP, Format.PNG])
def test_the_base_image_of_a_gain_map_is_rendered(fmt: Format) -> None:
    encoded = studio.rendered(photo("gain-map.jpg"), fmt, box=studio.contain(400, 400))
    assert b"hdrgm" not in encoded
    assert studio.opened(encoded).size == (400, 225)


def test_transparency_is_laid_on_white_in_a_jpeg() -> None:
    source = studio.saved(Image.new("RGBA", (32, 32), (255, 0, 0, 128)))
    colour = studio.pixels(studio.rendered(source, Format.JPEG))[16, 16].astype(int)
    assert np.abs(colour - [255, 127, 127]).max() <= 3


@pytest.mark.parametrize("fmt", [Format.PNG, Format.WEBP, Format.AVIF])
def test_transparency_is_kept_if_the_format_supports_it(fmt: Format) -> None:
    ours = studio.pixels(studio.rendered(photo("alpha-2048.png"), fmt), "RGBA")
    theirs = studio.pixels(Image.open(photo("alpha-2048.png")), "RGBA")
    assert studio.difference(ours[..., 3], theirs[..., 3]) < 1


def test_colours_do_not_bleed_out_of_transparent_pixels_when_shrunk() -> None:
    picture = Image.new("RGBA", (64, 64), (0, 255, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 30, 64))
    ours = studio.pixels(
        studio.rendered(studio.saved(picture), box=studio.contain(8, 8)), "RGBA"
    ).astype(int)
    visible = ours[ours[..., 3] > 8]
    assert (visible[:, 1] <= 2).all()


COLOURS = ((220, 20, 20), (20, 200, 40), (30, 40, 210), (240, 220, 30))


def coloured_frames(width: int, height: int, **options: object) -> bytes:
    """A GIF whose frames are each of one colour."""
    first, *rest = (Image.new("RGB", (width, height), colour) for colour in COLOURS)
    return studio.saved(first, "GIF", save_all=True, append_images=rest, **options)


def stills(colours: Iterable[tuple[int, int, int]]) -> list[bytes]:
    """A GIF of each colour."""
    return [studio.saved(Image.new("RGB", (40, 30), colour), "GIF") for colour in colours]


def durations(encoded: bytes) -> list[int]:
    """How long each frame is shown, in milliseconds."""
    picture = studio.opened(encoded)
    shown = []
    for frame in range(getattr(picture, "n_frames", 1)):
        picture.seek(frame)
        picture.load()
        shown.append(int(picture.info["duration"]))
    return shown


@pytest.mark.parametrize("fmt", [Format.WEBP, Format.GIF])
@pytest.mark.parametrize(("name", "count"), [("animated.gif", 9), ("animated.webp", 9)])
def test_frames_and_their_times_are_kept(name: str, count: int, fmt: Format) -> None:
    """Of the thirty frames of ``animated.gif`` nine differ from the one before."""
    source = photo(name)
    result, encoded = studio.attempt(source, fmt, box=studio.contain(40, 40), animated=True)
    assert isinstance(result, RenderResult)
    assert result.pages == count
    assert sum(durations(encoded)) == sum(durations(source.read_bytes()))


@pytest.mark.parametrize(("fmt", "loop"), [(Format.WEBP, 4), (Format.GIF, 3)])
def test_delays_and_loop_count_are_those_of_the_source(fmt: Format, loop: int) -> None:
    """A GIF counts the repetitions after the first showing, a WebP all of them."""
    source = coloured_frames(40, 30, duration=[50, 120, 200, 70], loop=3)
    encoded = studio.rendered(source, fmt, animated=True)
    assert durations(encoded) == [50, 120, 200, 70]
    assert studio.opened(encoded).info["loop"] == loop


@pytest.mark.parametrize("fmt", [Format.WEBP, Format.GIF])
def test_a_frame_that_comes_again_at_once_is_one_that_is_shown_longer(fmt: Format) -> None:
    red, green = stills(COLOURS[:2])
    source = gif_of([red, red, green, green, green, red], [50, 60, 70, 80, 90, 100])
    assert studio.looked_at(source).pages == 6
    result, encoded = studio.attempt(source, fmt, animated=True)
    assert isinstance(result, RenderResult)
    assert result.pages == 3
    assert durations(encoded) == [110, 240, 100]
    shown = [frame[15, 20].astype(int) for frame in studio.frames(encoded, "RGB")]
    for pixel, colour in zip(shown, (COLOURS[0], COLOURS[1], COLOURS[0]), strict=True):
        assert np.abs(pixel - colour).max() <= 8


@pytest.mark.parametrize("fmt", [Format.WEBP, Format.GIF])
@pytest.mark.parametrize("delay", [0, 10])
def test_delays_that_browsers_ignore_are_those_that_browsers_use(delay: int, fmt: Format) -> None:
    red, green = stills(COLOURS[:2])
    source = gif_of([red, red, red, green], [delay] * 3 + [20])
    assert durations(studio.rendered(source, fmt, animated=True)) == [300, 20]


def test_no_delay_exceeds_that_of_a_gif() -> None:
    red, green = stills(COLOURS[:2])
    source = gif_of([red, red, red, green], [300_000, 300_000, 300_000, 100])
    assert durations(studio.rendered(source, Format.GIF, animated=True)) == [600_000, 300_000, 100]


def test_a_gif_of_too_many_pixels_has_fewer_frames_and_the_same_duration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At least two frames remain."""
    monkeypatch.setattr(render, "_MAX_GIF_PIXELS", 120_000)
    source = coloured_frames(400, 200, duration=[50, 120, 200, 70], loop=0)
    encoded = studio.rendered(source, Format.GIF, animated=True)
    assert durations(encoded) == [170, 270]
    shown = [frame[100, 200].astype(int) for frame in studio.frames(encoded, "RGB")]
    assert all(
        np.abs(pixel - colour).max() <= 8 for pixel, colour in zip(shown, COLOURS[::2], strict=True)
    )
    small = studio.rendered(source, Format.GIF, box=studio.contain(40, 40), animated=True)
    assert durations(small) == [50, 120, 200, 70]


@pytest.mark.parametrize("fmt", [Format.WEBP, Format.GIF])
def test_frames_keep_their_colour_up_to_the_edge_when_shrunk_and_cropped(fmt: Format) -> None:
    source = coloured_frames(160, 90, duration=100, loop=0)
    encoded = studio.rendered(source, fmt, box=studio.cover(30, 30), animated=True)
    shown = studio.frames(encoded, "RGB")
    assert len(shown) == len(COLOURS)
    for frame, colour in zip(shown, COLOURS, strict=True):
        assert frame.shape == (30, 30, 3)
        assert np.abs(frame.astype(int) - colour).max() <= 8


def test_a_cover_crop_cuts_the_same_box_out_of_each_frame() -> None:
    first, second = Image.new("RGB", (120, 60), "white"), Image.new("RGB", (120, 60), "black")
    for frame, colour in ((first, "red"), (second, "blue")):
        frame.paste(colour, (60, 0, 120, 60))
    source = studio.saved(first, "GIF", save_all=True, append_images=[second], duration=100, loop=0)
    plan = Geometry(30, 30, 60, 30, left=20)
    encoded = studio.rendered(source, Format.GIF, plan=plan, animated=True)
    expected = (((255, 255, 255), (255, 0, 0)), ((0, 0, 0), (0, 0, 255)))
    for shown, (left, right) in zip(studio.frames(encoded, "RGB"), expected, strict=True):
        assert np.abs(shown[:, :8].astype(int) - left).max() <= 8
        assert np.abs(shown[:, 12:].astype(int) - right).max() <= 8


@pytest.mark.parametrize("fmt", list(Format))
def test_a_still_of_an_animation_is_its_first_frame(fmt: Format) -> None:
    source = coloured_frames(40, 30, duration=100, loop=0)
    result, encoded = studio.attempt(source, fmt)
    assert isinstance(result, RenderResult)
    assert result.pages == getattr(studio.opened(encoded), "n_frames", 1) == 1
    assert np.abs(studio.pixels(encoded)[15, 20].astype(int) - COLOURS[0]).max() <= 6


def test_an_animation_of_a_still_is_a_still() -> None:
    source = studio.saved(Image.new("RGB", (20, 20), "teal"))
    result, _ = studio.attempt(source, Format.WEBP, animated=True)
    assert isinstance(result, RenderResult)
    assert result.pages == 1


def test_pages_of_a_tiff_are_not_frames() -> None:
    pages = [Image.new("RGB", (20, 20), colour) for colour in COLOURS]
    source = studio.saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert studio.looked_at(source).pages == 1


def counted(source: studio.Source, source_type: str, *, most: int = 1_000) -> int:
    with memory_file(source) as opened:
        return count_frames(opened, source_type, most=most)


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
    with memory_file(source) as opened:
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


# What a TIFF can say about its samples: grey, colour, CMYK, Lab, and nothing.
INTERPRETATIONS = ("multiband", "b-w", "srgb", "rgb16", "cmyk", "lab", "scrgb", "xyz", "hsv")
NUMBER_TYPES = ("uchar", "char", "ushort", "short", "uint", "int", "float", "double", "complex")
MANY_BANDS = replace(studio.LIMITS, max_bands=8)
# 15 x 15: buffers whose length is not a multiple of the bytes of an RGBA pixel.
ODD = Geometry(15, 15, 15, 15)
SEARCH = QualitySearch(75.0, 30, 95, 1)


def banded(bands: int, number_type: str, interpretation: str) -> bytes:
    """A square on a ground as a TIFF; every band has its own levels."""
    ground, square = (
        pyvips.Image.black(side, side, bands=bands) + levels[:bands]
        for side, levels in ((15, [10, 200, 30, 255, 77, 3, 9]), (6, [200, 20, 130, 0, 17, 99, 90]))
    )
    image = ground.insert(square, 4, 5).cast(number_type).copy(interpretation=interpretation)
    encoded: bytes = image.tiffsave_buffer()
    return encoded


def jobs_of(*, search: QualitySearch | None) -> list[Callable[[int], object]]:
    """A strict probe, an analysis, and outputs of each kind."""
    outputs = (
        RenderOutput(ODD, studio.LOSSLESS),
        RenderOutput(ODD, studio.LOSSLESS, remove_background=True),
        RenderOutput(ODD, studio.STREAMED_JPEG, search=search),
    )
    return [
        partial(probe, ProbeJob(MANY_BANDS, strict=True)),
        partial(analyse, AnalyseJob(MANY_BANDS)),
        partial(rendered_set, RenditionSet(MANY_BANDS, outputs, framed=True)),
    ]


def failures_of(job: Callable[[int], object], source: int) -> list[JobFailure]:
    reply = answered(partial(job, source))
    parts = reply.results if isinstance(reply, RenditionSetResult) else (reply,)
    return [part for part in parts if isinstance(part, JobFailure)]


def decoded(source: int) -> object:
    """Fails if libvips cannot read the samples."""
    return load.whole(open_source(source, MANY_BANDS), fail_on="none").avg()


def rendered_set(job: RenditionSet, source: int) -> object:
    with memory_file(b"") as target:
        return render.render_set(job, source, target)


def check_bands(bands: int, number_type: str, interpretation: str, *, searched: bool) -> None:
    """Whatever can be opened is probed, analysed and rendered, and nothing raises."""
    try:
        content = banded(bands, number_type, interpretation)
    except pyvips.Error:
        return  # libvips writes no such TIFF
    with memory_file(content) as source:
        jobs = jobs_of(search=SEARCH if searched else None)
        failures = [one for job in jobs for one in failures_of(job, source)]
        assert not any(one.traceback for one in failures), (number_type, failures)
        assert not failures or failures_of(decoded, source), (number_type, failures)


@pytest.mark.parametrize("interpretation", ["b-w", "srgb"])
@pytest.mark.parametrize("bands", range(1, 8))
def test_bands_of_any_number_are_shown(bands: int, interpretation: str) -> None:
    check_bands(bands, "uchar", interpretation, searched=True)


@pytest.mark.slow
@pytest.mark.parametrize("interpretation", INTERPRETATIONS)
@pytest.mark.parametrize("bands", range(1, 8))
def test_bands_of_any_number_and_type_raise_nothing(bands: int, interpretation: str) -> None:
    for number_type in NUMBER_TYPES:
        check_bands(bands, number_type, interpretation, searched=False)


@pytest.mark.parametrize(("interpretation", "colours"), [("b-w", 1), ("srgb", 3), ("cmyk", 4)])
@pytest.mark.parametrize("extra", range(4))
def test_a_page_has_one_alpha_at_most(interpretation: str, colours: int, extra: int) -> None:
    with memory_file(banded(colours + extra, "uchar", interpretation)) as source:
        page = shrunk(open_source(source, MANY_BANDS), (15, 15))
        assert page.bands <= 4
        assert to_srgb(page).bands == 3 + min(extra, 1)


TRANSPARENT = Image.new("RGBA", (64, 64), (200, 30, 30, 100))
TRANSPARENT.paste((30, 200, 30, 255), (0, 0, 32, 32))
TRANSPARENT.paste((30, 30, 200, 50), (32, 32, 64, 64))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("span", ["full", "limited"])
@pytest.mark.parametrize("moves", [False, True])
def test_an_avif_whose_colours_are_multiplied_by_its_alpha_is_shown_as_meant(
    mode: str, span: str, *, moves: bool
) -> None:
    picture = TRANSPARENT.convert(mode)
    options = {"quality": 100, "range": span}
    options["subsampling"] = "4:0:0" if mode == "LA" else "4:4:4"
    if moves:
        turned = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        options |= {"save_all": True, "append_images": [turned], "duration": 100}
    source = studio.saved(picture, "AVIF", alpha_premultiplied=True, **options)
    assert b"prem" in source
    plain = studio.saved(picture, "AVIF", alpha_premultiplied=False, **options)
    known = studio.looked_at(source, strict=True)
    assert (known.has_alpha, known.pages) == (True, 1 + moves)
    found, wanted = (studio.pixels(studio.rendered(one), "RGBA") for one in (source, plain))
    # A twentieth of the light has few levels left.
    assert np.abs(found.astype(int) - wanted)[8::48, 8::48].max() <= 8
    assert np.abs(wanted.astype(int) - np.asarray(picture.convert("RGBA"))).max() <= 8


def test_a_truncated_avif_with_multiplied_colours_is_found() -> None:
    source = studio.saved(TRANSPARENT, "AVIF", quality=100, alpha_premultiplied=True)
    answer = studio.refused_or_known(source[:-40], strict=True)
    assert isinstance(answer, JobFailure)
    assert answer.kind == "undecodable"
