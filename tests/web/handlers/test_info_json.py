"""The JSON of an image's description, without a server."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from proxy.domain.analysis import SourceGamut
from proxy.domain.formats import Format
from proxy.domain.media import NO_CHOICES, Background, CropBox, Focus, MediaChoices, MediaFacts
from proxy.domain.variant import Fit, SizeSpec
from proxy.serving.image_info import AnalysisFacts, ImageInfo, PixelFacts
from proxy.web.handlers.info_json import (
    Dimensions,
    GamutReport,
    ImageDescription,
    describe_image,
    dimensions,
    sizes_advice,
)
from tests.support.requests import facts, media

PIXELS = PixelFacts(
    thumbhash="aGFzaA==",
    blurhash="LEHV6nWB",
    data_uri="data:image/webp;base64,AA",
    dominant_colours=[{"hex": "#112233", "percent": 60}],
    quality_score=71,
    mood_keywords=("calm",),
    kind="photo",
)
SIZES = {"small": SizeSpec("small", 400, None), "cover": SizeSpec("cover", 300, 300, Fit.COVER)}


TEXTS = {"de": "Ein Hafen", "en": "A harbour"}


def described(
    analysis: AnalysisFacts | None = None,
    *,
    language: str | None = None,
    choices: MediaChoices = NO_CHOICES,
    **changes: object,
) -> ImageDescription:
    source: MediaFacts = replace(facts(), **changes)  # type: ignore[arg-type]
    return describe_image(
        replace(media(7), choices=choices),
        ImageInfo(source, PIXELS, analysis or AnalysisFacts(), TEXTS if language else {}),
        sizes=SIZES,
        formats=(Format.AVIF, Format.JPEG),
        ready={"small": {Format.AVIF: True, Format.JPEG: False}},
        language=language,
    )


def test_every_size_has_a_versioned_url_and_its_dimensions() -> None:
    found = described()
    assert found.urls["small"] == f"/serve/7?size=small&v={found.version}"
    assert found.dimensions["small"] == Dimensions(400, 300)
    assert set(found.urls) == set(found.dimensions) == set(SIZES)


def test_stored_renditions_are_listed_with_their_stage() -> None:
    assert described().formats.ready == {"small": {"avif": "final", "jpeg": "draft"}}


def test_there_is_a_srcset_for_each_format_and_one_for_negotiation() -> None:
    found = described()
    assert set(found.srcset) == {"auto", "avif", "jpeg"}
    assert "format=avif" in found.srcset["avif"]
    assert "format" not in found.srcset["auto"]


def test_the_ratio_is_that_of_the_original() -> None:
    assert described(width=4000, height=3000).ratio == 1.3333
    assert (described().width, described().height) == (4000, 3000)


def test_moods_of_a_vision_model_take_precedence_over_those_of_the_pixels() -> None:
    assert described().analysis.mood_keywords == ["calm"]
    model = AnalysisFacts(alt="A harbour", mood_keywords=("bright",))
    found = described(model)
    assert (found.alt, found.analysis.mood_keywords) == ("A harbour", ["bright"])


def test_the_share_of_clipped_colours_and_the_gain_map_are_reported() -> None:
    assert described().gamut is None
    pixels = replace(PIXELS, gamut=SourceGamut(0.25, 0.01, gain_map=True))
    found = describe_image(
        media(7), ImageInfo(facts(), pixels, AnalysisFacts()), SIZES, (Format.AVIF,), ready={}
    )
    assert found.gamut == GamutReport(0.25, 0.01, gain_map=True)


def test_a_text_of_a_person_comes_before_that_of_a_model() -> None:
    model = AnalysisFacts(alt="boats, water")
    found = described(model, language="de")
    assert (found.alt, found.alt_language, found.alts) == ("Ein Hafen", "de", TEXTS)
    found = described(model)
    assert (found.alt, found.alt_language, found.alts) == ("boats, water", None, {})


def test_addresses_follow_the_choices_of_editors() -> None:
    chosen = described(
        choices=MediaChoices(Focus(0, 0), background=Background.REMOVED), flat_background=True
    )
    assert (chosen.background, chosen.transparent) == ("removed", True)
    assert chosen.version != described().version
    assert chosen.version in chosen.urls["small"]
    assert (described().background, described().transparent) == ("original", False)


def test_the_dimensions_of_a_size_are_those_of_its_crop() -> None:
    crops = (("cover", CropBox(0, 0, 0.01, 0.01)),)
    assert described(width=4000, height=3000).dimensions["cover"] == Dimensions(300, 300)
    found = described(width=4000, height=3000, choices=MediaChoices(crops=crops))
    assert found.dimensions["cover"] == Dimensions(40, 40)


def test_links_lead_to_the_image_and_its_description() -> None:
    assert described().links == {
        "self": "/info/7",
        "picture": "/serve/7",
        "component": "/static/smart-image.js",
        "oembed": "/oembed",
    }


def test_members_are_serialised_in_the_order_of_their_definition() -> None:
    members = orjson.loads(orjson.dumps(described()))
    assert list(members)[:6] == ["id", "version", "width", "height", "ratio", "animated"]
    assert members["placeholders"]["thumbhash"] == "aGFzaA=="


@pytest.mark.parametrize(("width", "advice"), [(300, 300), (20, 20), (6000, 3840)])
def test_images_are_advised_to_be_no_wider_than_their_largest_rendition(
    width: int, advice: int
) -> None:
    text = sizes_advice(facts(width, width))
    assert text == f"auto, (min-width: {advice}px) {advice}px, 100vw"


def test_dimensions_never_exceed_the_original() -> None:
    assert dimensions(SizeSpec("", 5000, None), facts(300, 200)) == Dimensions(300, 200)
