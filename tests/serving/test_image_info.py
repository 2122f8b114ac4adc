"""Describing: what is stored is taken, the rest is worked out once, and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from proxy.domain.analysis import (
    ANALYSIS_VERSION,
    Analysis,
    AnalysisResult,
    Colour,
    ContentClass,
    Kind,
    Quality,
)
from proxy.domain.errors import (
    DatabaseUnavailable,
    QueueFull,
    SourceChanged,
    SourceMissing,
    UndecodableSource,
)
from proxy.domain.media import Media, MediaFacts
from proxy.domain.worker_protocol import AnalyseJob, RenderResult, RenditionSet, RenditionSetResult
from proxy.serving.image_info import MAX_DATA_URI, AltTexts, ImageInfoService
from proxy.serving.job_dispatch import JobResult
from proxy.settings import LimitSettings
from tests.web.plans import FACTS, MEDIA

RESULT = AnalysisResult(
    width=40,
    height=30,
    dominant_colours=(Colour("#AABBCC", 60.0), Colour("#112233", 40.0)),
    brand_colours=(),
    quality=Quality(71.6, 70, 70, 70, 70, 70, 70),
    mood_keywords=("calm",),
    kind=Kind("photo", "many colours"),
    content_class=ContentClass("banner", "3.0 times as wide as high"),
    thumbhash="aGFzaA==",
    blurhash="LEHV6nWB2yk8",
    phash="0" * 16,
    phash_mask="0" * 16,
    focus=None,
)
COLUMNS: dict[str, Any] = {
    "dominant_colors": [{"hex": "#010203", "percent": 99.0}],
    "quality_score": 12,
    "mood_keywords": ["solemn"],
    "subject_matter": "a boat on a lake",
    "style_classification": "watercolour",
    "medium_detected": "paper",
    "detected_objects": None,
    "detected_text": None,
    "confidence_score": None,
}
OWN = {
    "thumbhash": "c3RvcmVk",
    "blurhash": "LSTORED",
    "kind": {"name": "graphic"},
    "version": ANALYSIS_VERSION,
}


class Workers:
    """Takes jobs as the workshop does; a tiny picture has as many bytes as there are in ``sizes``.

    The last of these counts for all that follow.
    """

    def __init__(self, *sizes: int) -> None:
        self.sizes = list(sizes or (200,))
        self.jobs: list[RenditionSet | AnalyseJob] = []
        self.failures: list[Exception] = []
        self.open = asyncio.Event()
        self.open.set()
        self.at_once = self.most = 0

    async def run(
        self,
        _media: Media,
        job: RenditionSet | AnalyseJob,
        sink: Callable[[bytes], None] = lambda _: None,
        **_: Any,
    ) -> JobResult[Any]:
        self.jobs.append(job)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        await self.open.wait()
        self.at_once -= 1
        if self.failures:
            raise self.failures.pop(0)
        if isinstance(job, AnalyseJob):
            return JobResult(RESULT, 0.0, 0.0)
        sink(b"x" * (self.sizes.pop(0) if len(self.sizes) > 1 else self.sizes[0]))
        return JobResult(RenditionSetResult((RenderResult(1, 1, 1),)), 0.0, 0.0)

    async def encoded(self, media: Media, job: RenditionSet, *, facts: MediaFacts) -> bytes:
        rendition = bytearray()
        await self.run(media, job, rendition.extend, facts=facts)
        return bytes(rendition)

    def analysed(self) -> int:
        return sum(isinstance(job, AnalyseJob) for job in self.jobs)


@dataclass
class Known:
    """What is stored, or an error where the database is down."""

    columns: Mapping[str, Any] = field(default_factory=lambda: dict(COLUMNS))
    own: Mapping[str, Any] = field(default_factory=lambda: dict(OWN))
    there: bool = True
    asked: int = 0
    down: bool = False

    async def find(self, _media_id: int) -> Analysis | None:
        self.asked += 1
        if self.down:
            raise DatabaseUnavailable("down")
        return Analysis(self.columns, self.own) if self.there else None

    async def find_many(self, media_ids: Collection[int]) -> Mapping[int, Analysis]:
        self.asked += 1
        if self.down:
            raise DatabaseUnavailable("down")
        stored = Analysis(self.columns, self.own)
        return dict.fromkeys(media_ids, stored) if self.there else {}

    async def thumbhashes(self, media_ids: Collection[int]) -> Mapping[int, str]:
        if self.down:
            raise DatabaseUnavailable("down")
        return dict.fromkeys(media_ids, "c3RvcmVk") if self.there else {}


@dataclass
class Texts:
    """The alternative texts of people."""

    texts: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    down: bool = False

    async def find(self, media_id: int) -> dict[str, str]:
        return (await self.find_many([media_id])).get(media_id, {})

    async def find_many(self, media_ids: Collection[int]) -> Mapping[int, dict[str, str]]:
        self.asked += 1
        if self.down:
            raise DatabaseUnavailable("down")
        return {key: dict(self.texts) for key in media_ids} if self.texts else {}


class Facts:
    """Knows the facts of media, unless their source is missing."""

    def __init__(self) -> None:
        self.learned = 0
        self.missing = False

    async def facts(self, media: Media) -> MediaFacts:
        if self.missing:
            raise SourceMissing("gone")
        return media.facts or FACTS

    async def learn(self, _media: Media) -> MediaFacts:
        self.learned += 1
        return replace(FACTS, content_hash="cd" * 32)


@dataclass
class Bench:
    describer: ImageInfoService
    workers: Workers
    known: Known
    facts: Facts
    now: list[float]


def bench(
    workers: Workers | None = None,
    known: Known | None = None,
    at_once: int = 2,
    texts: Texts | None = None,
) -> Bench:
    made = workers or Workers()
    stored = known or Known(there=False)
    facts, now = Facts(), [0.0]
    describer = ImageInfoService(
        dispatcher=cast("Any", made),
        facts=cast("Any", facts),
        analyses=cast("Any", stored),
        alt_texts=cast("Any", texts or Texts()),
        limits=LimitSettings().to_limits(),
        concurrency=at_once,
        slow_s=0.5,
        clock=lambda: now[0],
    )
    return Bench(describer, made, stored, facts, now)


async def test_what_nobody_told_is_none_and_the_rest_comes_from_the_pixels() -> None:
    portrait = await bench().describer.describe(MEDIA)
    assert portrait.pixels.thumbhash == RESULT.thumbhash
    assert portrait.pixels.quality_score == 72
    assert portrait.pixels.dominant_colours[0] == {"hex": "#AABBCC", "percent": 60.0}
    assert (portrait.analysis.alt, portrait.analysis.style, portrait.analysis.medium) == (
        None,
        None,
        None,
    )


async def test_what_is_stored_is_not_analysed_again() -> None:
    at = bench(known=Known())
    portrait = await at.describer.describe(MEDIA)
    assert at.workers.analysed() == 0
    assert portrait.pixels.thumbhash == OWN["thumbhash"]
    assert portrait.pixels.kind == "graphic"
    assert portrait.analysis.alt == "a boat on a lake"
    assert portrait.analysis.style == "watercolour"


async def test_an_analysis_of_another_program_lends_its_words_only() -> None:
    at = bench(known=Known(own={}))
    portrait = await at.describer.describe(MEDIA)
    assert at.workers.analysed() == 1
    assert portrait.pixels.thumbhash == RESULT.thumbhash
    assert portrait.analysis.alt == "a boat on a lake"


def _stored(quality: int, **own: Any) -> Analysis:
    return Analysis({**COLUMNS, "quality_score": quality}, own)


@pytest.mark.parametrize(
    "stored",
    [
        _stored(12, **OWN),
        _stored(12),
        _stored(12, **{**OWN, "version": 1}),
        _stored(12, thumbhash=7, version=ANALYSIS_VERSION),
    ],
    ids=["this version", "another program", "an earlier version", "damaged"],
)
async def test_info_and_the_analysis_have_the_same_values(stored: Analysis) -> None:
    at = bench(known=Known(columns=stored.columns, own=stored.own))
    info = await at.describer.describe(MEDIA)
    shown = (await at.describer.current(MEDIA, stored)).public()
    assert info.pixels.quality_score == shown["quality_score"]
    assert list(info.pixels.dominant_colours) == shown["dominant_colors"]
    assert info.analysis.style == shown["style"]
    for name, value in info.analysis.details.items():
        assert shown.get(name) == value, name
    if isinstance(shown.get("kind"), dict):
        assert info.pixels.kind == shown["kind"]["name"]
    assert at.workers.analysed() <= 1, "both use one analysis"


async def test_values_before_and_after_an_analysis_is_stored_are_its_values() -> None:
    at = bench()
    assert (await at.describer.describe(MEDIA)).pixels.quality_score == 72
    at.known.there = True
    at.describer.forget(MEDIA.id)
    assert (await at.describer.describe(MEDIA)).pixels.quality_score == COLUMNS["quality_score"]


async def test_an_outdated_analysis_is_returned_if_the_pixels_cannot_be_read() -> None:
    at, stored = bench(), _stored(12, **{**OWN, "version": 1})
    at.workers.failures.append(UndecodableSource("cut off"))
    assert await at.describer.current(MEDIA, stored) == stored
    renewed = await at.describer.current(MEDIA, stored)
    assert renewed.columns["quality_score"] == 72


async def test_those_who_ask_at_once_share_the_work_and_later_ones_its_result() -> None:
    at = bench()
    await asyncio.gather(*(at.describer.describe(MEDIA) for _ in range(20)))
    await at.describer.describe(MEDIA)
    assert at.workers.analysed() == 1


async def test_other_bytes_are_looked_at_anew() -> None:
    at = bench()
    await at.describer.describe(MEDIA)
    await at.describer.describe(replace(MEDIA, facts=replace(FACTS, content_hash="ef" * 32)))
    assert at.workers.analysed() == 2


async def test_one_who_leaves_takes_the_work_from_nobody() -> None:
    at = bench()
    at.workers.open.clear()
    first = asyncio.create_task(at.describer.describe(MEDIA))
    second = asyncio.create_task(at.describer.describe(MEDIA))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    at.workers.open.set()
    assert (await second).pixels.thumbhash == RESULT.thumbhash


async def test_no_more_pictures_are_looked_at_than_may_be_at_once() -> None:
    at = bench(at_once=2)
    await asyncio.gather(*(at.describer.describe(replace(MEDIA, id=one)) for one in range(1, 12)))
    assert at.workers.most == 2


async def test_a_slow_image_does_not_block_the_others() -> None:
    class Stuck(Workers):
        async def run(  # type: ignore[override]
            self, media: Media, *arguments: Any, **options: Any
        ) -> JobResult[Any]:
            if media.id == MEDIA.id:
                await asyncio.Future()
            return await super().run(media, *arguments, **options)

    at = bench(Stuck(), at_once=1)
    slow = asyncio.create_task(at.describer.describe(MEDIA))
    others = [replace(MEDIA, id=MEDIA.id + number) for number in range(1, 5)]
    async with asyncio.timeout(5):
        await asyncio.gather(*map(at.describer.describe, others))
    assert not slow.done()
    assert at.workers.most == 1, "the place of the slow image is taken by one other"
    await at.describer.aclose()
    await asyncio.gather(slow, return_exceptions=True)


@pytest.mark.parametrize("sizes", [(200,), (2000, 300), (2000, 2000, 2000, 100)])
async def test_a_tiny_picture_is_made_smaller_until_it_fits(sizes: tuple[int, ...]) -> None:
    at = bench(Workers(*sizes))
    portrait = await at.describer.describe(MEDIA)
    assert len(portrait.pixels.data_uri) <= MAX_DATA_URI
    rendered = [job for job in at.workers.jobs if isinstance(job, RenditionSet)]
    assert len(rendered) == len(sizes)
    widths = [job.outputs[0].geometry.width for job in rendered]
    assert widths == sorted(widths, reverse=True)


async def test_a_picture_that_changed_is_described_by_its_new_facts() -> None:
    at = bench()
    at.workers.failures.append(SourceChanged("other bytes"))
    portrait = await at.describer.describe(MEDIA)
    assert at.facts.learned == 1
    assert portrait.facts.content_hash == "cd" * 32


async def test_a_failure_is_told_to_all_who_wait_and_is_not_kept() -> None:
    at = bench()
    at.workers.failures.append(UndecodableSource("cut off"))
    told = await asyncio.gather(
        *(at.describer.describe(MEDIA) for _ in range(3)), return_exceptions=True
    )
    assert [type(one) for one in told] == [UndecodableSource] * 3
    assert (await at.describer.describe(MEDIA)).pixels.kind == "photo"


async def test_a_missing_source_is_described_by_the_largest_lesser_file() -> None:
    at = bench()
    at.facts.missing = True
    small, large = (
        replace(FACTS, source_path=f"{side}.jpg", width=side, height=side) for side in (30, 90)
    )
    portrait = await at.describer.describe(replace(MEDIA, facts=None, fallbacks=(small, large)))
    assert (portrait.facts, portrait.lasting) == (large, False)


@pytest.mark.parametrize("error", [SourceMissing("gone"), UndecodableSource("cut off")])
async def test_an_original_of_known_facts_that_cannot_be_read_is_described_by_a_lesser_file(
    error: Exception,
) -> None:
    at, lesser = bench(), replace(FACTS, content_hash="ef" * 32, width=90, source_path="90.jpg")
    adopted = replace(MEDIA, fallbacks=(lesser,))
    at.workers.failures.append(error)
    portrait = await at.describer.describe(adopted)
    assert (portrait.facts, portrait.lasting) == (lesser, False)
    at.workers.failures.append(QueueFull("no worker is free"))
    with pytest.raises(QueueFull):
        await at.describer.describe(adopted)
    assert (await at.describer.describe(adopted)).lasting


@pytest.mark.parametrize("down", ["nothing", "analyses", "texts"])
@pytest.mark.parametrize("preloaded", [False, True])
async def test_a_description_without_what_is_stored_does_not_last(
    down: str, *, preloaded: bool
) -> None:
    known, texts = Known(down=down == "analyses"), Texts({"en": "A"}, down=down == "texts")
    describer = bench(known=known, texts=texts).describer
    if preloaded:
        await describer.preload([MEDIA.id])
    lasts = down == "nothing"
    assert (await describer.describe(MEDIA)).lasting is lasts
    assert (await describer.alt_texts(MEDIA.id)).complete is lasts
    known.down = texts.down = False
    # Also from memory.
    for _ in range(2):
        assert (await describer.describe(MEDIA)).lasting
        assert (await describer.alt_texts(MEDIA.id)).complete


@pytest.mark.parametrize("there", [True, False])
async def test_the_analyses_of_many_are_read_by_one_query(*, there: bool) -> None:
    at = bench(known=Known(there=there))
    images = [replace(MEDIA, id=MEDIA.id + number) for number in range(5)]
    for _ in range(2):
        await at.describer.preload([one.id for one in images])
        await asyncio.gather(*map(at.describer.describe, images))
    assert at.known.asked == 1


async def test_with_the_database_down_only_the_words_are_missing() -> None:
    at = bench(known=Known(down=True))
    await at.describer.preload([MEDIA.id])
    portrait = await at.describer.describe(MEDIA)
    assert portrait.pixels.thumbhash == RESULT.thumbhash
    assert portrait.analysis.alt is None
    assert await at.describer.thumbhashes([MEDIA]) == {MEDIA.id: RESULT.thumbhash}


async def test_what_is_stored_is_asked_for_again_after_a_minute_or_a_change() -> None:
    at = bench(known=Known())
    await at.describer.describe(MEDIA)
    await at.describer.describe(MEDIA)
    assert at.known.asked == 1
    at.now[0] = 61.0
    await at.describer.describe(MEDIA)
    at.describer.forget(MEDIA.id)
    await at.describer.describe(MEDIA)
    assert at.known.asked == 3


async def test_thumbhashes_are_those_in_memory_and_those_that_are_stored() -> None:
    at = bench()
    other = replace(MEDIA, id=MEDIA.id + 1, facts=None)
    await at.describer.describe(MEDIA)
    at.known.there = True
    found = await at.describer.thumbhashes([MEDIA, other])
    assert found == {MEDIA.id: RESULT.thumbhash, other.id: "c3RvcmVk"}
    assert at.workers.analysed() == 1


async def test_at_the_end_what_is_under_way_is_cancelled() -> None:
    at = bench()
    at.workers.open.clear()
    asking = asyncio.create_task(at.describer.describe(MEDIA))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await at.describer.aclose()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_texts_of_people_are_read_once_a_minute_or_after_a_change() -> None:
    texts = Texts({"en": "A harbour"})
    at = bench(texts=texts)
    for _ in range(2):
        assert (await at.describer.describe(MEDIA)).alt_texts == {"en": "A harbour"}
    assert texts.asked == 1
    texts.texts["de"] = "Ein Hafen"
    at.describer.forget(MEDIA.id)
    both = AltTexts({"en": "A harbour", "de": "Ein Hafen"}, None)
    assert await at.describer.alt_texts(MEDIA.id) == both
    assert texts.asked == 2
    at.now[0] += 61
    await at.describer.describe(MEDIA)
    assert texts.asked == 3


async def test_texts_of_a_list_are_read_by_one_query() -> None:
    texts = Texts({"en": "A harbour"})
    at = bench(texts=texts)
    ids = [MEDIA.id, MEDIA.id + 1]
    await at.describer.preload(ids)
    for media_id in ids:
        found = await at.describer.alt_texts(media_id)
        assert found.by_language == {"en": "A harbour"}
    assert texts.asked == 1


async def test_without_the_database_an_image_is_described_without_texts() -> None:
    texts = Texts({"en": "A harbour"}, down=True)
    at = bench(texts=texts)
    assert (await at.describer.describe(MEDIA)).alt_texts == {}
    texts.down = False
    assert (await at.describer.describe(MEDIA)).alt_texts == {"en": "A harbour"}


@dataclass
class Held:
    """A table whose rows change after a query has read them."""

    value: Any
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def find(self, media_id: int) -> Any:
        return (await self.find_many([media_id])).get(media_id)

    async def find_many(self, media_ids: Collection[int]) -> Mapping[int, Any]:
        found = dict.fromkeys(media_ids, self.value)
        await self.gate.wait()
        return found


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("kind", ["texts", "analysis"])
async def test_what_changes_while_it_is_read_is_not_cached(kind: str, *, many: bool) -> None:
    old, new = {"en": "old"}, {"en": "new"}
    analyses = [Analysis({**COLUMNS, "subject_matter": one}, OWN) for one in ("old", "new")]
    held = Held(old if kind == "texts" else analyses[0])
    if kind == "texts":
        describer = bench(texts=cast("Any", held)).describer
    else:
        describer = bench(known=cast("Any", held)).describer
    ids = [MEDIA.id, MEDIA.id + 1]
    read = describer.preload(ids) if many else describer.alt_texts(MEDIA.id)
    reading = asyncio.create_task(cast("Any", read))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    held.value = new if kind == "texts" else analyses[1]
    describer.forget(MEDIA.id)
    held.gate.set()
    await reading
    texts, described, _ = await describer.alt_texts(MEDIA.id)
    assert (texts if kind == "texts" else described) == (new if kind == "texts" else "new")
    if many:
        # The others of the list are cached.
        cached = describer._texts if kind == "texts" else describer._stored
        assert cached[MEDIA.id + 1] == (old if kind == "texts" else analyses[0])
    assert not describer._reads
