"""The final encoder profiles: their options reach the encoders, and they pay."""

from __future__ import annotations

import pytest
import pyvips

from proxy.domain.formats import EncoderProfile, Format, QualitySearch
from proxy.domain.worker_protocol import JobFailure, RenderResult
from proxy.rendering.worker.imaging.quality_search import with_quality
from proxy.rendering.worker.imaging.ssimulacra2 import Reference
from tests.rendering.worker.imaging import studio
from tests.support.photos import photo

FINAL = {
    "AVIF effort 3": EncoderProfile(
        Format.AVIF, (("Q", 60), ("bitdepth", 10), ("effort", 3), ("tune", "iq"))
    ),
    "AVIF effort 4": EncoderProfile(
        Format.AVIF, (("Q", 60), ("bitdepth", 10), ("effort", 4), ("tune", "iq"))
    ),
    "WebP": EncoderProfile(Format.WEBP, (("Q", 79), ("effort", 6), ("smart_subsample", True))),
    "JPEG": EncoderProfile(
        Format.JPEG,
        (
            ("Q", 80),
            ("interlace", True),
            ("optimize_coding", True),
            ("quant_table", 3),
            ("trellis_quant", True),
        ),
    ),
}
DRAFT = {
    Format.AVIF: EncoderProfile(Format.AVIF, (("Q", 63), ("bitdepth", 8), ("effort", 0))),
    Format.WEBP: EncoderProfile(Format.WEBP, (("Q", 79), ("effort", 2))),
    Format.JPEG: EncoderProfile(Format.JPEG, (("Q", 80),)),
}
BOX = studio.contain(256, 256)


def score(name: str, encoded: bytes) -> float:
    """The estimate of SSIMULACRA2 of a rendition in `BOX`."""
    exact = pyvips.Image.new_from_buffer(studio.rendered(photo(name), Format.PNG, box=BOX), "")
    return Reference(exact).compare(pyvips.Image.new_from_buffer(encoded, "")).score


@pytest.mark.parametrize("profile", FINAL.values(), ids=FINAL)
@pytest.mark.parametrize("name", ["kodak-05.png", "kodak-23.png"])
def test_a_final_is_smaller_than_a_draft_at_no_lower_score(
    name: str, profile: EncoderProfile
) -> None:
    draft = studio.rendered(photo(name), DRAFT[profile.format], box=BOX)
    target = score(name, draft)
    search = QualitySearch(target, 40, 95, max_encodes=4)
    result, final = studio.attempt(photo(name), profile, box=BOX, search=search)
    assert isinstance(result, RenderResult)
    assert studio.difference(studio.pixels(final), studio.pixels(draft)) < 8
    assert score(name, final) >= target
    assert len(final) < len(draft)


@pytest.mark.parametrize(
    ("fmt", "option", "value"),
    [
        (Format.AVIF, "tune", "ssim"),
        (Format.AVIF, "bitdepth", 10),
        (Format.AVIF, "effort", 2),
        (Format.WEBP, "smart_subsample", True),
        (Format.WEBP, "effort", 6),
        (Format.JPEG, "interlace", True),
        (Format.JPEG, "optimize_coding", True),
        (Format.JPEG, "quant_table", 3),
        (Format.JPEG, "trellis_quant", True),
    ],
)
def test_each_option_reaches_the_encoder(fmt: Format, option: str, value: int | str) -> None:
    plain = DRAFT[fmt]
    options = dict(plain.options) | {option: value}
    changed = EncoderProfile(fmt, tuple(sorted(options.items())))
    box = studio.contain(200, 200)
    assert studio.rendered(photo("kodak-23.png"), changed, box=box) != studio.rendered(
        photo("kodak-23.png"), plain, box=box
    )


@pytest.mark.parametrize(
    "options", [(("Q", 60), ("tune", "ssimulacra2")), (("Q", 60), ("no_such_option", 1))]
)
def test_an_option_that_the_encoder_does_not_take_is_our_own_fault(
    options: tuple[tuple[str, int | str], ...],
) -> None:
    profile = EncoderProfile(Format.AVIF, options)
    result, _ = studio.attempt(photo("kodak-23.png"), profile, box=studio.contain(64, 64))
    assert isinstance(result, JobFailure)
    assert result.kind == "fault"


def test_tune_iq_is_what_the_encoder_does_anyway() -> None:
    """It stands in the profile so that another libheif does not change the recipe unseen."""
    tuned = FINAL["AVIF effort 3"]
    options = tuple(pair for pair in tuned.options if pair[0] != "tune")
    box = studio.contain(200, 200)
    plain = studio.rendered(photo("kodak-23.png"), EncoderProfile(Format.AVIF, options), box=box)
    assert plain == studio.rendered(photo("kodak-23.png"), tuned, box=box)


def test_webp_with_transparency_is_spared_the_slowest_effort() -> None:
    """It takes twenty times as long there, for one percent."""
    slowest = FINAL["WebP"]
    options = dict(slowest.options) | {"effort": 5}
    next_to_it = EncoderProfile(Format.WEBP, tuple(options.items()))
    box = studio.contain(200, 200)
    source = photo("drawing-alpha.png")
    assert studio.rendered(source, slowest, box=box) == studio.rendered(source, next_to_it, box=box)


def test_a_profile_with_another_quality_keeps_its_other_options() -> None:
    assert with_quality(FINAL["WebP"], 50).text == "webp:Q=50,effort=6,smart_subsample=True"
