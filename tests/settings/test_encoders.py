"""Encoder settings: save options, stages and the quality search."""

from __future__ import annotations

import pytest

from proxy.domain.formats import Format
from proxy.domain.variant import QualitySearch, streams
from proxy.settings import EncoderSettings, Settings
from proxy.settings.encoders import AvifFinalSettings, JpegDraftSettings


def test_every_format_has_a_profile_of_sorted_options() -> None:
    profiles = Settings().encoders.profiles()
    assert set(profiles) == set(Format)
    for fmt, profile in profiles.items():
        assert profile.format is fmt
        assert list(profile.options) == sorted(profile.options)


def test_the_default_jpeg_draft_is_streamed() -> None:
    # With any of these libjpeg needs the whole image before the first byte.
    options = dict(Settings().encoders.profiles()[Format.JPEG].options)
    whole = ("interlace", "optimize_coding", "trellis_quant", "optimize_scans")
    assert not any(options.get(name) for name in whole)


def test_a_jpeg_draft_has_the_table_that_saves_bytes_of_photographs() -> None:
    """8 % at equal score; it needs no second pass over the pixels."""
    profile = Settings().encoders.stages()[Format.JPEG].draft.profile
    assert dict(profile.options)["quant_table"] == 5
    assert streams(profile)


def test_only_a_jpeg_draft_that_no_final_replaces_waits_for_fitted_tables() -> None:
    """They save 2 %, but the first byte leaves when the last pixel is read."""
    for finals, fitted in ((True, False), (False, True)):
        stages = EncoderSettings().stages(finals=finals)[Format.JPEG]
        assert dict(stages.draft.profile.options)["optimize_coding"] is fitted


def test_trellis_quantisation_needs_fitted_tables() -> None:
    options = dict(JpegDraftSettings(trellis=True).profile().options)
    assert options["optimize_coding"] is True
    assert options["quant_table"] == 3


def test_a_tuned_avif_names_its_metric() -> None:
    assert ("tune", "iq") in AvifFinalSettings().profile().options
    plain = AvifFinalSettings(tune="default").profile()
    assert "tune" not in dict(plain.options)


def test_bounds_must_not_cross() -> None:
    with pytest.raises(ValueError, match="min_quality must not exceed max_quality"):
        AvifFinalSettings(min_quality=91)


def test_a_final_has_a_quality_search_within_its_bounds() -> None:
    stages = EncoderSettings(target=80).stages()
    assert stages[Format.AVIF].final.search == QualitySearch(80, 40, 90)
    assert stages[Format.AVIF].draft.search is None


def test_a_target_of_zero_disables_the_search() -> None:
    assert EncoderSettings(target=0).stages()[Format.WEBP].final.search is None


@pytest.mark.parametrize("fmt", [Format.PNG, Format.GIF])
def test_png_and_gif_have_one_encoding(fmt: Format) -> None:
    stages = EncoderSettings().stages()[fmt]
    assert stages.draft == stages.final


def test_without_finals_every_draft_is_final() -> None:
    stages = EncoderSettings().stages(finals=False)
    assert all(one.draft == one.final for one in stages.values())
