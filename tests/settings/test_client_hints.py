"""Encodings for requests with client hints: leaner than the usual ones, never richer."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.domain.formats import Format
from proxy.domain.variant import EncodingStage, Gamut
from proxy.settings import EncoderSettings
from proxy.settings.client_hints import ClientHintSettings

LOSSY = (Format.JPEG, Format.WEBP, Format.AVIF)


def quality(stage: EncodingStage) -> int:
    return int(dict(stage.profile.options)["Q"])


def test_they_are_disabled_by_default() -> None:
    assert ClientHintSettings().enabled is False


@pytest.mark.parametrize("fmt", LOSSY)
def test_draft_and_final_have_a_lower_quality_and_otherwise_the_same_options(fmt: Format) -> None:
    usual = EncoderSettings().stages()[fmt]
    lean = ClientHintSettings().leaner(EncoderSettings().stages())[fmt]
    for mine, theirs in ((lean.draft, usual.draft), (lean.final, usual.final)):
        assert quality(mine) < quality(theirs)
        options = dict(mine.profile.options)
        assert options | {"Q": quality(theirs)} == dict(theirs.profile.options)
        assert list(mine.profile.options) == sorted(options.items())
    assert lean.final.search is not None
    assert usual.final.search is not None
    assert lean.final.search.target < usual.final.search.target
    assert lean.final.search.low < usual.final.search.low
    assert lean.final.search.high == usual.final.search.high


@pytest.mark.parametrize("fmt", LOSSY)
def test_the_gamut_stays_and_the_gain_map_does_not(fmt: Format) -> None:
    usual = EncoderSettings(output_gamut=Gamut.P3).stages()
    lean = ClientHintSettings().leaner(usual)[fmt]
    for stage in (lean.draft, lean.final):
        assert stage.profile.gamut is Gamut.P3
        assert stage.profile.gain_map is (fmt is not Format.JPEG)


def test_lossless_formats_are_the_same() -> None:
    usual = EncoderSettings().stages()
    lean = ClientHintSettings().leaner(usual)
    assert {fmt for fmt in Format if lean[fmt] == usual[fmt]} == {Format.PNG, Format.GIF}


@pytest.mark.parametrize(
    "encoders",
    [
        {"target": 40, "jpeg": {"draft": {"quality": 30}, "final": {"min_quality": 10}}},
        {"target": 0},
    ],
)
def test_an_operator_with_a_lower_quality_keeps_it(encoders: dict[str, Any]) -> None:
    usual = EncoderSettings(**encoders).stages()
    lean = ClientHintSettings().leaner(usual)
    assert quality(lean[Format.JPEG].draft) <= quality(usual[Format.JPEG].draft)
    mine, theirs = lean[Format.JPEG].final.search, usual[Format.JPEG].final.search
    assert (mine is None) == (theirs is None)
    if mine is not None and theirs is not None:
        assert (mine.target, mine.low) == (theirs.target, theirs.low)
