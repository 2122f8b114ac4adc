"""Graphics: which images count as such, and how their drafts and finals are encoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from proxy.domain.formats import Format, sniff
from proxy.domain.variant import EncoderProfile, QualitySearch
from proxy.domain.worker_protocol import RenderResult
from proxy.rendering.worker.imaging import encode, graphics
from proxy.rendering.worker.imaging.load import open_source, shrunk
from proxy.rendering.worker.imaging.ssimulacra2 import Reference
from proxy.settings import EncoderSettings
from tests.rendering.worker.imaging import studio
from tests.support.drawing import draw_badge, draw_logo
from tests.support.memory_files import memory_file
from tests.support.photos import case, photo


def written(words: str, ink: str, ground: Image.Image) -> Image.Image:
    """Lines of thin letters on a ground."""
    letters = ImageDraw.Draw(ground)
    for line in range(4, ground.height - 12, 14):
        letters.text((6, line), words * 12, fill=ink)
    return ground


def screenshot() -> Image.Image:
    """Coloured text on a flat ground beside a photograph."""
    page = written("def name(self): ", "#d01040", Image.new("RGB", (900, 600), "#102080"))
    with Image.open(photo("kodak-23.png")) as picture:
        page.paste(picture.resize((300, 200)), (580, 380))
    return page


def red_on_blue() -> Image.Image:
    with Image.open(case("B03-red-on-blue.png")) as picture:
        return picture.convert("RGB")


GRAPHICS: dict[str, Callable[[], Image.Image]] = {
    "red on blue": red_on_blue,
    "green on magenta": lambda: written(
        "Text ", "#00a040", Image.new("RGB", (700, 300), "#c000c0")
    ),
    "red on a gradient of blue": lambda: written(
        "Text ", "#e01010", ImageOps.colorize(Image.linear_gradient("L"), "#000030", "#2040ff")
    ),
    "a screenshot with a photograph": screenshot,
    "red on a transparent ground": lambda: written(
        "Text ", "#e01010", Image.new("RGBA", (500, 200), (20, 40, 200, 128))
    ),
}
LOSSY = [Format.JPEG, Format.WEBP, Format.AVIF]


def chroma(pixels: studio.Pixels) -> studio.Floats:
    """How much red and blue differ from green."""
    levels = pixels.astype(float)
    return np.stack([levels[..., 0] - levels[..., 1], levels[..., 2] - levels[..., 1]], axis=-1)


# In small the letters of the screenshot melt into its ground.
DRAFTS = [(name, width) for name in GRAPHICS for width in (300, 420, 900)]
DRAFTS.remove(("a screenshot with a photograph", 300))
DRAFTS.remove(("a screenshot with a photograph", 420))


@pytest.mark.parametrize("fmt", LOSSY)
@pytest.mark.parametrize(("name", "width"), DRAFTS)
def test_a_draft_of_a_graphic_keeps_its_chroma(name: str, fmt: Format, width: int) -> None:
    """Chroma shared by two by two pixels loses a third to a half of its contrast."""
    source, box = studio.saved(GRAPHICS[name]()), studio.contain(width, width)
    mode = "RGB" if fmt is Format.JPEG else "RGBA"
    expected = studio.pixels(studio.rendered(source, box=box), "RGBA")
    ours = studio.pixels(studio.rendered(source, fmt, box=box), mode)
    if mode == "RGB":
        expected = studio.on_white(expected)
    kept, whole = chroma(ours[..., :3]), chroma(expected[..., :3])
    assert kept.std() > 0.9 * whole.std()
    assert np.abs(kept - whole).mean() < 0.25 * whole.std()


@pytest.mark.parametrize("fmt", LOSSY)
def test_a_draft_of_a_photograph_is_encoded_as_the_profile_says(fmt: Format) -> None:
    with memory_file(photo("kodak-23.png")) as source:
        page = shrunk(open_source(source, studio.LIMITS), (300, 200)).copy_memory()
    profile = studio.PROFILES[fmt]
    plain = encode.to_bytes(page, profile, copyright_notice=None)
    assert not graphics.applies(page, profile)
    again = studio.saved(Image.fromarray(studio.pixels(page.pngsave_buffer())))
    assert studio.rendered(again, profile) == plain


@pytest.mark.slow
@pytest.mark.parametrize("fmt", LOSSY)
@pytest.mark.parametrize("name", ["red on blue", "green on magenta"])
def test_a_final_of_a_graphic_keeps_its_chroma_and_is_no_larger_for_it(
    name: str, fmt: Format
) -> None:
    """With shared chroma the WebP of green on magenta scored 26 at the highest quality."""
    source, box = studio.saved(GRAPHICS[name]()), studio.contain(300, 300)
    stage = EncoderSettings().stages()[fmt].final
    result, encoded = studio.attempt(source, stage.profile, box=box, search=stage.search)
    assert isinstance(result, RenderResult)
    assert not result.target_missed
    kept = chroma(studio.pixels(encoded))
    whole = chroma(studio.pixels(studio.rendered(source, box=box)))
    assert kept.std() > 0.92 * whole.std()
    assert len(encoded) < {Format.JPEG: 40_000, Format.WEBP: 8_000, Format.AVIF: 32_000}[fmt]


def loaded(name: str, width: int, height: int) -> pyvips.Image:
    with memory_file(photo(name)) as source:
        return shrunk(open_source(source, studio.LIMITS), (width, height)).copy_memory()


def as_image(picture: Image.Image) -> pyvips.Image:
    return pyvips.Image.new_from_buffer(studio.saved(picture), "").copy_memory()


def icon() -> Image.Image:
    drawn = Image.new("RGB", (192, 192), "#2563eb")
    pen = ImageDraw.Draw(drawn)
    pen.ellipse((36, 36, 156, 156), fill="#ffffff")
    pen.polygon([(80, 66), (80, 126), (132, 96)], fill="#dc2626")
    return drawn


def poster() -> Image.Image:
    """Letters and hills on a gradient."""
    sky = ImageOps.colorize(Image.linear_gradient("L").resize((600, 400)), "#ff7e5f", "#feb47b")
    pen = ImageDraw.Draw(sky)
    pen.polygon([(0, 400), (0, 280), (250, 220), (600, 320), (600, 400)], fill="#3d3575")
    pen.text((60, 60), "SUMMER", fill="#ffffff", font_size=72)
    return sky


def street_map() -> Image.Image:
    """Roads with edges in colours that are mixed by a reduction."""
    page = Image.new("RGB", (1400, 1000), "#f2efe9")
    pen = ImageDraw.Draw(page)
    for at in range(24):
        ends = (at * 173 % 1400, 0, at * 311 % 1400, 1000)
        ground = ("#c8facc", "#add19e", "#f1dada", "#aad3df")[at % 4]
        pen.rectangle((at * 61, at * 151 % 1000, at * 61 + 90, at * 151 % 1000 + 120), fill=ground)
        pen.line(ends, fill="#999999", width=16)
        pen.line(ends, fill=("#f6cf65", "#ffffff")[at % 2], width=12)
    return page.resize((700, 500), Image.Resampling.LANCZOS)


def icon_with_a_shadow() -> Image.Image:
    """Return a rounded square with a soft shadow; the background is transparent."""
    drawn = Image.new("RGBA", (500, 500), (0, 0, 0, 0))
    ImageDraw.Draw(drawn).rounded_rectangle((60, 70, 440, 450), 80, fill=(0, 0, 0, 130))
    drawn = drawn.filter(ImageFilter.GaussianBlur(16))
    tones = ImageOps.colorize(Image.linear_gradient("L").resize((380, 380)), "#7f5bff", "#2b1b8f")
    mask = Image.new("L", (380, 380), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 379, 379), 80, fill=255)
    drawn.paste(tones, (60, 50), mask)
    ImageDraw.Draw(drawn).polygon([(150, 330), (250, 150), (350, 330)], fill="#ffffff")
    return drawn


def captioned() -> Image.Image:
    """Return a photograph on white, with large letters above and below it."""
    page = Image.new("RGB", (900, 900), "#ffffff")
    with Image.open(photo("kodak-03.png")) as picture:
        page.paste(picture.resize((750, 500)), (75, 200))
    pen = ImageDraw.Draw(page)
    for line in (30, 110, 730, 810):
        pen.text((75, line), "ALL WHO ASKED FOR HATS", fill="#000000", font_size=40)
    return page


def page_of_text() -> Image.Image:
    return written("all who had asked ", "#1f2933", Image.new("RGB", (700, 500), "#f5f6f8"))


DRAWN: dict[str, Callable[[], Image.Image]] = {
    **GRAPHICS,
    "an icon": icon,
    "a poster": poster,
    "a page of text": page_of_text,
    "a grey page": lambda: page_of_text().convert("L"),
    "a logo": lambda: draw_logo().resize((450, 350)),
    "a badge": lambda: draw_badge().resize((400, 500)),
    "a street map": street_map,
    "an icon with a shadow": icon_with_a_shadow,
    "a photograph with a caption": captioned,
}


@pytest.mark.parametrize("name", DRAWN)
def test_drawings_are_graphics_also_with_a_photograph_inside(name: str) -> None:
    assert graphics.is_graphic(as_image(DRAWN[name]()))


@pytest.mark.parametrize("name", ["flag.png", "drawing-alpha.png", "alpha-2048.png"])
def test_bundled_drawings_are_graphics(name: str) -> None:
    assert graphics.is_graphic(loaded(name, 900, 600))


TONES = {
    "fog": ("#b0b4b8", "#d0d4d8"),
    "sepia": ("#1c1208", "#f4e8d0"),
    "dusk": ("#101828", "#405878"),
}


@pytest.mark.parametrize("tone", TONES)
@pytest.mark.parametrize("name", ["kodak-03.png", "kodak-20.png", "kodak-23.png"])
def test_a_photograph_of_few_colours_is_no_graphic(name: str, tone: str) -> None:
    """Colours in steps of 16 levels were counted once, and it had fewer than 128."""
    with Image.open(photo(name)) as picture:
        toned = ImageOps.colorize(picture.convert("L"), *TONES[tone])
    assert not graphics.is_graphic(as_image(toned))


PHOTOGRAPHS = ("low-contrast.jpg", "flowers.jpg", "photo-6mp.jpg", "photo.avif", "photo.webp")
KODAK = ("kodak-03.png", "kodak-05.png", "kodak-13.png", "kodak-15.png", "kodak-20.png")


@pytest.mark.parametrize("width", [160, 300, 640])
@pytest.mark.parametrize("name", [*PHOTOGRAPHS, *KODAK])
def test_photographs_are_no_graphics_in_any_size(name: str, width: int) -> None:
    """In small, red blossom has as many edges as coloured letters."""
    assert not graphics.is_graphic(loaded(name, width, width * 2 // 3))


def test_an_image_as_narrow_as_a_pixel_is_a_graphic() -> None:
    assert graphics.is_graphic(pyvips.Image.black(1, 1, bands=3))
    assert graphics.is_graphic(pyvips.Image.black(1, 64))


def test_gradients_are_found_where_bands_would_be_visible() -> None:
    """The sun of a poster had rings at a score of 88."""
    assert graphics.has_gradients(as_image(poster()))
    assert graphics.has_gradients(as_image(icon_with_a_shadow()))
    for flat in (page_of_text, street_map, icon, red_on_blue):
        assert not graphics.has_gradients(as_image(flat()))
    assert not graphics.has_gradients(pyvips.Image.black(1, 64))


def test_thin_coloured_lines_need_their_chroma_and_coloured_areas_do_not() -> None:
    assert graphics.has_coloured_detail(as_image(red_on_blue()))
    assert not graphics.has_coloured_detail(as_image(poster()))
    assert not graphics.has_coloured_detail(as_image(page_of_text()))
    assert not graphics.has_coloured_detail(as_image(page_of_text().convert("L")))


PLAIN = {
    Format.JPEG: EncoderProfile(Format.JPEG, (("Q", 80), ("optimize_coding", True))),
    Format.WEBP: EncoderProfile(Format.WEBP, (("Q", 79), ("effort", 4))),
    Format.AVIF: EncoderProfile(Format.AVIF, (("Q", 63), ("effort", 1))),
}
"""libvips at the settings of imgproxy."""


@cache
def scored(name: str, fmt: Format) -> tuple[dict[str, int], dict[str, float]]:
    """Bytes and scores of the draft, of the final, and of plain libvips, in small."""
    picture = FINALS[name]()
    if fmt is Format.JPEG and picture.mode == "RGBA":
        picture = Image.fromarray(studio.on_white(np.asarray(picture)))
    source, box = studio.saved(picture), studio.contain(700, 700)
    exact = pyvips.Image.new_from_buffer(studio.rendered(source, box=box), "").copy_memory()
    stages, reference = EncoderSettings().stages()[fmt], Reference(exact)
    encoded = {
        "plain": encode.to_bytes(exact, PLAIN[fmt], copyright_notice=None),
        "draft": studio.rendered(source, stages.draft.profile, box=box),
        "final": studio.rendered(source, stages.final.profile, box=box, search=stages.final.search),
    }
    assert {sniff(one[:32]) for one in encoded.values()} == {fmt}
    scores = {
        stage: reference.compare(pyvips.Image.new_from_buffer(one, "")).score
        for stage, one in encoded.items()
    }
    return {stage: len(one) for stage, one in encoded.items()}, scores


def dark_editor() -> Image.Image:
    """Thin letters that a plain JPEG blurs, but not beyond legibility."""
    page = written("def name(self): ", "#9cdcfe", Image.new("RGB", (420, 300), "#1e1e1e"))
    return written("                return ", "#c586c0", page)


FINALS = {**DRAWN, "a dark editor": dark_editor, "red on blue": red_on_blue}


@pytest.mark.slow
@pytest.mark.parametrize("fmt", LOSSY)
@pytest.mark.parametrize(
    "name", ["an icon", "a poster", "a page of text", "a logo", "a badge", "a dark editor"]
)
def test_a_final_of_a_graphic_is_no_larger_than_plain_encodings_and_scores_no_less(
    name: str, fmt: Format
) -> None:
    """It was up to 1.8 times as large as JPEG, and twice the lossless WebP."""
    sizes, scores = scored(name, fmt)
    assert scores["plain"] > 50
    assert scores["final"] >= scores["plain"]
    assert sizes["final"] <= min(sizes["plain"], sizes["draft"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["an icon", "a page of text", "a badge"])
def test_a_webp_of_a_graphic_is_much_smaller_than_a_plain_one(name: str) -> None:
    sizes, scores = scored(name, Format.WEBP)
    assert sizes["final"] <= 0.75 * sizes["plain"]
    # Fewer levels and colours must not be noticed.
    assert scores["final"] >= 85


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("a street map", 0.8), ("an icon with a shadow", 0.6)])
def test_a_webp_has_no_more_colours_than_are_noticed_side_by_side(name: str, most: float) -> None:
    """With a limit of 90 and fewer steps of colours it was 0.98 and 0.79 of a plain one."""
    sizes, scores = scored(name, Format.WEBP)
    assert sizes["final"] <= most * sizes["plain"]
    assert scores["final"] >= 85


@pytest.mark.slow
def test_a_graphic_that_a_plain_encoding_makes_illegible_gets_the_bytes_it_needs() -> None:
    sizes, scores = scored("red on blue", Format.JPEG)
    target = EncoderSettings().target
    assert scores["plain"] < 50
    assert scores["draft"] < target <= scores["final"]
    assert sizes["plain"] < sizes["final"]


def test_a_final_as_jpeg_needs_fewer_bytes_for_the_same_pixels() -> None:
    """The scans of a progressive JPEG save 5 to 10 %."""
    stage = EncoderSettings().stages()[Format.JPEG].final
    source = studio.saved(dark_editor())
    plain = encode.to_bytes(as_image(dark_editor()), PLAIN[Format.JPEG], copyright_notice=None)
    # No quality reaches this target, and no bytes but those of the plain encoding may be spent.
    search = QualitySearch(99, 80, 80)
    result, encoded = studio.attempt(source, stage.profile, search=search)
    assert isinstance(result, RenderResult)
    assert result.target_missed
    assert len(encoded) < len(plain)
    assert studio.opened(encoded).info["progressive"]
    baseline = replace(stage.profile, options=(("Q", 80), ("interlace", False)))
    assert "progressive" not in studio.opened(studio.rendered(source, baseline, search=search)).info


@pytest.mark.parametrize("name", ["a poster", "a logo"])
def test_a_final_as_jpeg_has_the_pixels_of_the_plain_encoding_if_no_quality_is_better(
    name: str,
) -> None:
    """Less ringing at white may score less than an estimate of the score shows."""
    drawing = DRAWN[name]().convert("RGB")
    stage = EncoderSettings().stages()[Format.JPEG].final
    plain = encode.to_bytes(as_image(drawing), PLAIN[Format.JPEG], copyright_notice=None)
    # All these qualities need more bytes.
    search = QualitySearch(40, 98, 99)
    encoded = studio.rendered(studio.saved(drawing), stage.profile, search=search)
    assert len(encoded) < 0.97 * len(plain)
    assert np.array_equal(studio.pixels(encoded), studio.pixels(plain))


@pytest.mark.parametrize("name", ["an icon", "a page of text", "a logo"])
def test_a_draft_of_a_graphic_is_about_as_small_as_plain_encodings(name: str) -> None:
    """As AVIF it was twice as large: without effort its screen content tools are off."""
    source, box = studio.saved(DRAWN[name]()), studio.contain(700, 700)
    exact = pyvips.Image.new_from_buffer(studio.rendered(source, box=box), "").copy_memory()
    for fmt, most in ((Format.AVIF, 1.3), (Format.WEBP, 1.2)):
        plain = encode.to_bytes(exact, PLAIN[fmt], copyright_notice=None)
        draft = studio.rendered(source, EncoderSettings().profiles()[fmt], box=box)
        assert len(draft) <= most * len(plain)


def test_a_webp_of_a_graphic_is_lossless_where_that_is_smaller() -> None:
    source = studio.saved(page_of_text())
    stages = EncoderSettings().stages()[Format.WEBP]
    exact = studio.pixels(studio.rendered(source))
    for stage, levels in ((stages.draft, 0.5), (stages.final, 1.0)):
        result, encoded = studio.attempt(source, stage.profile, search=stage.search)
        assert isinstance(result, RenderResult)
        assert encoded[12:16] == b"VP8L"
        assert studio.difference(studio.pixels(encoded), exact) < levels


def test_a_draft_of_a_graphic_without_coloured_detail_shares_its_chroma() -> None:
    """Full chroma costs a JPEG a third of its bytes."""
    source = studio.saved(poster())
    with Image.open(photo("kodak-23.png")) as picture:
        shared = studio.saved(picture, "JPEG", subsampling="4:2:0")
    drawn = studio.opened(studio.rendered(source, Format.JPEG))
    assert drawn.layer == studio.opened(shared).layer  # type: ignore[attr-defined]
    detailed = studio.opened(studio.rendered(studio.saved(red_on_blue()), Format.JPEG))
    assert detailed.layer != drawn.layer  # type: ignore[attr-defined]


def test_a_lossless_profile_stays_as_it_is() -> None:
    profile = EncoderSettings().profiles()[Format.WEBP]
    lossless = replace(profile, options=(("lossless", True),))
    assert not graphics.applies(as_image(icon()), lossless)
    assert not graphics.applies(as_image(icon()), studio.LOSSLESS)
