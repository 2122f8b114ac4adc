"""The search for the smallest quality that reaches a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pyvips
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile, QualitySearch
from proxy.domain.worker_protocol import JobFailure, RenderResult
from proxy.rendering.worker.imaging.quality_search import QualityTrial, _narrowed, with_quality
from proxy.rendering.worker.imaging.ssimulacra2 import RINGING_LEVELS, Fidelity
from proxy.settings import EncoderSettings
from proxy.settings.client_hints import ClientHintSettings
from tests.rendering.worker.imaging import studio
from tests.support.drawing import SAMPLES, Logo, logos
from tests.support.photos import photo

SEARCH = QualitySearch(75, 40, 90)
AVIF = EncoderProfile(Format.AVIF, (("Q", 60), ("bitdepth", 10), ("effort", 1), ("tune", "iq")))
WEBP = EncoderProfile(Format.WEBP, (("Q", 79), ("effort", 4), ("smart_subsample", True)))
JPEG = EncoderProfile(Format.JPEG, (("Q", 80), ("trellis_quant", True)))
WINDOW_LEVELS = RINGING_LEVELS + 0.5
"""What Pillow's decoder may see on a flat ground, for it need not agree to the level."""


def searched(
    source: studio.Source, profile: EncoderProfile, search: QualitySearch = SEARCH, **options: Any
) -> tuple[RenderResult, bytes]:
    """A rendition whose quality is searched for."""
    result, encoded = studio.attempt(source, profile, search=search, **options)
    assert isinstance(result, RenderResult), result
    return result, encoded


def found(
    curve: Callable[[int], float], search: QualitySearch, start: int = 60
) -> tuple[int, list[int]]:
    """What a search gives on a made-up curve of margins, and what it tried."""
    tried: list[int] = []

    def attempt(quality: int) -> QualityTrial:
        tried.append(quality)
        return QualityTrial(quality, b"", Fidelity(0, 0), curve(quality))

    return _narrowed(attempt, search, start=start).quality, tried


@given(st.floats(0.4, 1.5), st.floats(45, 85), st.integers(1, 100))
def test_on_a_straight_curve_the_smallest_quality_is_found_in_four_encodes(
    slope: float, crossing: float, start: int
) -> None:
    quality, tried = found(lambda at: (at - crossing) * slope, SEARCH, start)
    near_enough = 1 if slope < 0.5 else 0
    assert crossing <= quality <= crossing + 2 + near_enough
    assert len(tried) == len(set(tried)) <= 4
    assert all(40 <= one <= 90 for one in tried)


@given(
    st.lists(st.floats(-60, 20), min_size=51, max_size=51).map(sorted),
    st.integers(1, 100),
    st.integers(1, 8),
)
def test_on_any_rising_curve_the_answer_is_the_smallest_that_passed(
    margins: list[float], start: int, most: int
) -> None:
    search = replace(SEARCH, max_encodes=most)
    quality, tried = found(lambda at: margins[at - 40], search, start)
    passed = [one for one in tried if margins[one - 40] >= 0]
    assert quality == (min(passed) if passed else max(tried))
    assert len(tried) == len(set(tried)) <= most


def test_a_target_out_of_reach_ends_at_the_upper_bound() -> None:
    assert found(lambda _: -40.0, SEARCH) == (90, [60, 90])


def test_a_target_that_the_lower_bound_reaches_ends_there() -> None:
    quality, tried = found(lambda _: 20.0, SEARCH)
    assert quality == 40
    assert len(tried) <= 3


@pytest.mark.parametrize("profile", [AVIF, WEBP, JPEG], ids=lambda profile: profile.format)
def test_a_photograph_just_reaches_the_target(profile: EncoderProfile) -> None:
    result, encoded = searched(photo("kodak-23.png"), profile, box=studio.contain(300, 300))
    assert result.quality is not None
    assert result.score is not None
    assert 75 <= result.score < 77
    assert not result.target_missed
    chosen = with_quality(profile, result.quality)
    same = studio.rendered(photo("kodak-23.png"), chosen, box=studio.contain(300, 300))
    assert encoded == same


def test_a_rough_image_needs_another_quality_than_a_smooth_one() -> None:
    rough, smooth = (
        searched(photo(name), WEBP, box=studio.contain(260, 260))[0].quality or 0
        for name in ("kodak-15.png", "kodak-13.png")
    )
    assert abs(rough - smooth) > 2


def test_a_missed_target_is_reported() -> None:
    low = QualitySearch(85, 30, 50)
    result, _ = searched(photo("kodak-13.png"), JPEG, low, box=studio.contain(300, 300))
    assert (result.quality, result.target_missed) == (50, True)


@pytest.mark.parametrize(
    ("name", "profile", "options"),
    [
        ("kodak-23.png", studio.PROFILES[Format.PNG], {}),
        ("kodak-23.png", EncoderProfile(Format.WEBP, (("effort", 0), ("lossless", True))), {}),
        ("animated.webp", WEBP, {"animated": True}),
    ],
)
def test_what_is_lossless_or_moves_is_encoded_as_its_profile_says(
    name: str, profile: EncoderProfile, options: dict[str, Any]
) -> None:
    result, encoded = searched(photo(name), profile, **options)
    assert (result.quality, result.score, result.target_missed) == (None, None, False)
    assert encoded == studio.rendered(photo(name), profile, **options)


def worst_flat_window(logo: Logo, encoded: bytes) -> float:
    """Largest mean deviation of a 4 x 4 window on flat ground, as Pillow decodes it."""
    exact = np.asarray(logo.picture).astype(int)
    ours = studio.pixels(encoded).astype(int)
    padded = np.pad(exact, ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width, _ = exact.shape
    shifts = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    flat = (np.ptp(np.stack(shifts), axis=0) == 0).all(axis=2)
    deviation = np.abs(exact - ours).mean(axis=2) * flat
    windows = deviation.reshape(height // 4, 4, width // 4, 4).mean(axis=(1, 3))
    return float(windows.max())


@pytest.mark.slow
@pytest.mark.parametrize("logo", logos(240)[:3], ids=lambda logo: logo.name)
def test_a_logo_rings_no_more_than_a_plain_encoding(logo: Logo) -> None:
    result, encoded = searched(studio.saved(logo.picture), AVIF)
    assert not result.target_missed
    exact = pyvips.Image.new_from_buffer(studio.saved(logo.picture), "")
    plain = exact.heifsave_buffer(compression="av1", Q=60, effort=1, keep="none")
    least = worst_flat_window(logo, plain) + 0.5
    assert worst_flat_window(logo, encoded) <= max(WINDOW_LEVELS, least)


@pytest.mark.slow
@pytest.mark.parametrize("logo", logos(240)[:3], ids=lambda logo: logo.name)
def test_a_logo_in_jpeg_rings_no_more_than_a_plain_one_of_more_bytes(logo: Logo) -> None:
    """Without any ringing it would be twice as large."""
    exact = pyvips.Image.new_from_buffer(studio.saved(logo.picture), "")
    plain = exact.jpegsave_buffer(Q=80, optimize_coding=True, keep="none")
    _, encoded = searched(studio.saved(logo.picture), with_quality(JPEG, 80))
    assert len(encoded) <= len(plain)
    assert worst_flat_window(logo, encoded) <= 1.1 * worst_flat_window(logo, plain)


def test_an_image_with_transparency_is_searched() -> None:
    badge = SAMPLES / "badge.png"
    result, encoded = searched(badge, AVIF, box=studio.contain(128, 128))
    assert result.quality is not None
    assert studio.pixels(encoded, "RGBA").shape[2] == 4


def test_a_searched_rendition_carries_the_copyright() -> None:
    source = studio.saved(Image.new("RGB", (64, 64), "teal"))
    _, encoded = searched(source, JPEG, notice="(c) me")
    assert studio.opened(encoded).getexif()[0x8298] == "(c) me"


def test_a_broken_source_is_reported_as_such() -> None:
    known = studio.geometry(photo("kodak-23.png"), studio.contain(64, 64))
    result, _ = studio.attempt(b"\xff\xd8\xff", JPEG, plan=known, search=SEARCH)
    assert isinstance(result, JobFailure)
    assert result.kind == "undecodable"


def test_a_profile_with_another_quality_keeps_its_other_options() -> None:
    profile = EncoderProfile(Format.WEBP, (("Q", 79), ("effort", 6), ("smart_subsample", True)))
    assert with_quality(profile, 50).text == "webp:Q=50,effort=6,smart_subsample=True"


@pytest.mark.slow
@pytest.mark.parametrize("fmt", [Format.JPEG, Format.WEBP, Format.AVIF])
@pytest.mark.parametrize("name", ["kodak-03.jpg", "kodak-23.jpg"])
def test_a_final_for_clients_with_hints_has_at_least_30_percent_fewer_bytes(
    fmt: Format, name: str
) -> None:
    usual = EncoderSettings().stages()
    lengths = []
    for stages in (usual, ClientHintSettings().leaner(usual)):
        final = stages[fmt].final
        assert final.search is not None
        box = studio.contain(300, 300)
        result, encoded = searched(SAMPLES / name, final.profile, final.search, box=box)
        assert not result.target_missed
        lengths.append(len(encoded))
    assert lengths[1] <= 0.7 * lengths[0]
