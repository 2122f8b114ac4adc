"""Tiers: what callers may send, and what they may see."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.domain.errors import (
    BadParameter,
    BodyTooLarge,
    FileTooLargeForTier,
    TierInsufficient,
    UnknownImageFormat,
)
from proxy.metadata.extraction import Extraction
from proxy.metadata.formats import UNSUPPORTED_FORMAT
from proxy.metadata.tiers import LIMITS, Tier, check_allowed, lowered, parse_tier, withhold
from proxy.runtime.deferred_json import DeferredArray

MIB = 1024 * 1024
JPEG = b"\xff\xd8\xff\xe0"
BMP = b"BM" + bytes(12) + (40).to_bytes(4, "little") + bytes(14)
GROUPS = {
    "File": {"FileType": "JPEG"},
    "IFD0": {"Make": "Canon"},
    "ExifIFD": {"ISO": 100},
    "GPS": {"GPSLatitude": 1},
    "PNG": {"parameters": "a cat"},
    "Canon": {"SerialNumber": 7},
    "IPTC": {"City": "Rome"},
    "XMP-dc": {"creator": "A. Author"},
    "ICC_Profile": {"ProfileDescription": "sRGB"},
    "Composite": {"LensID": "EF 50"},
}
TEXTS = [
    {"keyword": "parameters", "where": "PNG tEXt", "language": None, "text": "a cat"},
    {"keyword": "XML:com.adobe.xmp", "where": "PNG iTXt", "language": None, "text": "<x/>"},
    {"keyword": "Raw profile type iptc", "where": "PNG zTXt", "language": None, "text": "00"},
]


def extraction(**parts: Any) -> Extraction:
    metadata = {
        "groups": GROUPS,
        "text": TEXTS,
        "c2pa": {"state": "valid"},
        "ai_generation": {"source": "unknown"},
        "exif": {"make": "Canon"},
        "gps": {"latitude": 1},
        "withheld": None,
    }
    return Extraction(metadata, {}, {}, **parts)


def test_each_tier_includes_those_before_it() -> None:
    assert [tier.rank for tier in Tier] == [0, 1, 2, 3]
    assert [LIMITS[tier].max_bytes // MIB for tier in Tier] == [10, 100, 500, 1024]


@pytest.mark.parametrize(
    ("text", "tier"),
    [
        *((tier.value, tier) for tier in Tier),
        ("starter", Tier.PROFESSIONAL),
        ("premium", Tier.FORENSIC),
        ("super", Tier.ENTERPRISE),
        (" Free ", Tier.FREE),
    ],
)
def test_a_tier_has_its_name_and_aliases(text: str, tier: Tier) -> None:
    assert parse_tier(text) is tier


@pytest.mark.parametrize("text", ["", "gold", "enterprise2"])
def test_an_unknown_tier_names_the_known_ones(text: str) -> None:
    with pytest.raises(BadParameter, match="free, professional, forensic, enterprise"):
        parse_tier(text)


def test_a_request_can_lower_the_tier_but_not_raise_it() -> None:
    assert lowered(Tier.FORENSIC, "free") is Tier.FREE
    assert lowered(Tier.FORENSIC, "premium") is Tier.FORENSIC
    assert lowered(Tier.FORENSIC, None) is lowered(Tier.FORENSIC, " ") is Tier.FORENSIC
    with pytest.raises(TierInsufficient, match='"enterprise" is higher than yours') as error:
        lowered(Tier.FORENSIC, "super")
    assert (error.value.status, error.value.needs) == (403, "enterprise")


def test_a_file_above_the_limit_of_a_tier_names_the_tier_that_is_sufficient() -> None:
    check_allowed(Tier.FREE, byte_size=10 * MIB)
    for size, needed in ((10 * MIB + 1, "professional"), (101 * MIB, "forensic")):
        with pytest.raises(FileTooLargeForTier, match=f'"{needed}"') as error:
            check_allowed(Tier.FREE, byte_size=size)
        assert (error.value.status, error.value.needs) == (403, needed)


@pytest.mark.parametrize("tier", list(Tier))
def test_a_file_above_all_limits_is_too_large_for_every_tier(tier: Tier) -> None:
    with pytest.raises(BodyTooLarge) as error:
        check_allowed(tier, byte_size=1024 * MIB + 1)
    assert (error.value.status, error.value.code) == (413, "FILE_TOO_LARGE")


def test_the_lowest_tier_accepts_four_formats_only() -> None:
    check_allowed(Tier.FREE, byte_size=1, head=JPEG)
    check_allowed(Tier.PROFESSIONAL, byte_size=1, head=BMP)
    with pytest.raises(TierInsufficient, match="BMP") as error:
        check_allowed(Tier.FREE, byte_size=1, head=BMP)
    assert error.value.needs == "professional"


def test_a_file_of_no_format_is_refused_with_the_documented_sentence() -> None:
    with pytest.raises(UnknownImageFormat) as error:
        check_allowed(Tier.ENTERPRISE, byte_size=1, head=b"plain text")
    assert (error.value.status, error.value.code) == (400, "INVALID_FILE_TYPE")
    assert error.value.detail == UNSUPPORTED_FORMAT


def test_the_advanced_analysis_needs_a_high_tier() -> None:
    check_allowed(Tier.FORENSIC, byte_size=1, advanced=True)
    with pytest.raises(TierInsufficient, match='"forensic"') as error:
        check_allowed(Tier.PROFESSIONAL, byte_size=1, advanced=True)
    assert error.value.needs == "forensic"


def test_the_lowest_tier_sees_basic_exif_the_position_and_the_generator() -> None:
    whole = extraction()
    found = withhold(whole, Tier.FREE).metadata
    assert set(found["groups"]) == {"File", "IFD0", "ExifIFD", "GPS", "PNG", "Composite"}
    assert found["text"] == TEXTS[:1]
    assert found["c2pa"] is None
    assert found["ai_generation"], found["gps"]
    assert found["withheld"] == {
        "groups": ["Canon", "IPTC", "XMP-dc", "ICC_Profile"],
        "fields": ["text", "c2pa"],
        "needs": "professional",
    }
    assert whole.metadata["groups"] == GROUPS, "the complete extraction is cached, and unchanged"
    assert whole.metadata["withheld"] is None


def test_a_higher_tier_sees_all_groups_and_only_the_highest_two_the_advanced_part() -> None:
    whole = extraction(advanced={"trailing_bytes": 0})
    assert withhold(whole, Tier.FORENSIC) == withhold(whole, Tier.ENTERPRISE) == whole
    found = withhold(whole, Tier.PROFESSIONAL)
    assert found.metadata["groups"] == GROUPS
    assert found.advanced is None
    needs = {"groups": [], "fields": ["advanced"], "needs": "forensic"}
    assert found.metadata["withheld"] == needs
    lowest = withhold(whole, Tier.FREE)
    assert lowest.metadata["withheld"]["fields"] == ["text", "c2pa", "advanced"]
    assert lowest.metadata["withheld"]["needs"] == "forensic"


@pytest.mark.parametrize("tier", Tier)
def test_texts_are_only_parsed_if_one_of_them_may_have_to_be_withheld(tier: Tier) -> None:
    plain, detailed = (DeferredArray(orjson.dumps(texts)) for texts in (TEXTS[:1], TEXTS))
    metadata: dict[str, Any] = {"groups": {}, "c2pa": None, "withheld": None}
    found = withhold(Extraction({**metadata, "text": plain}, {}, {}), tier)
    assert (found.metadata["withheld"], "value" in vars(plain)) == (None, False)
    found = withhold(Extraction({**metadata, "text": detailed}, {}, {}), tier)
    assert found.metadata["text"] == (TEXTS[:1] if tier is Tier.FREE else TEXTS)


def test_nothing_is_listed_if_nothing_is_withheld() -> None:
    metadata: dict[str, Any] = {"groups": {"IFD0": {}}, "text": [], "c2pa": None, "withheld": None}
    assert withhold(Extraction(metadata, {}, {}), Tier.FREE).metadata["withheld"] is None
