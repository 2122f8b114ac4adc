"""Metadata of media: read from their originals, and stored."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.domain.errors import (
    ExtractionQueueFull,
    MediaNotFound,
    SourceMissing,
    SourceUnavailable,
    TierInsufficient,
)
from proxy.domain.media import DataType, Media
from proxy.metadata.extraction import Extraction, ExtractOptions, Progress, Tier
from proxy.metadata.extractor import Extractor
from proxy.metadata.media_extraction import MediaExtractor
from proxy.metadata.service import MetadataService
from proxy.metadata.temp_folder import ReceivedFile, TempFolder
from proxy.settings import DatabaseSettings, MetadataSettings, StorageSettings
from proxy.storage.database import NewMedia
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.metadata_store import MetadataFilter, MetadataStore
from proxy.storage.database.schema import upgrade
from proxy.storage.originals import local_store
from proxy.storage.originals.local_store import LocalOriginals
from tests.support.extractions import metadata_of
from tests.web.plans import FACTS, MEDIA

PNG = b"\x89PNG\r\n\x1a\n" + bytes(3 * 1024 * 1024)
METADATA = metadata_of({"Description": "a fox --v 6.1 --q 2"})


class Engines:
    """Stands for the service; keeps what it was given."""

    missing = ""

    def __init__(self, folder: TempFolder) -> None:
        self._folder = folder
        self.content: list[bytes] = []
        self.options: list[ExtractOptions] = []

    def new_file(self, *, max_bytes: int) -> ReceivedFile:
        return self._folder.new_file(max_bytes=max_bytes)

    def variant(self, _options: ExtractOptions) -> str:
        return ""

    async def extract(
        self, file: ReceivedFile, options: ExtractOptions, *, progress: Progress
    ) -> Extraction:
        self.content.append(os.pread(file.descriptor, file.byte_size + 1, 0))
        self.options.append(options)
        progress(100, "complete")
        insights = {"fallback_extraction": False}
        return Extraction(METADATA, {}, insights)


class Bench:
    """A library with one medium, whose files the test writes."""

    def __init__(self, root: Path, engines: Engines, repository: SqlMediaRepository) -> None:
        self.root = root
        self.engines = engines
        self.repository = repository
        self.store = MetadataStore(reader=repository, writer=repository)
        self.originals = LocalOriginals(root, StorageSettings())
        self.opened = 0

    def extractor(self, **settings: Any) -> MediaExtractor:
        @asynccontextmanager
        async def open_service() -> AsyncIterator[MetadataService]:
            self.opened += 1
            yield cast("MetadataService", self.engines)

        section = MetadataSettings.model_validate(settings)
        extractor = Extractor(section, open_service, processes=1)
        return MediaExtractor(extractor, self.originals, self.store)

    async def medium(self, **paths: str | None) -> Media:
        new = NewMedia(
            user_id=42,
            data_type=DataType.PRODUCT,
            original_name="Red Fox.png",
            bulk_path=paths.get("bulk_path"),
            library_path=paths.get("library_path"),
        )
        return await self.find(await self.repository.insert(new, FACTS))

    async def find(self, media_id: int) -> Media:
        media = await self.repository.find(media_id)
        assert media is not None
        return media

    def write(self, path: str, content: bytes) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(content)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    url, settings = f"sqlite+aiosqlite:///{tmp_path / 'media.db'}", DatabaseSettings()
    await upgrade(url, settings)
    async with SqlMediaRepository(url, settings) as repository:
        with TempFolder(tmp_path / "metaextract") as folder:
            bench = Bench(tmp_path / "originals", Engines(folder), repository)
            bench.root.mkdir()
            yield bench
            assert [*folder.path.iterdir()] == []
        await bench.originals.aclose()


async def test_the_original_is_read_and_its_metadata_stored_with_tags(bench: Bench) -> None:
    media = await bench.medium(bulk_path="bulk/a.png", library_path="library/a.jpg")
    bench.write("bulk/a.png", PNG)
    bench.write("library/a.jpg", PNG[:100])
    reported: list[int] = []
    extractor = bench.extractor()
    await extractor.extract(media, progress=lambda percent, _: reported.append(percent))
    await extractor.store(media)
    assert bench.engines.content == [PNG, PNG]
    assert bench.engines.options[0].file_name == "Red Fox.png"
    assert reported == [10, 100]
    found = await bench.store.search(MetadataFilter(tags=["high-quality"]), limit=2)
    assert [one.media_id for one in found.images] == [media.id]


async def test_a_processed_file_is_not_read_instead_of_a_missing_original(bench: Bench) -> None:
    """It has no metadata any more: the result would say that nothing was found."""
    media = await bench.medium(bulk_path="bulk/a.png", library_path="library/a.jpg")
    bench.write("library/a.jpg", PNG)
    with pytest.raises(SourceMissing):
        await bench.extractor().store(media)
    assert await bench.store.find(media.id) is None
    assert bench.opened == 0


async def test_the_only_file_of_another_program_is_read(bench: Bench) -> None:
    media = replace(await bench.medium(library_path="a.png"), original_name=None)
    bench.write("a.png", PNG)
    await bench.extractor().store(media)
    assert bench.engines.content == [PNG]
    assert bench.engines.options[0].file_name == "a.png"


async def test_nothing_is_stored_for_a_medium_that_was_deleted_meanwhile(bench: Bench) -> None:
    bench.write("bulk/a.png", PNG)
    with pytest.raises(MediaNotFound):
        await bench.extractor().store(replace(MEDIA, id=99, bulk_path="bulk/a.png"))


async def test_a_medium_without_a_file_has_no_metadata(bench: Bench) -> None:
    with pytest.raises(SourceMissing, match="no file"):
        await bench.extractor().extract(replace(MEDIA, bulk_path=None))


async def test_a_read_error_is_one_of_the_storage(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = await bench.medium(bulk_path="bulk/a.png")
    bench.write("bulk/a.png", PNG)
    opened = await bench.originals.open("bulk/a.png")
    os.close(opened.descriptor)
    broken = local_store.OpenSource(os.open(bench.root / "bulk/a.png", os.O_WRONLY), 7)

    async def open_broken(_path: str) -> local_store.OpenSource:
        return broken

    monkeypatch.setattr(bench.originals, "open", open_broken)
    with pytest.raises(SourceUnavailable):
        await bench.extractor().extract(media)


async def test_the_tier_of_a_caller_is_checked(bench: Bench) -> None:
    media = await bench.medium(bulk_path="bulk/a.png")
    bench.write("bulk/a.png", PNG)
    extractor = bench.extractor(max_bytes_free=1024 * 1024)
    with pytest.raises(TierInsufficient):
        await extractor.extract(media, tier=Tier.FREE)


async def test_media_share_the_limits_of_uploads(bench: Bench) -> None:
    media = await bench.medium(bulk_path="bulk/a.png")
    bench.write("bulk/a.png", PNG)
    extractor = bench.extractor(queue=0)
    with extractor.extractor.admitted(), pytest.raises(ExtractionQueueFull):
        await extractor.extract(media)
