"""HEIC and AVIF: of their items the primary image is shown, and bombs are refused unread."""

from __future__ import annotations

import struct
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import pyvips
from PIL import Image

from proxy.domain.worker_protocol import JobFailure
from proxy.rendering.worker.imaging import heif_items, libvips, load
from tests.rendering.worker.imaging import crafted, studio
from tests.rendering.worker.imaging.crafted import HeifItem, heif_of, ispe
from tests.rendering.worker.imaging.heif_bombs import (
    BOMBS,
    DEPTH,
    GAIN_MAP,
    SAMPLE,
    SIDE,
    image,
    layer,
    payload_of,
    property_of,
    sized,
    tiled,
    with_track,
)
from tests.support.heif import encoded_heic
from tests.support.memory_files import memory_file


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_a_decoder_reads_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: object) -> None:
        pytest.fail("pixels were decoded")

    monkeypatch.setattr(load, "decode_heic", decoded)
    answer = studio.refused_or_known(BOMBS[name]())
    assert isinstance(answer, JobFailure)
    assert (answer.kind, answer.traceback) == ("too_large", "")
    assert "are allowed" in answer.detail


def test_an_extent_beyond_the_end_is_a_truncation() -> None:
    made = bytearray(heif_of(b"heic", [image()]))
    # Version, sizes and count precede the item, whose number, method, index and count precede it.
    struct.pack_into(">II", made, made.index(b"iloc") + 4 + 4 + 2 + 4 + 4 + 6, 0, 0xFFFF_FFFF)
    answer = studio.refused_or_known(bytes(made))
    assert isinstance(answer, JobFailure)
    assert (answer.kind, answer.traceback) == ("undecodable", "")


def test_a_panorama_of_more_tiles_than_libvips_reads_is_shown() -> None:
    pytest.importorskip("pi_heif")
    known = studio.looked_at(tiled(20, 15), strict=True)
    assert (known.width, known.height) == (20 * SIDE, 15 * SIDE)


@pytest.mark.parametrize("kind", [DEPTH, GAIN_MAP, (b"auxC", bytes(4) + b"urn:other\0")])
def test_auxiliary_images_are_ignored(kind: tuple[bytes, bytes]) -> None:
    pytest.importorskip("pi_heif")
    plain = studio.looked_at(heif_of(b"heic", [image()]))
    known = studio.looked_at(heif_of(b"heic", [image(), layer(kind)]), strict=True)
    assert (known.width, known.height, known.has_alpha) == (SIDE, SIDE, plain.has_alpha)


def test_a_tone_map_that_is_made_of_the_image_is_ignored() -> None:
    """ISO 21496-1, as newer telephones write it."""
    pytest.importorskip("pi_heif")
    mapped = HeifItem(b"tmap", bytes(62), (ispe(SIDE, SIDE),), ((b"dimg", (1, 2)),))
    known = studio.looked_at(heif_of(b"heic", [image(), image(hidden=True), mapped]), strict=True)
    assert (known.width, known.height) == (SIDE, SIDE)


def test_of_a_burst_the_primary_image_is_shown() -> None:
    pytest.importorskip("pi_heif")
    small = image((b"clap", struct.pack(">8I", 16, 1, 32, 1, 0, 1, 0, 1)))
    # A size that may not be decoded is none of the primary image.
    burst = [image(), small, sized(30_000, 30_000)]
    assert studio.looked_at(heif_of(b"heic", burst)).width == SIDE
    known = studio.looked_at(heif_of(b"heic", burst, primary=2), strict=True)
    assert (known.width, known.height) == (16, 32)


@pytest.mark.parametrize("name", [b"iloc", b"iprp", b"iinf", b"iref", b"pitm"])
def test_a_table_that_is_there_twice_is_damage(name: bytes) -> None:
    """Decoders differ in which of them they read."""
    made = tiled(2, 1)
    at = made.index(name) - 4
    (length,) = struct.unpack_from(">I", made, at)
    twice = bytearray(made[: at + length] + made[at:])
    meta = twice.index(b"meta") - 4
    struct.pack_into(">I", twice, meta, struct.unpack_from(">I", twice, meta)[0] + length)
    answer = studio.refused_or_known(bytes(twice))
    assert isinstance(answer, JobFailure)
    assert (answer.kind, answer.traceback) == ("undecodable", "")
    assert "damaged" in answer.detail


@pytest.mark.parametrize("length", [2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("strict", [False, True])
def test_a_box_of_more_bytes_than_any_file_has_is_damage(length: int, *, strict: bool) -> None:
    damaged = SAMPLE[:28] + struct.pack(">I4sQ", 1, b"skip", length) + SAMPLE[28:]
    answer = studio.refused_or_known(damaged, strict=strict)
    assert isinstance(answer, JobFailure)
    assert (answer.kind, answer.traceback) == ("undecodable", "")


def test_a_second_meta_box_is_damage() -> None:
    made = heif_of(b"heic", [image()])
    answer = studio.refused_or_known(made + crafted._box(b"meta", bytes(4)))
    assert isinstance(answer, JobFailure)
    assert answer.kind == "undecodable"


def test_a_second_movie_box_is_damage() -> None:
    made = with_track(SAMPLE, 2)
    answer = studio.refused_or_known(made + crafted._box(b"moov", b""))
    assert isinstance(answer, JobFailure)
    assert answer.kind == "undecodable"


def test_a_still_image_with_a_track_is_shown() -> None:
    pytest.importorskip("pi_heif")
    plain = studio.looked_at(SAMPLE)
    known = studio.looked_at(with_track(SAMPLE, 2), strict=True)
    assert (known.width, known.height, known.pages) == (plain.width, plain.height, 1)


@pytest.mark.parametrize("chunks", [b"stco", b"co64"])
@pytest.mark.parametrize(
    ("runs", "samples"), [([(1, 7)], 70), ([(1, 2), (4, 5)], 41), ([(1, 2), (90, 5)], 20), ([], 0)]
)
def test_the_samples_in_chunks_are_counted(
    chunks: bytes, runs: list[tuple[int, int]], samples: int
) -> None:
    """Of ten chunks."""
    rows = b"".join(struct.pack(">III", first, each, 1) for first, each in runs)
    tables = {
        chunks: struct.pack(">II", 0, 10),
        b"stsc": struct.pack(">II", 0, len(runs)) + rows,
    }
    assert heif_items._chunked(tables) == samples


def test_any_damage_of_a_track_is_refused_or_read() -> None:
    whole = with_track(SAMPLE, 2)
    start = whole.index(b"moov") - 4
    for seed in range(500):
        chance, damaged = Random(seed), bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(start, len(damaged))] = chance.choice((0, 1, 255, seed % 256))
        with memory_file(bytes(damaged)) as opened:
            try:
                heif_items.check(opened, studio.LIMITS)
            except (pyvips.Error, libvips.SourceRefused):
                continue


def test_any_damage_of_the_items_is_refused_or_read() -> None:
    whole = tiled(2, 2)
    for seed in range(1500):
        chance, damaged = Random(seed), bytearray(whole[: whole.index(b"mdat")])
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(24, len(damaged))] = chance.choice((0, 1, 255, seed % 256))
        with memory_file(bytes(damaged)) as opened:
            try:
                heif_items.check(opened, studio.LIMITS)
            except (pyvips.Error, libvips.SourceRefused):
                continue


PATTERN = np.zeros((SIDE, SIDE, 3), np.uint8)
PATTERN[:32, :32], PATTERN[:32, 32:], PATTERN[32:, :32] = (
    (200, 40, 40),
    (40, 200, 40),
    (40, 40, 200),
)


@pytest.mark.slow
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirror", [None, 0, 1])
def test_rotation_and_mirroring_are_applied(turns: int, mirror: int | None) -> None:
    """ISO/IEC 23008-12, 6.5.10 and 6.5.12: quarter turns anticlockwise, then the mirror."""
    plain = encoded_heic(Image.fromarray(PATTERN), options=("-q", "95"))
    kinds = [property_of(plain, name) for name in (b"hvcC", b"pixi")]
    kinds += [ispe(SIDE, SIDE), (b"irot", bytes((turns,)))]
    wanted = np.rot90(PATTERN, turns)
    if mirror is not None:
        kinds.append((b"imir", bytes((mirror,))))
        wanted = np.fliplr(wanted) if mirror else np.flipud(wanted)
    turned = heif_of(b"heic", [HeifItem(b"hvc1", payload_of(plain), tuple(kinds))])
    found = studio.pixels(studio.rendered(turned, studio.LOSSLESS))
    assert studio.difference(found, wanted) < 12


@pytest.mark.slow
def test_ten_bits_are_kept_until_the_pixels_are_converted() -> None:
    levels = np.linspace(0, 65_535, 256)
    ramp = np.tile(levels[None, :, None], (64, 1, 3))
    source = encoded_heic(ramp, options=("-q", "90", "-b", "10"))
    with memory_file(source) as opened:
        assert load.open_source(opened, studio.LIMITS).header.band_bytes == 2
    found = studio.pixels(studio.rendered(source, studio.LOSSLESS))
    assert studio.difference(found, np.tile(np.arange(256)[None, :, None], (64, 1, 3))) < 2


@pytest.mark.slow
def test_the_alpha_of_a_heic_is_kept() -> None:
    drawn = Image.fromarray(PATTERN).convert("RGBA")
    drawn.paste((0, 0, 0, 0), (0, 0, 16, SIDE))
    source = encoded_heic(drawn, options=("-q", "90"))
    assert studio.looked_at(source, strict=True).has_alpha
    alpha = studio.pixels(studio.rendered(source, studio.LOSSLESS), "RGBA")[..., 3]
    assert alpha[:, :12].max() < 12
    assert alpha[:, 20:].min() > 240


@pytest.mark.slow
def test_the_first_of_several_images_of_an_encoder_is_shown() -> None:
    others = [Image.new("RGB", (128, 96), colour) for colour in ("red", "blue")]
    source = encoded_heic(Image.fromarray(PATTERN), *others, options=("-t", "32"))
    found = studio.pixels(studio.rendered(source, studio.LOSSLESS))
    assert found.shape == PATTERN.shape
    assert studio.difference(found, PATTERN) < 20


@pytest.mark.parametrize(("primary", "found"), [(1, True), (2, False)])
def test_colours_that_are_multiplied_by_an_alpha_are_found(primary: int, *, found: bool) -> None:
    items = [
        HeifItem(b"av01", bytes(9), (ispe(8, 8),), ((b"prem", (3,)),)),
        HeifItem(b"av01", bytes(9), (ispe(8, 8),)),
        HeifItem(b"av01", bytes(9), (ispe(8, 8),), ((b"auxl", (1, 2)),)),
    ]
    with memory_file(heif_of(b"avif", items, primary=primary)) as source:
        read = heif_items.read(source)
    assert read is not None
    assert read.premultiplied == found


def coded_avif(picture: Image.Image, *claimed: int, **references: tuple[int, ...]) -> HeifItem:
    """An item of an AVIF; it may claim another size than the one of its frame."""
    whole = studio.saved(picture, "AVIF", quality=100, subsampling="4:4:4")
    kinds = [property_of(whole, name) for name in (b"av1C", b"pixi")]
    size = ispe(*(claimed or picture.size))
    referring = tuple((name.encode(), others) for name, others in references.items())
    return HeifItem(b"av01", payload_of(whole), (*kinds, size), referring)


@pytest.mark.parametrize(
    "thumbnail",
    [
        coded_avif(Image.new("RGB", (128, 128), "blue"), thmb=(1,)),
        coded_avif(Image.new("RGB", (128, 128), "blue"), 16_384, 16_384, thmb=(1,)),
        coded_avif(Image.new("RGB", (128, 128), "blue"), 2**31, 2**31, thmb=(1,)),
        HeifItem(b"av01", b"damaged", (ispe(128, 128),), ((b"thmb", (1,)),)),
    ],
    ids=["another picture", "large", "larger", "damaged"],
)
def test_a_thumbnail_in_an_avif_is_not_decoded(thumbnail: HeifItem) -> None:
    drawn = Image.fromarray(PATTERN).resize((256, 256), Image.Resampling.NEAREST)
    source = heif_of(b"avif", [coded_avif(drawn), thumbnail])
    known = studio.looked_at(source, strict=True)
    assert (known.width, known.height) == drawn.size
    found = studio.pixels(studio.rendered(source, box=studio.contain(SIDE, SIDE)))
    assert studio.difference(found, PATTERN) < 5


def test_an_avif_keeps_its_alpha_if_its_thumbnail_has_none() -> None:
    drawn = Image.fromarray(PATTERN).resize((256, 256), Image.Resampling.NEAREST)
    alpha = Image.new("L", drawn.size, 0)
    alpha.paste(255, (0, 0, 128, 256))
    layer_of = coded_avif(alpha, auxl=(1,))
    kind = (b"auxC", bytes(4) + b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")
    layer_of = replace(layer_of, properties=(*layer_of.properties, kind), hidden=True)
    items = [coded_avif(drawn), layer_of, coded_avif(Image.new("RGB", (128, 128)), thmb=(1,))]
    source = heif_of(b"avif", items)
    found = studio.pixels(studio.rendered(source, box=studio.contain(SIDE, SIDE)), "RGBA")
    assert (found[:, :28, 3].min(), found[:, 36:, 3].max()) == (255, 0)
    assert studio.difference(found[:, :28, :3], PATTERN[:, :28]) < 5
