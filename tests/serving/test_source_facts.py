"""Source facts: when a source is read, what is stored, and how concurrent reads are shared."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from proxy.domain.errors import SourceMissing
from proxy.domain.media import Focus, Media, MediaFacts, ProbeResult
from proxy.domain.worker_protocol import ProbeJob
from proxy.serving.job_dispatch import JobResult
from proxy.serving.source_facts import SourceFactsService, to_facts
from proxy.settings import Settings
from tests.support.waiting import eventually
from tests.web.plans import FACTS, MEDIA

UNKNOWN = replace(MEDIA, facts=None)
PROBED = ProbeResult(
    content_hash="cd" * 32,
    byte_size=99,
    source_type="png",
    width=30,
    height=20,
    has_alpha=True,
    pages=2,
    flat_background=True,
    focus=Focus(0.25, 0.75),
)


class Database:
    """Records the facts that are stored."""

    def __init__(self) -> None:
        self.saved: list[tuple[int, MediaFacts]] = []

    async def save_facts(self, media_id: int, facts: MediaFacts) -> None:
        self.saved.append((media_id, facts))


class Dispatcher:
    """Probes when the test lets it, and records what it was given."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Media, ProbeJob]] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def run(self, media: Media, job: ProbeJob) -> JobResult[ProbeResult]:
        self.jobs.append((media, job))
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return JobResult(PROBED, 0, 0)


LIMITS = Settings().limits.to_limits()


class Bench:
    """The service between a database and a dispatcher that the test controls."""

    def __init__(self) -> None:
        self.database = Database()
        self.dispatcher = Dispatcher()
        collaborators: dict[str, Any] = {"database": self.database, "dispatcher": self.dispatcher}
        self.service = SourceFactsService(limits=LIMITS, **collaborators)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_known_facts_are_returned_without_a_read(bench: Bench) -> None:
    assert await bench.service.facts(MEDIA) is FACTS
    assert bench.dispatcher.jobs == []


@pytest.mark.parametrize(
    "media",
    [
        UNKNOWN,
        replace(MEDIA, bulk_path="bulk/other.jpg"),
        replace(MEDIA, facts=replace(FACTS, row_version="an older row")),
    ],
    ids=["no facts", "facts of another file", "facts of an older row"],
)
async def test_unknown_and_stale_facts_are_read_and_stored(bench: Bench, media: Media) -> None:
    bench.dispatcher.go.set()
    facts = await bench.service.facts(media)
    assert bench.dispatcher.jobs == [(media, ProbeJob(LIMITS))]
    assert facts == to_facts(PROBED, media.source_path or "", row_version=media.row_version)
    assert bench.database.saved == [(media.id, facts)]
    assert replace(media, facts=facts).known_facts == facts


async def test_facts_that_are_known_are_read_anew_on_request(bench: Bench) -> None:
    bench.dispatcher.go.set()
    assert (await bench.service.learn(MEDIA)).content_hash == PROBED.content_hash
    assert len(bench.database.saved) == 1


async def test_simultaneous_reads_of_an_image_are_one(bench: Bench) -> None:
    reads = [asyncio.create_task(bench.service.learn(UNKNOWN)) for _ in range(3)]
    other = asyncio.create_task(bench.service.learn(replace(UNKNOWN, id=790)))
    await eventually(lambda: len(bench.dispatcher.jobs) == 2)
    bench.dispatcher.go.set()
    first, second, third = await asyncio.gather(*reads)
    assert first is second is third
    await other
    assert [media.id for media, _ in bench.dispatcher.jobs] == [MEDIA.id, 790]


async def test_a_read_goes_on_if_the_request_that_started_it_is_cancelled(bench: Bench) -> None:
    first = asyncio.create_task(bench.service.learn(UNKNOWN))
    second = asyncio.create_task(bench.service.learn(UNKNOWN))
    await eventually(lambda: bench.dispatcher.jobs)
    first.cancel()
    bench.dispatcher.go.set()
    assert (await second).content_hash == PROBED.content_hash
    assert len(bench.dispatcher.jobs) == 1


async def test_a_source_that_cannot_be_read_stores_nothing_and_is_read_again_by_the_next(
    bench: Bench,
) -> None:
    bench.dispatcher.go.set()
    bench.dispatcher.error = SourceMissing("gone")
    with pytest.raises(SourceMissing):
        await bench.service.facts(UNKNOWN)
    assert bench.database.saved == []
    bench.dispatcher.error = None
    assert (await bench.service.facts(UNKNOWN)).content_hash == PROBED.content_hash


async def test_closing_cancels_running_reads(bench: Bench) -> None:
    read = asyncio.create_task(bench.service.learn(UNKNOWN))
    await eventually(lambda: bench.dispatcher.jobs)
    await bench.service.aclose()
    with pytest.raises(asyncio.CancelledError):
        await read
    assert bench.database.saved == []


def test_all_that_a_probe_finds_is_stored() -> None:
    facts = to_facts(PROBED, "bulk/a.png", row_version="v")
    assert {name: getattr(facts, name) for name in ProbeResult.__dataclass_fields__} == {
        name: getattr(PROBED, name) for name in ProbeResult.__dataclass_fields__
    }
    assert (facts.source_path, facts.row_version) == ("bulk/a.png", "v")
