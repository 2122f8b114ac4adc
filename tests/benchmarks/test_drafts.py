"""The bytes of JPEG drafts, which do not depend on the speed of the machine."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile, streams
from tests.benchmarks.drafts import LIMIT, draft_profile, drafts
from tests.benchmarks.originals import kodak
from tests.benchmarks.servers import Unmeasurable

_WIDTH = 300


@pytest.mark.slow
def test_drafts_have_fewer_bytes_than_with_the_default_table() -> None:
    assert streams(draft_profile())
    found = drafts()
    assert fmean(one.ratio for one in found) <= LIMIT
    assert max(one.ratio for one in found) < 1


@pytest.mark.slow
def test_the_default_table_is_as_large_as_itself() -> None:
    """Otherwise the comparison would favour one side."""
    plain = EncoderProfile(Format.JPEG, (("Q", 80), ("quant_table", 0)))
    found = drafts(kodak()[:2], [_WIDTH], plain)
    assert [one.ratio for one in found] == pytest.approx([1, 1], abs=0.02)


@pytest.mark.slow
def test_a_score_beyond_the_default_table_is_not_extrapolated() -> None:
    options = tuple(sorted({**dict(draft_profile().options), "Q": 30}.items()))
    with pytest.raises(Unmeasurable, match="scores"):
        drafts(kodak()[:1], [_WIDTH], replace(draft_profile(), options=options))
