"""Gain maps, read back by libultrahdr (through libvips) and by Pillow."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageOps, MpoImagePlugin

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile, QualitySearch, SizeSpec
from proxy.domain.worker_protocol import RenderResult
from proxy.settings import EncoderSettings, Settings
from tests.rendering.worker.imaging import studio
from tests.support.photos import photo

STAGES = EncoderSettings().stages()[Format.JPEG]
DRAFT, FINAL = STAGES.draft.profile, STAGES.final.profile
NAMED = list(Settings().size_specs().values())
WIDTH, HEIGHT, SCALE = 400, 240, 4
# One value for all channels, and one for each.
SINGLE: dict[str, Any] = {
    "gainmap-max-content-boost": [4.0] * 3,
    "gainmap-min-content-boost": [0.5] * 3,
    "gainmap-gamma": [1.5] * 3,
    "gainmap-offset-sdr": [1 / 64] * 3,
    "gainmap-offset-hdr": [1 / 32] * 3,
    "gainmap-hdr-capacity-min": 1.25,
    "gainmap-hdr-capacity-max": 5.5,
}
MULTIPLE = SINGLE | {
    "gainmap-max-content-boost": [4.0, 5.0, 6.0],
    "gainmap-gamma": [1.0, 1.5, 2.0],
    "gainmap-offset-hdr": [0.0, 1 / 32, 1 / 64],
}


@contextmanager
def ultra_hdr() -> Iterator[None]:
    """libvips with the loader of libultrahdr, which a worker does not enable."""
    pyvips.operation_block_set("VipsForeignLoadUhdr", state=False)
    try:
        yield
    finally:
        pyvips.operation_block_set("VipsForeignLoadUhdr", state=True)


def shown(encoded: bytes) -> tuple[dict[str, Any], Any]:
    """The parameters of a file by libultrahdr, and the pixels of its map."""
    with ultra_hdr():
        image = pyvips.Image.uhdrload_buffer(encoded)
        values = {name: image.get(name) for name in SINGLE}
        found = pyvips.Image.jpegload_buffer(image.get("gainmap-data"))
        return values, np.asarray(found).reshape(found.height, found.width, found.bands)


def has_map(encoded: bytes) -> bool:
    return b"hdrgm" in encoded or b"21496" in encoded or studio.opened(encoded).format == "MPO"


def gains(width: int = WIDTH // SCALE, height: int = HEIGHT // SCALE, bands: int = 1) -> Any:
    """A map that is bright in its first quarter, at the top left."""
    levels = np.full((height, width, bands), 20, np.uint8)
    levels[: height // 2, : width // 2] = 220
    return levels


def base() -> Any:
    """A smooth image."""
    across, down = np.meshgrid(np.linspace(40, 220, WIDTH), np.linspace(30, 200, HEIGHT))
    return np.stack([across, down, (across + down) / 2], axis=-1).astype(np.uint8)


def source(
    levels: Any = None,
    *,
    picture: Any = None,
    orientation: int = 1,
    values: dict[str, Any] = SINGLE,
) -> bytes:
    """A JPEG of libultrahdr, with the parameters of ISO 21496-1 alone."""
    levels = gains() if levels is None else levels
    image = pyvips.Image.new_from_array(base() if picture is None else picture)
    image = image.copy(interpretation="srgb")
    encoded = pyvips.Image.new_from_array(levels).jpegsave_buffer(Q=95, subsample_mode="off")
    image.set_type(pyvips.GValue.blob_type, "gainmap-data", encoded)
    image.set_type(pyvips.GValue.gint_type, "gainmap-use-base-cg", 1)
    for name, value in values.items():
        kind = "array_double_type" if isinstance(value, list) else "gdouble_type"
        image.set_type(getattr(pyvips.GValue, kind), name, value)
    whole: bytes = image.uhdrsave_buffer(Q=95)
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = exif.tobytes()
    # In front: the offsets of the directory count from its own place.
    return whole[:2] + struct.pack(">HH", 0xFFE1, len(block) + 2) + block + whole[2:]


def pair(
    file: studio.Source, profile: EncoderProfile = DRAFT, **options: Any
) -> tuple[bytes, bytes]:
    """A rendition with and without the gain map."""
    without = replace(profile, gain_map=False)
    return studio.rendered(file, profile, **options), studio.rendered(file, without, **options)


@pytest.mark.parametrize("box", NAMED, ids=lambda box: box.name)
@pytest.mark.parametrize("profile", [DRAFT, FINAL], ids=["draft", "final"])
def test_a_photograph_keeps_its_gain_map_in_each_size(
    box: SizeSpec, profile: EncoderProfile
) -> None:
    plan = studio.geometry(photo("gain-map.jpg"), box)
    values, found = shown(studio.rendered(photo("gain-map.jpg"), profile, plan=plan))
    expected, whole = shown(photo("gain-map.jpg").read_bytes())
    assert {name: pytest.approx(one, rel=1e-4) for name, one in expected.items()} == values
    # Pillow scales the map and cuts the same part out of it.
    picture = Image.fromarray(whole[..., 0])
    x, y = picture.width / plan.scaled_width, picture.height / plan.scaled_height
    part = (plan.left * x, plan.top * y, (plan.left + plan.width) * x, (plan.top + plan.height) * y)
    size = (found.shape[1], found.shape[0])
    wanted = np.asarray(picture.resize(size, Image.Resampling.BOX, box=part))
    assert abs(size[0] - plan.width / SCALE) < 1
    assert abs(size[1] - plan.height / SCALE) < 1
    assert studio.difference(found[..., 0], wanted) < 6


@pytest.mark.parametrize("profile", [DRAFT, FINAL], ids=["draft", "final"])
@pytest.mark.parametrize("box", [studio.contain(200, 200), studio.cover(100, 100)])
def test_the_first_image_is_the_jpeg_that_is_sent_without_a_map(
    profile: EncoderProfile, box: SizeSpec
) -> None:
    kept, plain = pair(source(), profile, box=box)
    # All that follows the marker of the start and the JFIF segment.
    assert plain[20:] in kept
    assert (studio.pixels(kept) == studio.pixels(plain)).all()


def test_a_quality_search_finds_the_quality_that_it_finds_without_a_map() -> None:
    search = QualitySearch(80, 40, 95)
    kept, encoded = studio.attempt(source(), FINAL, search=search)
    plain, bare = studio.attempt(source(), replace(FINAL, gain_map=False), search=search)
    assert isinstance(kept, RenderResult)
    assert isinstance(plain, RenderResult)
    assert (kept.quality, kept.score) == (plain.quality, plain.score)
    assert bare[20:] in encoded
    assert has_map(encoded)


def test_a_set_of_outputs_keeps_the_map_in_its_jpegs_alone() -> None:
    boxes = (studio.contain(200, 200), studio.contain(100, 100))
    outputs = [
        studio.output(source(), box, profile)
        for box in boxes
        for profile in (DRAFT, studio.PROFILES[Format.WEBP])
    ]
    assert [has_map(one) for one in studio.made(source(), *outputs)] == [True, False, True, False]


@pytest.mark.parametrize("fmt", [Format.AVIF, Format.WEBP, Format.PNG, Format.GIF])
def test_other_formats_are_the_sdr_image(fmt: Format) -> None:
    profile = studio.PROFILES[fmt]
    plain = studio.rendered(pyvips.Image.jpegload_buffer(source()).pngsave_buffer(keep=0), profile)
    assert not has_map(studio.rendered(source(), profile))
    assert (studio.pixels(studio.rendered(source(), profile)) == studio.pixels(plain)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_map_is_turned_as_the_image_is(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = source(orientation=orientation)
    _, found = shown(studio.rendered(file, DRAFT))
    turned = studio.opened(studio.saved(Image.fromarray(gains()[..., 0]), "PNG", exif=exif))
    wanted = np.asarray(ImageOps.exif_transpose(turned))
    assert found.shape[:2] == wanted.shape
    assert studio.difference(found[..., 0], wanted) < 3


def test_a_crop_cuts_the_map_at_the_same_place() -> None:
    box = studio.cover(100, 100)
    plan = replace(studio.geometry(source(), box), left=17)
    _, found = shown(studio.rendered(source(), DRAFT, plan=plan))
    # The scaled image has a width of 167, so the edge is 83.5 - 17 = 66.5 of 100.
    row = found[4, :, 0].astype(int)
    edge = int(np.argmax(row < 120)) / found.shape[1]
    assert found.shape[:2] == (25, 25)
    assert abs(edge - 0.665) <= 0.04


@pytest.mark.parametrize("values", [SINGLE, MULTIPLE], ids=["one value", "three values"])
@pytest.mark.parametrize("bands", [1, 3])
def test_all_parameters_are_kept(values: dict[str, Any], bands: int) -> None:
    expected = {name: pytest.approx(value, rel=1e-4) for name, value in values.items()}
    encoded = studio.rendered(source(gains(bands=bands), values=values), DRAFT)
    found, levels = shown(encoded)
    assert found == expected
    assert levels.shape[2] == bands
    # The XMP has the same values; libultrahdr reads it only if all channels are equal.
    without_iso = encoded.replace(b"urn:iso:std:iso:ts:21496", b"urn:iso:std:iso:ts:00000")
    if values is SINGLE:
        assert shown(without_iso)[0] == expected
    assert shown(studio.rendered(without_iso, DRAFT))[0] == expected


def test_the_directory_names_both_images() -> None:
    encoded = studio.rendered(source(), DRAFT, box=studio.contain(200, 200))
    # `Image.open` returns the first image of an Ultra HDR file.
    picture = MpoImagePlugin.MpoImageFile(io.BytesIO(encoded))
    assert picture.n_frames == 2
    assert picture.mpinfo is not None
    assert sum(one["Size"] for one in picture.mpinfo[0xB002]) == len(encoded)
    picture.seek(1)
    picture.load()
    assert picture.size == (50, 30)


@pytest.mark.parametrize("notice", ["(c) 2026 Studio", "© 2026 Studio <Zürich>"])
def test_the_copyright_stays_in_one_packet(notice: str) -> None:
    kept = studio.rendered(source(), DRAFT, notice=notice)
    assert has_map(kept)
    assert kept[: len(kept) // 2].count(b"<x:xmpmeta") == 1
    if not notice.isascii():
        picture = studio.opened(kept)
        assert notice in str(picture.getxmp())
    values, _ = shown(kept)
    assert values["gainmap-hdr-capacity-max"] == pytest.approx(5.5)


def test_a_map_costs_about_a_tenth() -> None:
    for box, most in ((studio.contain(1200, 1200), 1.13), (studio.contain(1920, 1920), 1.13)):
        for profile in (DRAFT, FINAL):
            kept, plain = pair(photo("gain-map.jpg"), profile, box=box)
            assert 1.03 < len(kept) / len(plain) < most, (box, profile)


def test_a_removed_background_does_not_shine() -> None:
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    picture.paste((200, 30, 30), (100, 60, 300, 180))
    file = source(picture=np.asarray(picture))
    assert has_map(studio.rendered(file, DRAFT))
    assert not has_map(studio.rendered(file, DRAFT, remove_background=True))


def test_nothing_else_of_the_source_is_kept() -> None:
    file = photo("gain-map.jpg").read_bytes()
    # Where the map of a telephone names its owner.
    marked = file.replace(b'x:xmptk="Adobe XMP Core 5.1.2"', b'x:xmptk="OWNER OWNER OWNER OWN"')
    assert marked != file
    assert b"OWNER" not in studio.rendered(marked, DRAFT, box=studio.contain(300, 300))


# Hostile and damaged maps: the rendition is that without a map.


def entry(file: bytes | bytearray) -> int:
    """The place of the second entry of the directory."""
    return file.index(b"MPF\0") + 4 + 50 + 16


def with_entry(size: int | None = None, offset: int | None = None) -> bytes:
    file = bytearray(source())
    at = entry(file)
    if size is not None:
        file[at + 4 : at + 8] = struct.pack(">I", size)
    if offset is not None:
        file[at + 8 : at + 12] = struct.pack(">I", offset)
    return bytes(file)


def with_flags(flags: int) -> bytes:
    file = bytearray(source())
    at = file.rindex(b"urn:iso:std:iso:ts:21496:-1\0") + 28 + 4
    file[at] ^= flags
    return bytes(file)


def cut_map() -> bytes:
    file = source(np.random.default_rng(1).integers(0, 255, (60, 100, 1), np.uint8))
    start, end = file.rindex(b"\xff\xd8\xff"), file.rindex(b"\xff\xda") + 500
    at = entry(file) + 4
    return file[:at] + struct.pack(">I", end - start) + file[at + 4 : end]


HOSTILE: dict[str, Callable[[], bytes]] = {
    "another shape": lambda: source(gains(60, 60)),
    "more pixels than the image": lambda: source(gains(WIDTH + 4, HEIGHT + 2)),
    "a bomb": lambda: source(gains(8000, 4800)),
    "beyond the end": lambda: with_entry(offset=2**31),
    "longer than the file": lambda: with_entry(size=2**31),
    "of no bytes": lambda: with_entry(size=0),
    "the image itself": lambda: with_entry(offset=1),
    "cut off": lambda: source()[:-300],
    "without its pixels": cut_map,
    "for an image in HDR": lambda: with_flags(0x04),
    "in other primaries": lambda: with_flags(0x40),
}


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_an_unusable_map_is_left_out(kind: str) -> None:
    kept, plain = pair(HOSTILE[kind]())
    assert kept == plain


@pytest.mark.parametrize(
    "values",
    [
        'hdrgm:GainMapMax="nan"',
        'hdrgm:GainMapMax="1e400"',
        'hdrgm:GainMapMax="-6.6439"',
        'hdrgm:GainMapMax="bright"',
        "hdrgm:GainMapMax=",
        'hdrgm:GainMapMax="6.64386',
        'hdrgm:HDRCapacityMax="0.0"',
        'hdrgm:OffsetSDR="x"',
        'hdrgm:Gamma="0"',
    ],
)
def test_parameters_that_no_display_can_use_are_left_out(values: str) -> None:
    file = photo("gain-map.jpg").read_bytes()
    begin = file.index(values.partition("=")[0].encode())
    end = file.index(b"\n", begin)
    marked = file[:begin] + values.encode().ljust(end - begin)[: end - begin] + file[end:]
    kept, plain = pair(marked, box=studio.contain(200, 200))
    assert kept == plain


def test_properties_may_be_elements_with_a_value_for_each_channel() -> None:
    file = photo("gain-map.jpg").read_bytes()
    begin = file.rindex(b"<x:xmpmeta")
    end = file.index(b"</x:xmpmeta>", begin) + 12
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description hdrgm:Version="1.0"'
        b' hdrgm:HDRCapacityMax = "3" hdrgm:GainMapMin="-1"><hdrgm:GainMapMax><rdf:Seq>'
        b"<rdf:li>1</rdf:li><rdf:li>2</rdf:li><rdf:li>3</rdf:li></rdf:Seq></hdrgm:GainMapMax>"
        b"</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    marked = file[:begin] + packet.ljust(end - begin) + file[end:]
    values, _ = shown(studio.rendered(marked, DRAFT, box=studio.contain(400, 400)))
    assert values["gainmap-max-content-boost"] == pytest.approx([2, 4, 8])
    assert values["gainmap-min-content-boost"] == pytest.approx([0.5] * 3)
    # The defaults of Ultra HDR.
    assert values["gainmap-offset-sdr"] == pytest.approx([1 / 64] * 3, rel=1e-3)


def test_damage_of_any_kind_still_gives_the_image() -> None:
    whole = bytearray(source())
    places = [*range(2, 700), *range(entry(bytes(whole)) - 80, entry(bytes(whole)) + 16)]
    second = bytes(whole).rindex(b"\xff\xd8")
    places += range(second, min(second + 700, len(whole)))
    chance = random.Random(16)
    plain = studio.geometry(bytes(whole))
    for _ in range(200):
        file = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            file[chance.choice(places)] = chance.choice(
                (0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256))
            )
        result, encoded = studio.attempt(bytes(file), DRAFT, plan=plain)
        # Damage to the first image itself may make it undecodable; nothing else fails.
        if isinstance(result, RenderResult):
            studio.pixels(encoded)
        else:
            assert result.kind in ("undecodable", "unsupported", "too_large"), result
            assert not result.traceback, result


def test_the_setting_leaves_the_map_out_and_changes_only_the_keys_of_jpegs() -> None:
    off, on = EncoderSettings(gain_maps=False).stages(), EncoderSettings().stages()
    assert not has_map(studio.rendered(source(), off[Format.JPEG].draft.profile))
    changed = {fmt for fmt in on if on[fmt].final.profile.text != off[fmt].final.profile.text}
    assert changed == {Format.JPEG}
