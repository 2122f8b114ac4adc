"""What a rendition will take, by what others took."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.domain.formats import Format
from proxy.domain.variant import EncodingStage, Geometry
from proxy.serving.renderer import EncodeCostModel
from proxy.settings import EncoderSettings
from tests.web.plans import plan

WEBP = plan("").variant
PROFILES = EncoderSettings().profiles()


def test_nothing_is_known_at_first() -> None:
    assert EncodeCostModel().estimate_s(WEBP) is None


def test_it_is_learned_by_the_pixel() -> None:
    costs = EncodeCostModel()
    costs.learn(WEBP, 0.2)
    assert costs.estimate_s(WEBP) == pytest.approx(0.2)
    larger = replace(WEBP, geometry=Geometry(1200, 990, 1200, 990))
    assert costs.estimate_s(larger) == pytest.approx(0.2 * 990 / 900)


def test_another_encoding_or_scale_says_nothing() -> None:
    costs = EncodeCostModel()
    costs.learn(WEBP, 0.2)
    stranger = replace(WEBP, media_id=1, version="other")
    assert costs.estimate_s(stranger) == pytest.approx(0.2)
    for other in (
        replace(WEBP, profile=PROFILES[Format.AVIF]),
        replace(WEBP, alternative=EncodingStage(PROFILES[Format.JPEG])),
        replace(WEBP, geometry=Geometry(300, 225, 300, 225)),
    ):
        assert costs.estimate_s(other) is None


def test_it_follows_what_changes() -> None:
    costs = EncodeCostModel()
    for seconds in [1.0] * 5 + [2.0] * 12:
        costs.learn(WEBP, seconds)
    assert costs.estimate_s(WEBP) == pytest.approx(2.0, rel=0.02)
