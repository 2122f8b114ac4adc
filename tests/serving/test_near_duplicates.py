"""Near duplicates: which are found, in which order, and at which cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from proxy.domain.analysis import ANALYSIS_VERSION, Analysis
from proxy.domain.perceptual_hash import PerceptualHash
from proxy.serving import near_duplicates
from proxy.serving.near_duplicates import NearDuplicateSearch
from tests.serving.test_image_info import COLUMNS, RESULT
from tests.web.plans import MEDIA

OWN = PerceptualHash(0xB23F_0C65_9D1A_47E8, 2**63 - 1)
OTHER = PerceptualHash(OWN.bits ^ 0x5A5A_5A5A_5A5A_5A5A, OWN.mask)


class Stored:
    """The hashes of a library; the image itself has the id of `MEDIA`."""

    def __init__(self, hashes: Mapping[int, PerceptualHash | None]) -> None:
        self.hashes_by_id: dict[int, PerceptualHash | None] = {MEDIA.id: OWN, **hashes}
        self.pages = 0

    async def find(self, media_id: int) -> Analysis | None:
        known = self.hashes_by_id[media_id]
        if known is None:
            return None
        bits, mask = known.texts()
        return Analysis(COLUMNS, {"phash": bits, "phash_mask": mask, "version": ANALYSIS_VERSION})

    async def hashes(
        self, *, before: int, limit: int
    ) -> Sequence[tuple[int, PerceptualHash | None]]:
        self.pages += 1
        ids = sorted((one for one in self.hashes_by_id if one < before), reverse=True)
        return [(one, self.hashes_by_id[one]) for one in ids[:limit]]


class Describer:
    """Analyses the pixels of the image."""

    def __init__(self) -> None:
        self.analysed = 0

    async def result(self, _media: object) -> object:
        self.analysed += 1
        bits, mask = OWN.texts()
        return replace(RESULT, phash=bits, phash_mask=mask)


def search(stored: Stored, describer: Describer | None = None) -> NearDuplicateSearch:
    return NearDuplicateSearch(cast("Any", stored), cast("Any", describer or Describer()))


async def test_copies_are_found_nearest_first_with_what_was_done_to_them() -> None:
    turned = list(OWN.variants())
    near = PerceptualHash(OWN.bits ^ 0b111, OWN.mask)
    stored = Stored({901: OTHER, 902: turned[1], 903: near, 904: turned[5], 905: None})
    found = await search(stored).find(MEDIA)
    assert [(one.id, one.transform) for one in found.near_duplicates] == [
        (902, "mirrored"),
        (904, "rotated_90"),
        (903, "none"),
    ]
    assert (found.compared, found.skipped, found.next_before) == (4, 1, None)


async def test_an_image_without_a_stored_hash_is_analysed_once() -> None:
    stored, describer = Stored({902: OWN}), Describer()
    stored.hashes_by_id[MEDIA.id] = None
    found = await search(stored, describer).find(MEDIA)
    assert [one.id for one in found.near_duplicates] == [902]
    assert describer.analysed == 1


async def test_a_search_compares_a_limited_number_and_can_be_continued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(near_duplicates, "MAX_COMPARED", 40)
    monkeypatch.setattr(near_duplicates, "_PAGE", 20)
    stored = Stored(dict.fromkeys(range(1000, 1100), OWN))
    first = await search(stored).find(MEDIA)
    assert (first.compared, stored.pages) == (40, 2)
    assert first.next_before == 1060
    second = await search(stored).find(MEDIA, before=1060)
    third = await search(stored).find(MEDIA, before=second.next_before or 0)
    assert (second.compared, third.compared, third.next_before) == (40, 20, None)


async def test_no_more_are_listed_than_the_limit() -> None:
    stored = Stored(dict.fromkeys(range(1000, 1200), OWN))
    found = await search(stored).find(MEDIA)
    assert len(found.near_duplicates) == near_duplicates.MAX_FOUND


async def test_an_image_without_structure_has_no_near_duplicates() -> None:
    flat = PerceptualHash(0, 0)
    stored = Stored({902: flat, 903: OWN})
    stored.hashes_by_id[MEDIA.id] = flat
    assert (await search(stored).find(MEDIA)).near_duplicates == []
