"""The extraction as routes, jobs and sockets use it: admission, cache, tiers and a lazy start."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.domain.errors import (
    BodyTooLarge,
    ConfigurationError,
    CreditsInsufficient,
    EmptyFile,
    EngineStartFailed,
    ExtractionFailed,
    ExtractionQueueFull,
    ExtractionTimeout,
    FileTooLargeForTier,
    QueueFull,
    ShuttingDown,
    TierInsufficient,
    UnknownImageFormat,
)
from proxy.metadata.extraction import IDLE_STATISTICS, Extraction, ExtractOptions, Tier
from proxy.metadata.extractor import COUNTS, CacheKey, Extractor
from proxy.metadata.formats import DETECT_BYTES
from proxy.metadata.start import open_metadata
from proxy.metadata.temp_folder import TempFolder
from proxy.settings import MetadataSettings, WorkerSettings
from tests.metadata.engines import BMP, JPEG, Engines, Opener, chunks, extractor_of, result
from tests.metadata.files import jpeg, require_exiftool
from tests.support.waiting import eventually

LONG_S = 600.0


class Cache:
    def __init__(self) -> None:
        self.entries: dict[CacheKey, Extraction] = {}

    async def get(self, key: CacheKey) -> Extraction | None:
        return self.entries.get(key)

    async def put(self, key: CacheKey, extraction: Extraction) -> None:
        self.entries[key] = extraction


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    with TempFolder(tmp_path / "metaextract") as folder:
        yield Engines(folder)


async def extract(
    extractor: Extractor, content: bytes = JPEG, *, tier: Tier = Tier.ENTERPRISE, **options: Any
) -> Extraction:
    async with extractor.receive(chunks(content), tier=tier) as file:
        return await extractor.extract(file, ExtractOptions("a.jpg", tier=tier, **options))


def left(engines: Engines) -> list[str]:
    return [path.name for path in engines.folder.path.iterdir()]


async def test_the_engines_start_once_with_the_first_files_and_end_with_the_extractor(
    engines: Engines,
) -> None:
    opener = Opener(engines)
    extractor = extractor_of(engines, opener=opener)
    assert (extractor.service, opener.opened) == (None, 0)
    await asyncio.gather(*(extract(extractor) for _ in range(5)))
    assert (opener.opened, opener.closed) == (1, 0)
    assert extractor.statistics()["engines_up"] == 1
    await extractor.aclose()
    assert (extractor.service, opener.closed) == (None, 1)


async def test_a_start_that_failed_is_tried_again_after_a_moment(engines: Engines) -> None:
    now = 100.0
    opener = Opener(engines)
    opener.faults = [ConfigurationError(["no worker starts"])]
    extractor = extractor_of(engines, opener=opener, clock=lambda: now)
    for _ in range(2):
        with pytest.raises(EngineStartFailed) as error:
            await extract(extractor)
    assert (error.value.status, error.value.code) == (500, "SPAWN_FAILED")
    assert "no worker" not in error.value.detail
    assert opener.opened == 0
    now += 60
    await extract(extractor)
    assert opener.opened == 1
    assert extractor.statistics()["failed_starts"] == 1
    await extractor.aclose()


async def test_a_caller_that_leaves_does_not_end_the_start_of_others(engines: Engines) -> None:
    opener = Opener(engines)
    extractor = extractor_of(engines, opener=opener)
    first = asyncio.create_task(extractor.started())
    second = asyncio.create_task(extractor.started())
    await asyncio.sleep(0)
    first.cancel()
    assert await second is cast("object", engines)
    await extractor.aclose()


async def test_a_burst_larger_than_the_queue_is_extracted_completely(engines: Engines) -> None:
    inside = most = 0

    async def work() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1

    engines.work = work
    extractor = extractor_of(engines, settings={"queue": 4}, processes=2)

    async def upload() -> Extraction:
        with extractor.admitted():
            return await extract(extractor)

    found = await asyncio.gather(*(upload() for _ in range(10)))
    assert len(found) == engines.extracted == 10
    assert most <= 6, "the queue of the engines is bounded"
    await extractor.aclose()


async def test_an_upload_above_twice_the_queue_is_refused_before_it_is_read(
    engines: Engines,
) -> None:
    extractor = extractor_of(engines, settings={"queue": 1}, processes=1)
    with extractor.admitted(), extractor.admitted(), extractor.admitted():
        with pytest.raises(ExtractionQueueFull) as error, extractor.admitted():
            pytest.fail("it was admitted")
        assert (error.value.status, error.value.code) == (429, "QUEUE_FULL")
        assert error.value.retry_after_s
        assert extractor.statistics()["uploads"] == 3
    with extractor.admitted():
        assert extractor.statistics()["uploads"] == 1
    assert extractor.statistics()["rejected_queue_full"] == 1


async def test_a_full_queue_of_the_engines_has_the_status_of_the_routes(engines: Engines) -> None:
    async def refuse() -> None:
        raise QueueFull("too many images are waiting")

    engines.work = refuse
    extractor = extractor_of(engines)
    with pytest.raises(ExtractionQueueFull):
        await extract(extractor)
    await extractor.aclose()


async def test_a_stopping_server_admits_nothing_new_and_ends_what_it_has(engines: Engines) -> None:
    extractor = extractor_of(engines)
    with extractor.admitted():
        extractor.drain()
        with pytest.raises(ShuttingDown) as error, extractor.admitted():
            pytest.fail("it was admitted")
        assert (error.value.status, error.value.code) == (503, "SHUTTING_DOWN")
        assert await extract(extractor)
    await extractor.aclose()


async def test_the_time_limit_includes_the_wait_for_a_place(engines: Engines) -> None:
    settings = {"queue": 0, "timeout_s": 0.1}
    never_free = extractor_of(engines, settings=settings, processes=0)
    with pytest.raises(ExtractionTimeout) as error:
        await extract(never_free)
    assert (error.value.status, error.value.code) == (504, "TIMEOUT")
    assert (engines.extracted, engines.late) == (0, 1)
    assert left(engines) == []
    await never_free.aclose()


@pytest.mark.slow
async def test_an_extraction_over_the_time_limit_is_counted(tmp_path: Path) -> None:
    require_exiftool()
    values = {"temp_root": str(tmp_path / "metaextract"), "engines": 1, "nice": 0, "timeout_s": 3}
    settings = MetadataSettings.model_validate(values)
    extractor = Extractor(settings, lambda: open_metadata(settings, WorkerSettings()), processes=1)
    os.kill((await extractor.started()).engine_pids[0], signal.SIGSTOP)
    with pytest.raises(ExtractionTimeout):
        await extract(extractor, jpeg())
    figures = extractor.statistics()
    await extractor.aclose()
    assert figures["extractions_timeout"] == 1


async def test_a_second_extraction_of_the_same_content_comes_from_the_cache(
    engines: Engines,
) -> None:
    cache = Cache()
    extractor = extractor_of(engines, cache=cache)
    first, second = [await extract(extractor) for _ in range(2)]
    assert engines.extracted == 1
    assert first.metadata == second.metadata
    assert [one.processing_insights["cached"] for one in (first, second)] == [False, True]
    [key] = cache.entries
    assert key.name == f"metadata:{key.sha256}"
    await extract(extractor, advanced=True)
    await extract(extractor, JPEG + b"x")
    assert engines.extracted == 3
    assert extractor.statistics()["extracted"] == 3
    assert extractor.statistics()["cached"] == 1
    await extractor.aclose()


async def test_the_cache_has_the_complete_extraction_and_each_tier_its_part(
    engines: Engines,
) -> None:
    extractor = extractor_of(engines, cache=Cache())
    lowest = await extract(extractor, tier=Tier.FREE)
    highest = await extract(extractor, tier=Tier.ENTERPRISE)
    assert engines.extracted == 1
    assert set(lowest.metadata["groups"]) == {"IFD0"}
    assert lowest.metadata["withheld"]["groups"] == ["Canon"]
    assert set(highest.metadata["groups"]) == {"IFD0", "Canon"}
    await extractor.aclose()


async def test_a_fallback_is_cached_only_if_there_is_no_better_engine(engines: Engines) -> None:
    engines.found = result(fallback=True)
    cache = Cache()
    extractor = extractor_of(engines, cache=cache)
    await extract(extractor)
    assert not cache.entries
    engines.missing = "exiftool is not installed"
    await extract(extractor)
    assert cache.entries
    await extractor.aclose()


async def test_an_extraction_checks_the_tier_again(engines: Engines) -> None:
    settings = {"max_bytes_free": 1024}
    extractor = extractor_of(engines, settings=settings)
    async with extractor.receive(chunks(BMP)) as file:
        with pytest.raises(TierInsufficient):
            await extractor.extract(file, ExtractOptions(tier=Tier.FREE))
    async with extractor.receive(chunks(JPEG + bytes(1024))) as file:
        with pytest.raises(FileTooLargeForTier):
            await extractor.extract(file, ExtractOptions(tier=Tier.FREE))
    async with extractor.receive(chunks(JPEG)) as file:
        with pytest.raises(TierInsufficient):
            await extractor.extract(file, ExtractOptions(tier=Tier.PROFESSIONAL, advanced=True))
    assert engines.extracted == 0
    await extractor.aclose()


async def test_what_cannot_be_extracted_is_refused_while_it_arrives(engines: Engines) -> None:
    read = 0

    async def endless(head: bytes) -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield head + bytes(DETECT_BYTES)

    limits = {f"max_bytes_{tier}": 4 * DETECT_BYTES for tier in Tier}
    extractor = extractor_of(engines, settings={**limits, "max_bytes_free": 2 * DETECT_BYTES})
    for head, tier, kind in (
        (b"plain text", Tier.ENTERPRISE, UnknownImageFormat),
        (BMP, Tier.FREE, TierInsufficient),
        (JPEG, Tier.FREE, FileTooLargeForTier),
        (JPEG, Tier.ENTERPRISE, BodyTooLarge),
    ):
        with pytest.raises(kind):
            async with extractor.receive(endless(head), tier=tier):
                pytest.fail("it was accepted")
        assert left(engines) == []
    assert read < 12
    with pytest.raises(EmptyFile):
        async with extractor.receive(chunks()):
            pytest.fail("it was accepted")
    await extractor.aclose()


async def test_the_declared_size_decides_on_the_tier_that_is_named(engines: Engines) -> None:
    extractor = extractor_of(engines, settings={"max_bytes_free": 1024})
    content = chunks(JPEG, bytes(2000))
    with pytest.raises(FileTooLargeForTier) as error:
        async with extractor.receive(content, tier=Tier.FREE, expected_bytes=200 * 1024 * 1024):
            pytest.fail("it was accepted")
    assert error.value.needs == "forensic"
    await extractor.aclose()


async def test_a_user_without_credits_is_asked_to_pay(engines: Engines) -> None:
    charged: list[tuple[int | None, str]] = []

    class Broke:
        async def charge(self, user: int | None, operation: str) -> bool:
            charged.append((user, operation))
            return False

    with pytest.raises(CreditsInsufficient) as error:
        await extractor_of(engines, credits=Broke()).charge(7, "extract")
    assert (error.value.status, error.value.code) == (402, "CREDITS_INSUFFICIENT")
    assert charged == [(7, "extract")]
    await extractor_of(engines).charge(7, "extract")  # free by default


async def test_a_file_is_deleted_whatever_its_extraction_raises(engines: Engines) -> None:
    async def fail() -> None:
        raise ExtractionFailed("No engine could read the file.")

    engines.work = fail
    extractor = extractor_of(engines)
    with pytest.raises(ExtractionFailed):
        await extract(extractor)
    assert left(engines) == []
    await extractor.aclose()


def test_all_statistics_are_present_before_the_engines_start(engines: Engines) -> None:
    statistics = extractor_of(engines).statistics()
    assert set(statistics) == {"uploads", *COUNTS, *IDLE_STATISTICS}
    assert set(statistics.values()) == {0}


@pytest.mark.slow
async def test_real_engines_extract_the_first_file(tmp_path: Path) -> None:
    settings = MetadataSettings(temp_root=str(tmp_path / "metaextract"), engines=1, nice=0)
    extractor = Extractor(settings, lambda: open_metadata(settings, WorkerSettings()), processes=1)
    async with extractor.receive(chunks(jpeg())) as file:
        found = await extractor.extract(file, ExtractOptions("a.jpg", tier=Tier.FREE))
    assert found.metadata["exif"]["model"] == "Canon EOS R5"
    service = extractor.service
    assert service is not None
    names = ("photo.jpg", "other.JPG", "comfyui_1.jpg", "photo.png", "photo")
    variants = [service.variant(ExtractOptions(name)) for name in names]
    assert variants[0] == variants[1], "the rest of a name changes nothing"
    assert len(set(variants)) == 4
    await extractor.aclose()
    await eventually(lambda: not list((tmp_path / "metaextract").iterdir()))
