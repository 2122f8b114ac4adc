"""Source facts: checks of new files, and facts that are read when they are needed."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.errors import (
    FILE_FAULTS,
    DecoderMissing,
    SourceMissing,
    SourceTooLarge,
    UndecodableSource,
    UnsupportedSource,
)
from proxy.domain.media import Focus, Media, MediaFacts, ProbeResult
from proxy.domain.worker_protocol import ProbeJob
from proxy.serving.job_dispatch import JobResult
from proxy.serving.source_facts import SourceChecker, SourceFactsService, to_facts
from proxy.settings import LimitSettings, Settings
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

        self.since: list[float] = []
        self.time = 1000.0
        self.changes = 0

    def last_invalidation(self, media_id: int) -> int:
        return self.changes if media_id == UNKNOWN.id else 0

    async def now(self) -> float:
        return self.time

    async def save_facts(self, media_id: int, facts: MediaFacts, *, since: float) -> bool:
        self.saved.append((media_id, facts))
        self.since.append(since)
        return True


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


async def test_facts_are_stored_with_the_time_before_the_source_was_opened(bench: Bench) -> None:
    read = asyncio.create_task(bench.service.learn(UNKNOWN))
    await eventually(lambda: bench.dispatcher.jobs)
    bench.database.time += 1
    bench.dispatcher.go.set()
    await read
    assert bench.database.since == [1000.0]


async def test_what_was_read_before_a_purge_is_not_stored_and_not_joined_after_it(
    bench: Bench,
) -> None:
    before = asyncio.create_task(bench.service.learn(UNKNOWN))
    await eventually(lambda: bench.dispatcher.jobs)
    bench.database.changes += 1
    after = asyncio.create_task(bench.service.learn(UNKNOWN))
    await eventually(lambda: len(bench.dispatcher.jobs) == 2)
    bench.dispatcher.go.set()
    assert (await before).content_hash == PROBED.content_hash
    await after
    assert len(bench.database.saved) == 1


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


PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
CHECKED = ProbeResult("ab" * 32, 108, "png", 1, 1, False, 1, False, None)  # noqa: FBT003


class Jobs:
    """A dispatcher that decodes everything, or nothing."""

    def __init__(self) -> None:
        self.jobs: list[tuple[int, ProbeJob]] = []
        self.error: Exception | None = None

    async def run_on(self, descriptor: int, job: ProbeJob) -> JobResult[ProbeResult]:
        self.jobs.append((descriptor, job))
        if self.error is not None:
            raise self.error
        return JobResult(CHECKED, 0, 0)


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def checker(jobs: Jobs) -> SourceChecker:
    limits = LimitSettings(source_types=("png",)).to_limits()
    parts: dict[str, Any] = {"dispatcher": jobs, "limits": limits}
    return SourceChecker(**parts, accepted=("png", "heic", "bmp"), max_bytes=1000)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


async def test_an_image_is_decoded_strictly_and_its_facts_returned(
    checker: SourceChecker, jobs: Jobs, file: int
) -> None:
    os.write(file, PNG)
    assert await checker.check(file) == CHECKED
    ((descriptor, job),) = jobs.jobs
    assert (descriptor, job.strict) == (file, True)


async def test_a_damaged_image_is_refused(checker: SourceChecker, jobs: Jobs, file: int) -> None:
    os.write(file, PNG)
    jobs.error = UndecodableSource("cut off")
    with pytest.raises(UndecodableSource):
        await checker.check(file)


@pytest.mark.parametrize("content", [b"", b"text", b"GIF89a" + bytes(100)])
async def test_other_types_are_refused_without_a_worker(
    checker: SourceChecker, jobs: Jobs, file: int, content: bytes
) -> None:
    os.write(file, content)
    with pytest.raises(UnsupportedSource, match="accepted are png"):
        await checker.check(file)
    assert jobs.jobs == []


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"is heic; its decoder \(pi-heif\)"),
        (b"BM" + (60).to_bytes(4, "little") + bytes(54), r"is bmp; its decoder \(Pillow\)"),
    ],
)
async def test_a_decoder_that_is_missing_here_is_no_fault_of_the_file(
    checker: SourceChecker, jobs: Jobs, file: int, content: bytes, detail: str
) -> None:
    os.write(file, content)
    with pytest.raises(DecoderMissing, match=detail) as raised:
        await checker.check(file)
    assert not isinstance(raised.value, FILE_FAULTS)
    assert jobs.jobs == []


async def test_a_large_file_is_refused_without_a_worker(
    checker: SourceChecker, jobs: Jobs, file: int
) -> None:
    os.write(file, PNG + bytes(1000))
    with pytest.raises(SourceTooLarge, match="1000 are allowed"):
        await checker.check(file)
    assert jobs.jobs == []


async def test_the_digest_is_that_of_the_whole_file(checker: SourceChecker, file: int) -> None:
    content = os.urandom(3 * 1024 * 1024 + 7)
    os.write(file, content)
    assert await checker.digest(file) == hashlib.sha256(content).hexdigest()
