"""What images say about themselves is stored, found and searched, on every database."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from proxy.domain.errors import RowRejected
from proxy.domain.media import MediaFacts
from proxy.domain.variant import PurgeEntry
from proxy.metadata.container.walk import walk
from proxy.metadata.media_tags import tags_of
from proxy.metadata.report import report
from proxy.metadata.tags import Cleaner
from proxy.settings import DatabaseSettings
from proxy.storage.database import NewMedia, metadata_store
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.metadata_store import (
    MetadataFilter,
    MetadataStore,
    StoredMetadata,
    canonical_tag,
)
from proxy.storage.database.metadata_tables import MAX_TAG
from proxy.storage.database.purge_table import PurgeTable
from tests.storage.database.backends import Backend
from tests.support.containers import png_with_texts
from tests.support.extractions import metadata_of

MIDJOURNEY = {"Description": "a fox --v 6.1 --style raw --q 2 --chaos 9 --ar 3:2"}
DIFFUSION = {
    "parameters": "a crow\nNegative prompt: blurry\n"
    "Steps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 18446744073709551615, Model: RealVis"
}


@pytest.fixture
def settings() -> DatabaseSettings:
    """Time limits that a busy machine does not exceed."""
    return DatabaseSettings(query_timeout_s=60, connect_timeout_s=30)


class Library:
    """Media with metadata."""

    def __init__(
        self, database: SqlMediaRepository, writer: LeasedWriter, new: NewMedia, facts: MediaFacts
    ) -> None:
        self._database, self._new, self._facts = database, new, facts
        self.store = MetadataStore(reader=database, writer=writer)
        self._number = 0

    async def medium(self, user_id: int = 42) -> int:
        self._number += 1
        path = f"bulk/{self._number}.png"
        new = replace(self._new, bulk_path=path, user_id=user_id)
        return await self._database.insert(new, replace(self._facts, source_path=path))

    async def add(self, texts: Mapping[str, Any] | None = None, user_id: int = 42) -> int:
        media_id = await self.medium(user_id)
        await self.save(media_id, metadata_of(texts))
        return media_id

    async def save(self, media_id: int, metadata: Mapping[str, Any]) -> bool:
        tags = tags_of(metadata["ai_generation"])
        return await self.store.save(media_id, metadata, tags)

    async def find(self, media_id: int) -> StoredMetadata:
        found = await self.store.find(media_id)
        assert found is not None
        return found

    async def ids(self, **wanted: Any) -> list[int]:
        page = await self.store.search(MetadataFilter(**wanted), limit=50)
        assert page.next_before is None
        return [one.media_id for one in page.images]


@pytest.fixture
def library(
    database: SqlMediaRepository, writer: LeasedWriter, new: NewMedia, facts: MediaFacts
) -> Library:
    return Library(database, writer, new, facts)


async def test_the_row_has_the_columns_of_the_generation_and_of_the_medium(
    library: Library, new: NewMedia, facts: MediaFacts
) -> None:
    media_id = await library.add(MIDJOURNEY)
    found = await library.find(media_id)
    assert found.user_id == new.user_id
    known = {name: value for name, value in found.columns.items() if value is not None}
    extracted_at, created_at = known.pop("extracted_at"), known.pop("created_at")
    assert created_at <= extracted_at
    assert abs((datetime.now(UTC) - extracted_at).total_seconds()) < 600
    assert known == {
        "filename": new.original_name,
        "filesize": facts.byte_size,
        "width": 8,
        "height": 6,
        "is_ai_generated": True,
        "ai_generator": "midjourney",
        "prompt": "a fox",
        "mj_version": "6.1",
        "mj_aspect_ratio": "3:2",
        "mj_chaos": 9,
        "mj_quality": 2.0,
        "mj_raw": True,
        "engine": "exiftool 13.59",
    }
    assert found.tags == ["generator:midjourney", "high-quality", "midjourney:v6.1", "style:raw"]
    assert found.metadata == metadata_of(MIDJOURNEY)


async def test_values_of_other_generators_are_stored_as_they_are_written(library: Library) -> None:
    columns = (await library.find(await library.add(DIFFUSION))).columns
    assert columns["seed"] == "18446744073709551615"
    assert (columns["steps"], columns["cfg_scale"]) == (20, 7.5)
    assert (columns["sampler"], columns["checkpoint_model"]) == ("Euler a", "RealVis")
    assert columns["negative_prompt"] == "blurry"


async def test_an_image_of_unknown_origin_is_not_called_generated(library: Library) -> None:
    found = await library.find(await library.add())
    assert (found.columns["is_ai_generated"], found.columns["ai_generator"]) == (False, "unknown")
    assert found.tags == ()


async def test_later_metadata_replaces_the_row_and_its_tags(library: Library) -> None:
    media_id = await library.add(MIDJOURNEY)
    assert await library.save(media_id, metadata_of(DIFFUSION))
    found = await library.find(media_id)
    assert (found.columns["ai_generator"], found.columns["mj_version"]) == (
        "stable_diffusion",
        None,
    )
    assert found.tags == ["generator:stable_diffusion", "model:realvis"]
    assert await library.ids(tags=["style:raw"]) == []


async def test_a_row_is_not_visible_without_its_tags(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    media_id = await library.medium()
    monkeypatch.setattr(metadata_store, "_SAVE_TAG", sa.text("INSERT INTO nothing VALUES (1)"))
    with pytest.raises(Exception, match="database"):
        await library.save(media_id, metadata_of(MIDJOURNEY))
    assert await library.store.find(media_id) is None


async def test_simultaneous_writes_of_many_media_all_succeed(library: Library) -> None:
    ids = [await library.medium() for _ in range(8)]
    saves = [library.save(media_id, metadata_of(MIDJOURNEY)) for media_id in ids * 3]
    assert all(await asyncio.gather(*saves))
    assert await library.ids(ai_generator="midjourney") == ids[::-1]


async def test_hostile_values_are_cut_or_left_out(library: Library) -> None:
    generation = metadata_of(MIDJOURNEY)["ai_generation"]
    hostile = {
        "sampler": "s" * 70_000,
        "prompt": "\N{SHIP}" * 65_536,
        "seed": "9" * 4000,
        "steps": 2**40,
        "cfgScale": "7.50",
        "mjChaos": -(2**40),
        "mjQuality": True,
        "mjRaw": "yes",
        "mjJobId": ["a"],
        "rawParameters": {"comfyNodeCount": 1.5, "comfyWorkflowId": 7},
    }
    media_id = await library.medium()
    metadata = metadata_of(ai_generation={**generation, **hostile}, width=None)
    assert await library.store.save(media_id, metadata, ["style:" + "x" * 500, " ", "ai-comfyui"])
    found = await library.find(media_id)
    assert found.metadata == metadata
    assert found.columns["prompt"] == hostile["prompt"]
    assert found.columns["sampler"] == "s" * 255
    assert found.columns["seed"] == "9" * 255
    assert found.columns["comfy_workflow_id"] == "7"
    for name in ("steps", "cfg_scale", "mj_chaos", "mj_quality", "mj_raw", "mj_job_id", "width"):
        assert found.columns[name] is None
    assert found.tags == ["generator:comfyui", ("style:" + "x" * 500)[:MAX_TAG]]


async def test_four_megabytes_of_metadata_in_any_script_fit(library: Library) -> None:
    media_id = await library.medium()
    groups = {"XMP-dc": {f"Title{at}": "\N{CYRILLIC SMALL LETTER A}" * 32_768 for at in range(60)}}
    assert await library.save(media_id, metadata_of(groups=groups))
    assert (await library.find(media_id)).metadata == metadata_of(groups=groups)


def nested(levels: int) -> Any:
    value: Any = "bottom"
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


async def test_an_image_with_deeply_nested_json_is_stored(library: Library) -> None:
    prompt = {"1": {"class_type": "KSampler", "inputs": {"x": nested(30)}}}
    file = BytesIO(png_with_texts({"prompt": json.dumps(prompt)}))
    read = report(file, walk(file), {"PNG": {"Prompt": prompt}}, None, file_name="a.png")
    metadata = {**metadata_of(), **read.content["metadata"]}
    assert metadata["ai_generation"]["source"] == "comfyui"
    assert any(one.startswith("ai_generation.rawParameters") for one in metadata["truncated"])
    assert any(one.startswith("groups.PNG.Prompt") for one in metadata["truncated"])
    media_id = await library.medium()
    engine = metadata_of()["engine"]
    assert await library.save(media_id, {**metadata, "engine": engine})
    assert (await library.find(media_id)).columns["ai_generator"] == "comfyui"


async def test_the_deepest_json_that_is_kept_is_the_deepest_that_every_database_stores(
    library: Library, url: str
) -> None:
    media_id = await library.medium()
    cleaner = Cleaner()
    deepest = cleaner.clean(nested(40), "c2pa")
    assert len(cleaner.truncated) == 1
    assert await library.save(media_id, metadata_of(c2pa=deepest))
    if "mysql" in url:
        with pytest.raises(RowRejected, match="rejected a value") as caught:
            await library.save(media_id, metadata_of(c2pa=[deepest]))
        assert "media_metadata.raw_metadata" in caught.value.reason
    assert (await library.find(media_id)).metadata == metadata_of(c2pa=deepest)


async def test_nothing_is_stored_for_a_medium_that_was_deleted_meanwhile(
    library: Library, backend: Backend, url: str
) -> None:
    assert not await library.save(99, metadata_of(MIDJOURNEY))
    assert backend.run(url, "SELECT media_id FROM media_metadata") == []
    assert backend.run(url, "SELECT media_id FROM media_tags") == []


async def test_filters_are_combined_and_tags_are_alternatives(library: Library) -> None:
    fox = await library.add(MIDJOURNEY)
    crow = await library.add(DIFFUSION)
    plain = await library.add()
    owl = await library.add({"Description": "an owl --v 7 --q 1"}, user_id=43)
    assert await library.ids() == [owl, plain, crow, fox]
    assert await library.ids(ai_generator="midjourney") == [owl, fox]
    assert await library.ids(has_prompt=True) == [owl, crow, fox]
    assert await library.ids(has_prompt=False) == [plain]
    assert await library.ids(mj_version="7") == [owl]
    assert await library.ids(min_quality=1.5) == [fox]
    assert await library.ids(tags=["style:raw", "model:realvis"]) == [crow, fox]
    assert await library.ids(tags=["style:raw"], ai_generator="stable_diffusion") == []
    assert await library.ids(tags=["generator:midjourney", "style:raw"], mj_version="6.1") == [fox]
    assert await library.ids(user_id=43) == [owl]
    assert await library.ids(user_id=42, tags=["generator:midjourney"]) == [fox]
    assert await library.ids(ai_generator="midjourney", has_prompt=False) == []


@pytest.mark.parametrize("tag", ["ai-midjourney", "generator:midjourney", " ai-midjourney "])
async def test_a_tag_is_found_in_either_form(library: Library, tag: str) -> None:
    media_id = await library.add(MIDJOURNEY)
    assert await library.ids(tags=[tag]) == [media_id]


async def test_tags_differ_by_accents_and_case_on_every_database(library: Library) -> None:
    media_id = await library.medium()
    tags = ["style:caf\u00e9", "style:cafe", "style:Cafe"]
    assert await library.store.save(media_id, metadata_of(), tags)
    assert sorted((await library.find(media_id)).tags) == sorted(tags)
    assert await library.ids(tags=["style:CAFE"]) == []


@pytest.mark.parametrize("tags", [[], ["generator:midjourney", "style:raw"]])
async def test_pages_contain_each_image_once_also_while_others_arrive(
    library: Library, tags: list[str]
) -> None:
    ids = [await library.add(MIDJOURNEY) for _ in range(7)]
    found: list[int] = []
    before = None
    while True:
        page = await library.store.search(MetadataFilter(tags=tags), before=before, limit=3)
        found += [one.media_id for one in page.images]
        before = page.next_before
        if before is None:
            break
        await library.add(MIDJOURNEY)
    assert found == ids[::-1]


async def test_the_last_full_page_is_known_to_be_the_last(library: Library) -> None:
    for _ in range(2):
        await library.add()
    page = await library.store.search(MetadataFilter(), limit=2)
    assert (len(page.images), page.next_before) == (2, None)


async def test_a_deleted_medium_is_not_found_and_its_page_continues(
    library: Library, backend: Backend, url: str
) -> None:
    oldest, deleted, newest = [await library.add(MIDJOURNEY) for _ in range(3)]
    backend.run(url, f"DELETE FROM media_files WHERE id = {deleted}")
    assert await library.store.find(deleted) is None
    assert await library.ids() == [newest, oldest]
    page = await library.store.search(MetadataFilter(), before=newest, limit=1)
    assert (page.images, page.next_before) == ([], deleted)


async def test_a_former_owner_does_not_find_a_medium(
    library: Library, backend: Backend, url: str
) -> None:
    media_id = await library.add(MIDJOURNEY)
    backend.run(url, f"UPDATE media_files SET user_id = 43 WHERE id = {media_id}")
    assert await library.ids(user_id=42) == []
    assert (await library.find(media_id)).user_id == 43


async def test_a_new_owner_finds_a_medium_after_the_sweep(
    library: Library, backend: Backend, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_store, "_ORPHANS", 2)
    ids = [await library.add(MIDJOURNEY) for _ in range(5)]
    given = f"UPDATE media_files SET user_id = 100 + id WHERE id IN ({ids[0]}, {ids[3]})"
    backend.run(url, f"{given}; DELETE FROM media_files WHERE id = {ids[2]}")
    assert await library.store.delete_orphans() == 1
    for media_id in (ids[0], ids[3]):
        assert await library.ids(user_id=100 + media_id) == [media_id]
    assert await library.ids(user_id=42) == [ids[4], ids[1]]


async def test_orphans_are_deleted_by_an_account_that_may_not_change_rows(
    library: Library, backend: Backend, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, gone = await library.add(MIDJOURNEY), await library.add(MIDJOURNEY)
    monkeypatch.setattr(metadata_store, "_ORPHANS", 1)
    backend.run(url, "UPDATE media_files SET user_id = 43; SELECT 1")
    backend.run(url, f"DELETE FROM media_files WHERE id = {gone}")
    trigger = "CREATE TRIGGER denied BEFORE UPDATE ON media_metadata"
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite+aiosqlite:///"))) as connection:
            connection.execute(f"{trigger} BEGIN SELECT RAISE(ABORT, 'denied'); END")
    else:
        backend.run(url, f"{trigger} FOR EACH ROW SIGNAL SQLSTATE '42000'")
    with capture_logs() as logs:
        assert await library.store.delete_orphans() == 1
    assert [one["event"] for one in logs] == ["metadata_owners_not_copied"]
    assert backend.run(url, "SELECT media_id FROM media_metadata") == [str(moved)]


async def test_a_medium_that_is_deleted_during_the_sweep_keeps_its_owner_until_the_next(
    library: Library, backend: Backend, url: str
) -> None:
    media_id = await library.add(MIDJOURNEY)
    backend.run(url, f"DELETE FROM media_files WHERE id = {media_id}")
    await library.store._copy_owners([media_id])
    assert backend.run(url, "SELECT user_id FROM media_metadata") == ["42"]


async def test_the_generation_of_a_medium_is_read_without_the_rest(library: Library) -> None:
    crow, plain = await library.add(DIFFUSION), await library.add()
    expected = metadata_of(DIFFUSION)["ai_generation"]
    assert await library.store.find_generation(crow) == {
        name: expected[name] for name in ("source", "confidence", "evidence")
    }
    assert await library.store.find_generation(plain) == {
        "source": "unknown",
        "confidence": None,
        "evidence": [],
    }
    assert await library.store.find_generation(99) is None


async def test_media_that_another_version_of_the_engine_read_are_known(library: Library) -> None:
    old, new, none = await library.medium(), await library.add(), await library.medium()
    engine = {"name": "exiftool", "version": "12.57", "walk": "1", "c2pa": None}
    await library.save(old, metadata_of(engine=engine))
    assert await library.store.extracted_by("exiftool 13.59", [old, new, none]) == {new}


async def test_metadata_of_deleted_media_is_removed(
    library: Library, backend: Backend, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_store, "_ORPHANS", 2)
    ids = [await library.add(MIDJOURNEY) for _ in range(5)]
    backend.run(url, f"DELETE FROM media_files WHERE id IN ({ids[1]}, {ids[4]})")
    assert await library.store.delete_orphans() == 2
    for table in ("media_metadata", "media_tags"):
        left = backend.run(url, f"SELECT DISTINCT media_id FROM {table} ORDER BY 1")
        assert left == [str(one) for one in (ids[0], ids[2], ids[3])]
    assert await library.store.delete_orphans() == 0


async def test_a_purge_removes_the_metadata_of_a_deleted_medium_at_once(
    library: Library, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    deleted, kept = await library.add(MIDJOURNEY), await library.add(MIDJOURNEY)
    backend.run(url, f"DELETE FROM media_files WHERE id = {deleted}")
    table = PurgeTable(reader=writer, writer=writer, retention_days=1)
    await table.record([PurgeEntry(deleted), PurgeEntry(kept)])
    for name in ("media_metadata", "media_tags"):
        assert set(backend.run(url, f"SELECT media_id FROM {name}")) == {str(kept)}


@pytest.mark.parametrize(
    ("tag", "stored"),
    [
        ("ai-midjourney", "generator:midjourney"),
        ("ai-dall-e", "generator:dall-e"),
        ("style-raw", "style:raw"),
        ("model-sdxl-base", "model:sdxl-base"),
        ("generator:comfyui", "generator:comfyui"),
        (" high-quality ", "high-quality"),
        ("ai-", "ai-"),
        ("landscape", "landscape"),
    ],
)
def test_aliases_are_stored_in_the_form_with_a_colon(tag: str, stored: str) -> None:
    assert canonical_tag(tag) == stored


EVERYTHING = MetadataFilter(
    user_id=7,
    ai_generator="comfyui",
    has_prompt=True,
    mj_version="7",
    min_quality=1,
    tags=["generator:comfyui", "style:raw"],
)
INDEXES = [
    (MetadataFilter(), "PRIMARY|autoindex"),
    (MetadataFilter(user_id=7), "user_id"),
    (MetadataFilter(ai_generator="firefly"), "ai_generator"),
    (MetadataFilter(has_prompt=False), "has_prompt"),
    (MetadataFilter(mj_version="7"), "mj_version"),
    (MetadataFilter(min_quality=2), "mj_quality"),
    (MetadataFilter(tags=["generator:comfyui", "style:raw"]), "ix_media_tags_tag"),
    (EVERYTHING, "mj_quality|user_id"),
]
ROWS = 100_000
_COUNTED = (
    f"WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < {ROWS})"
)
_METADATA = """
INSERT INTO media_metadata
    (media_id, user_id, is_ai_generated, ai_generator, has_prompt, mj_version, mj_quality,
     raw_metadata, engine)
COUNTED SELECT n, n % 1000, n % 2, CASE WHEN n % 2 THEN 'comfyui' ELSE 'unknown' END, n % 500 > 0,
    CASE WHEN n % 300 = 0 THEN '7' END, CASE WHEN n % 300 = 0 THEN n / 300 % 4 END, '{}', 'x'
FROM counted
"""
_TAG = "INSERT INTO media_tags (media_id, tag) COUNTED SELECT n, 'generator:comfyui' FROM counted"
_RARE_TAG = (
    "INSERT INTO media_tags (media_id, tag)"
    " COUNTED SELECT n, 'style:raw' FROM counted WHERE n % 1000 = 0"
)


@pytest.mark.slow
async def test_a_search_of_a_hundred_thousand_rows_reads_indexes(
    writer: LeasedWriter, backend: Backend, url: str
) -> None:
    sqlite = url.startswith("sqlite")
    first = "" if sqlite else f"SET max_recursive_iterations = {ROWS + 1};"
    for insert in (_METADATA, _TAG, _RARE_TAG):
        backend.run(url, first + insert.replace("COUNTED", _COUNTED))
    backend.run(url, "ANALYZE" if sqlite else "ANALYZE TABLE media_metadata, media_tags")
    for wanted, index in INDEXES:
        query = metadata_store._ids(wanted, 2**63 - 1, 51)
        options = {"literal_binds": True}
        text = str(query.compile(dialect=writer.engine.dialect, compile_kwargs=options))
        explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
        plan = [
            line
            for line in backend.run(url, f"{explain} {text}")
            if re.search(r"media_(?:metadata|tags)", line)
        ]
        assert any(re.search(index, line) for line in plan), (wanted, plan)
        for line in plan:
            # SQLite: SEARCH reads a part of an index. MariaDB: id, select_type, table, type, ...
            whole = "SCAN" in line if sqlite else line.split("\t")[3] in {"ALL", "index"}
            assert not whole, (wanted, plan)
