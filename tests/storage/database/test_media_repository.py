"""Queries of the media database: rows, facts, fallbacks and analyses."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from proxy.domain.analysis import ANALYSIS_VERSION, Analysis
from proxy.domain.errors import MediaRowInvalid
from proxy.domain.media import MAX_MEDIA_ID, DataType, Face, Media, MediaFacts, MediaStatus
from proxy.domain.perceptual_hash import PerceptualHash
from proxy.settings import DatabaseSettings
from proxy.storage.database import MediaPaths, NewMedia, tables
from proxy.storage.database.ingest_queue import IngestQueue
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import AnalysisRepository, SqlMediaRepository
from proxy.storage.database.schema import upgrade
from tests.storage.database.backends import Backend
from tests.storage.database.items import COLUMNS, OWN, claimed, offer
from tests.support.waiting import eventually

_OLD_ROW = "INSERT INTO media_files (main_api_id, user_id, data_type) VALUES (1, 2, 'logo')"


async def test_it_is_a_media_catalogue(database: SqlMediaRepository) -> None:
    catalogue: SqlMediaRepository = database
    await catalogue.ping()


async def test_a_row_is_found_with_its_facts(
    database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    media_id = await database.insert(new, facts)
    found = await database.find(media_id)
    assert found is not None
    assert found == Media(
        id=media_id,
        user_id=42,
        data_type="product",
        original_name="Überfahrt 🚢.jpg",
        mime_type="image/jpeg",
        file_size=1234,
        bulk_path="bulk/2026/11/a.jpg",
        library_path=None,
        status="completed",
        updated_at=found.updated_at,
        facts=replace(facts, row_version=found.row_version),
    )


async def test_facts_are_those_of_the_row_they_were_added_with(
    database: SqlMediaRepository, backend: Backend, url: str, new: NewMedia, facts: MediaFacts
) -> None:
    media_id = await database.insert(new, facts)
    found = await database.find(media_id)
    assert found is not None
    assert found.known_facts is not None
    backend.run(url, f"UPDATE media_files SET status = 'processing' WHERE id = {media_id}")
    changed = await database.find(media_id)
    assert changed is not None
    assert changed.known_facts is None


async def test_an_absent_row_is_none(database: SqlMediaRepository) -> None:
    assert await database.find(MAX_MEDIA_ID) is None


async def test_facts_without_a_focus_come_back_without_one(
    database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    plain = replace(facts, focus=None, has_alpha=True, flat_background=False, pages=7)
    media_id = await database.insert(new, plain)
    await database.save_facts(media_id, plain, since=0)
    assert await _facts_of(database, media_id) == plain


async def test_facts_saved_again_replace_the_first(
    database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    media_id = await database.insert(new, facts)
    later = replace(facts, content_hash="cd" * 32, focus=None)
    await database.save_facts(media_id, later, since=0)
    assert await _facts_of(database, media_id) == later


async def test_facts_saved_by_many_at_once_do_not_collide(
    database: SqlMediaRepository, backend: Backend, url: str, facts: MediaFacts
) -> None:
    backend.run(url, _OLD_ROW)
    await asyncio.gather(*(database.save_facts(1, facts, since=0) for _ in range(30)))
    assert await _facts_of(database, 1) == facts


async def test_facts_of_an_unknown_row_are_kept_without_complaint(
    database: SqlMediaRepository, facts: MediaFacts
) -> None:
    await database.save_facts(99, facts, since=0)
    assert await database.find(99) is None


async def test_added_rows_have_ascending_ids(
    database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    first = await database.insert(new, facts)
    assert await database.insert(new, facts) > first


async def test_the_oldest_row_of_a_hash_is_found(
    database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    first = await database.insert(new, facts)
    await database.insert(new, facts)
    found = await database.find_by_hash(facts.content_hash)
    assert found is not None
    assert found.id == first


async def test_an_unknown_hash_finds_nothing(database: SqlMediaRepository) -> None:
    assert await database.find_by_hash("00" * 32) is None


async def test_a_row_that_is_not_served_is_not_found_by_its_hash(
    database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    await database.insert(replace(new, status=MediaStatus.FAILED), facts)
    assert await database.find_by_hash(facts.content_hash) is None


async def test_a_row_whose_facts_are_of_another_file_is_not_found_by_its_hash(
    database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    await database.insert(new, replace(facts, source_path="bulk/before.jpg"))
    assert await database.find_by_hash(facts.content_hash) is None


async def test_ids_come_in_pages(
    database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    added = [await database.insert(new, facts) for _ in range(5)]
    first = await database.ids(limit=3)
    second = await database.ids(after=first[-1], limit=3)
    assert [*first, *second] == added


async def test_ids_of_a_user_are_ascending_whatever_the_status(
    database: SqlMediaRepository, backend: Backend, url: str, new: NewMedia, facts: MediaFacts
) -> None:
    own = [await database.insert(new, facts) for _ in range(3)]
    await database.insert(replace(new, user_id=43), facts)
    backend.run(url, f"UPDATE media_files SET status = 'failed' WHERE id = {own[1]}")
    first = await database.ids_of_user(42, limit=2)
    assert list(first) == own[:2]
    assert list(await database.ids_of_user(42, after=first[-1], limit=2)) == own[2:]
    assert list(await database.ids_of_user(44)) == []


@pytest.mark.parametrize("status", MediaStatus)
@pytest.mark.parametrize("bulk_path", ["", "bulk/a.jpg"])
async def test_ids_are_those_of_servable_rows(
    database: SqlMediaRepository,
    new: NewMedia,
    facts: MediaFacts,
    status: MediaStatus,
    bulk_path: str,
) -> None:
    media_id = await database.insert(replace(new, status=status, bulk_path=bulk_path), facts)
    found = await database.find(media_id)
    assert found is not None
    assert bool(await database.ids()) == found.servable


async def test_the_newest_come_first_in_pages_and_only_what_is_served(
    database: SqlMediaRepository, backend: Backend, url: str, new: NewMedia, facts: MediaFacts
) -> None:
    added = [await database.insert(new, facts) for _ in range(5)]
    backend.run(url, f"UPDATE media_files SET status = 'failed' WHERE id = {added[3]}")
    first = await database.newest(before=MAX_MEDIA_ID, limit=2)
    assert [media.id for media in first] == [added[4], added[2]]
    assert first[0] == await database.find(added[4])
    rest = await database.newest(before=first[-1].id, limit=9)
    assert [media.id for media in rest] == [added[1], added[0]]


async def test_a_row_with_only_a_processed_file_is_served(
    database: SqlMediaRepository, backend: Backend, url: str
) -> None:
    backend.run(url, f"{_OLD_ROW}; UPDATE media_files SET status='completed', library_path='l.jpg'")
    assert await database.ids() == [1]


async def test_timestamps_are_aware_and_in_utc(
    database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    found = await database.find(await database.insert(new, facts))
    assert found is not None
    assert found.updated_at.tzinfo is UTC
    assert abs(datetime.now(UTC) - found.updated_at) < timedelta(minutes=1)


async def test_an_update_moves_updated_at(
    database: SqlMediaRepository, backend: Backend, url: str
) -> None:
    backend.run(url, f"{_OLD_ROW}; UPDATE media_files SET updated_at = '2001-01-01 00:00:00'")
    backend.run(url, "UPDATE media_files SET status = 'failed'")
    found = await database.find(1)
    assert found is not None
    assert abs(datetime.now(UTC) - found.updated_at) < timedelta(minutes=1)


async def test_an_old_row_of_nulls_is_read(
    database: SqlMediaRepository, backend: Backend, url: str
) -> None:
    backend.run(url, f"{_OLD_ROW}; UPDATE media_files SET updated_at = NULL")
    found = await database.find(1)
    assert found is not None
    assert (found.status, found.bulk_path, found.facts) == (None, None, None)
    assert found.data_type == DataType.LOGO


async def test_a_row_without_a_time_of_update_is_as_old_as_can_be(
    database: SqlMediaRepository, backend: Backend, url: str
) -> None:
    backend.run(url, f"{_OLD_ROW}; UPDATE media_files SET updated_at = NULL")
    found = await database.find(1)
    assert found is not None
    assert found.updated_at == datetime(1970, 1, 1, tzinfo=UTC)


async def test_statistics_count_queries_and_their_time(database: SqlMediaRepository) -> None:
    await database.ping()
    await database.find(1)
    statistics = database.statistics()
    assert (statistics["queries"], statistics["errors"]) == (2, 0)
    assert statistics["seconds"] > 0


@pytest.mark.slow
async def test_a_cancelled_query_leaves_a_database_that_answers(
    database: SqlMediaRepository,
) -> None:
    asking = [asyncio.create_task(database.find(1)) for _ in range(20)]
    await eventually(lambda: database.statistics()["queries"] == 20, interval_s=0)
    for task in asking:
        task.cancel()
    ends = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    await database.ping()


async def _facts_of(database: SqlMediaRepository, media_id: int) -> MediaFacts | None:
    found = await database.find(media_id)
    assert found is not None
    return found.facts


async def test_a_row_comes_with_its_stand_ins(
    database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    media_id, other = await database.insert(new, facts), await database.insert(new, facts)
    small = replace(facts, content_hash="01" * 32, source_path="library/a_small.webp", width=320)
    plain = replace(small, content_hash="02" * 32, source_path="library/Ü.png", focus=None)
    for one in (small, plain):
        await database.add_fallback(media_id, one)
    found = await database.find(media_id)
    assert found is not None
    assert set(found.fallbacks) == {small, plain}
    beside = await database.find(other)
    assert beside is not None
    assert beside.fallbacks == ()
    many = await database.find_many([media_id, other, 99])
    assert set(many) == {media_id, other}
    assert set(many[media_id].fallbacks) == {small, plain}
    assert many[other] == beside


async def test_a_stand_in_of_equal_content_is_kept_once_and_under_its_last_path(
    database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    media_id = await database.insert(new, facts)
    moved = replace(facts, source_path="library/moved.jpg")
    for one in (facts, facts, moved):
        await database.add_fallback(media_id, one)
    found = await database.find(media_id)
    assert found is not None
    assert found.fallbacks == (moved,)


async def test_places_are_those_of_all_rows_page_by_page(
    database: SqlMediaRepository, backend: Backend, url: str, new: NewMedia, facts: MediaFacts
) -> None:
    first = await database.insert(new, facts)
    second = await database.insert(
        replace(new, bulk_path=None, library_path="library/b.jpg"), replace(facts, source_path="b")
    )
    backend.run(url, _OLD_ROW)
    paths = [
        MediaPaths(first, "bulk/2026/11/a.jpg", None),
        MediaPaths(second, None, "library/b.jpg"),
    ]
    assert await database.paths(limit=2) == paths
    assert await database.paths(after=second) == [MediaPaths(second + 1, None, None)]


async def test_an_analysis_is_read_as_it_was_kept(queue: IngestQueue, writer: LeasedWriter) -> None:
    analyses = AnalysisRepository(writer)
    await offer(queue, 1)
    lease = (await claimed(queue)).lease
    assert await analyses.find(lease.media_id) is None
    assert await analyses.find_brand(4) is None
    for _ in range(2):
        await writer.save_analysis(lease, COLUMNS, OWN, focus=None)
    stored = await analyses.find(lease.media_id)
    assert stored is not None
    assert await analyses.find_many([lease.media_id, 99]) == {lease.media_id: stored}
    kept = {name: stored.columns[name] for name in COLUMNS}
    assert kept == COLUMNS | {"style_classification": "x" * 255}
    assert stored.public()["brand_colors"] == ["#FF5733"]
    brand = await analyses.find_brand(4)
    assert brand == {"brand_colors": ["#FF5733"], "logo_media_id": lease.media_id}


async def test_thumbhashes_are_read_of_many_and_only_where_there_are_any(
    queue: IngestQueue, writer: LeasedWriter
) -> None:
    analyses = AnalysisRepository(writer)
    await offer(queue, 1, 2)
    leases = [(await claimed(queue)).lease for _ in range(2)]
    await writer.save_analysis(leases[0], COLUMNS, {**OWN, "thumbhash": "aGFzaA=="}, focus=None)
    await writer.save_analysis(leases[1], COLUMNS, OWN, focus=None)
    asked = [one.media_id for one in leases]
    assert await analyses.thumbhashes([*asked, 99]) == {asked[0]: "aGFzaA=="}
    assert await analyses.thumbhashes([]) == {}


async def test_hashes_are_those_of_current_analyses_of_servable_images(
    queue: IngestQueue, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    analyses = AnalysisRepository(writer)
    await offer(queue, 1, 2, 3, 4)
    leases = [(await claimed(queue)).lease for _ in range(4)]
    known = {"phash": "00ff00ff00ff00ff", "phash_mask": "f" * 16}
    for lease, version in zip(leases, (ANALYSIS_VERSION, 1, ANALYSIS_VERSION), strict=False):
        own = {**OWN, **known, "version": version}
        await writer.save_analysis(lease, COLUMNS, own, focus=None)
    ids = [lease.media_id for lease in leases]
    backend.run(url, "UPDATE media_files SET status = 'completed', bulk_path = 'a.jpg'")
    backend.run(url, f"UPDATE media_files SET status = 'failed' WHERE id = {ids[2]}")
    wanted = PerceptualHash.parse(*known.values())
    pages = await analyses.hashes(before=MAX_MEDIA_ID, limit=10)
    assert pages == [(ids[3], None), (ids[1], None), (ids[0], wanted)]
    assert await analyses.hashes(before=ids[3], limit=1) == [(ids[1], None)]


async def test_an_analysis_is_stored_in_place_of_an_earlier_one(
    queue: IngestQueue, writer: LeasedWriter
) -> None:
    analyses = AnalysisRepository(writer)
    await offer(queue, 1)
    media_id = (await claimed(queue)).lease.media_id
    for score in (10, 20):
        await writer.store_analysis(media_id, Analysis({**COLUMNS, "quality_score": score}, OWN))
    stored = await analyses.find(media_id)
    assert stored is not None
    assert stored.columns["quality_score"] == 20


_TABLES = ("media_files", "media_facts", "media_fallbacks", "media_choices", "media_ai_analysis")
_OPEN_COLUMNS = [
    (table, column.name)
    for table in (*_TABLES, "media_analysis_details")
    for column in tables.metadata.tables[table].columns
    if column.name not in ("id", "media_id")
]
_NONSENSE = {
    "zero": "0",
    "empty": "''",
    "words": "'nonsense'",
    "zero date": "'0000-00-00 00:00:00'",
    "binary": "x'ff00'",
    "text that is not UTF-8": "CAST(x'2fff' AS TEXT)",
    "text as binary": "CAST('bulk/x.jpg' AS BLOB)",
    "largest": "9223372036854775807",
    "negative": "-1",
    "float": "1e308",
    "deep JSON": f"'{'[' * 5000}'",
    "null in JSON": "'null'",
    "list in JSON": "'[1, null, \"x\"]'",
}


_ROWS = len(_NONSENSE) + 2
"""The first and the last stay valid."""


async def _fill(url: str, new: NewMedia, facts: MediaFacts) -> None:
    await upgrade(url, DatabaseSettings())
    async with SqlMediaRepository(url, DatabaseSettings()) as database:
        for _ in range(_ROWS):
            media_id = await database.insert(new, facts)
            await database.add_fallback(media_id, replace(facts, source_path="small.jpg"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with media that have every kind of row."""
    file = tmp_path_factory.mktemp("rows") / "filled.db"
    new = NewMedia(42, DataType.LOGO, "a.jpg", "bulk/a.jpg")
    facts = MediaFacts("ab" * 32, 1, "jpeg", 2, 3, False, 1, False, None, "bulk/a.jpg")  # noqa: FBT003
    asyncio.run(_fill(f"sqlite+aiosqlite:///{file}", new, facts))
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.executescript(
            "INSERT INTO media_choices SELECT id, 0.1, 0.2, NULL, 'removed', 'public', 0"
            " FROM media_files;"
            "INSERT INTO media_ai_analysis (media_id, subject_matter) SELECT id, 'a boat'"
            " FROM media_files; INSERT INTO media_analysis_details SELECT id,"
            ' \'{"thumbhash": "abc", "brand_colors": [1]}\' FROM media_files'
        )
        connection.execute("PRAGMA journal_mode = DELETE")
    return file


@pytest.fixture
def rows(filled: Path, tmp_path: Path) -> str:
    """The URL of a copy of it."""
    return f"sqlite+aiosqlite:///{shutil.copy(filled, tmp_path / 'copy.db')}"


@pytest.mark.parametrize(("table", "column"), _OPEN_COLUMNS)
async def test_a_bad_value_affects_only_its_own_row(table: str, column: str, rows: str) -> None:
    where = "id" if table == "media_files" else "media_id"
    with closing(sqlite3.connect(rows.partition("///")[2])) as connection, connection:
        for row, value in enumerate(_NONSENSE.values(), 2):
            connection.execute(f"UPDATE {table} SET {column} = {value} WHERE {where} = {row}")
    valid, every = {1, _ROWS}, range(1, _ROWS + 1)
    async with SqlMediaRepository(rows, DatabaseSettings()) as database:
        for media_id in every:
            # An error of this row is the only one that is allowed.
            with suppress(*(() if media_id in valid else (MediaRowInvalid,))):
                found = await database.find(media_id)
                assert found is not None
                assert media_id not in valid or (found.known_facts and found.fallbacks)
                assert media_id not in valid or found.choices.focus
                # The texts that responses contain.
                orjson.dumps([found.original_name, found.mime_type, found.data_type])
        assert valid <= {one.id for one in await database.newest(before=99, limit=99)}
        assert valid <= set(await database.ids())
        assert [one.media_id for one in await database.paths()] == list(every)
        analyses = AnalysisRepository(database)
        assert valid <= set(await analyses.thumbhashes(every))
        stored = [await analyses.find(media_id) for media_id in every]
        assert all(one is not None and orjson.dumps(one.public()) for one in stored)
        assert await analyses.find_brand(42) is not None


async def test_invalid_facts_are_those_of_an_unknown_source(rows: str) -> None:
    with closing(sqlite3.connect(rows.partition("///")[2])) as connection, connection:
        connection.execute("UPDATE media_facts SET content_hash = '../../x' WHERE media_id = 2")
    async with SqlMediaRepository(rows, DatabaseSettings()) as database:
        found = await database.find(2)
    assert found is not None
    assert (found.facts, len(found.fallbacks)) == (None, 1)


async def test_a_path_that_is_not_text_is_an_error_that_is_logged_once(rows: str) -> None:
    with closing(sqlite3.connect(rows.partition("///")[2])) as connection, connection:
        connection.execute("UPDATE media_files SET bulk_path = x'ff00' WHERE id = 2")
    async with SqlMediaRepository(rows, DatabaseSettings()) as database:
        with capture_logs() as logs:
            for _ in range(3):
                with pytest.raises(MediaRowInvalid, match="bulk_path"):
                    await database.find(2)
            assert [one.id for one in await database.newest(before=4, limit=2)] == [3, 1]
    assert [(one["media_id"], one["column"]) for one in logs] == [(2, "bulk_path")]


async def test_a_path_that_was_stored_as_binary_is_read(rows: str) -> None:
    with closing(sqlite3.connect(rows.partition("///")[2])) as connection, connection:
        connection.execute("UPDATE media_files SET bulk_path = CAST('bulk/é.jpg' AS BLOB)")
    async with SqlMediaRepository(rows, DatabaseSettings()) as database:
        found = await database.find(2)
    assert found is not None
    assert found.source_path == "bulk/é.jpg"


@pytest.mark.parametrize("value", ["0", "''", "'nonsense'", "'0000-00-00'", "x'00'", "NULL"])
async def test_a_time_that_is_none_is_as_old_as_can_be(value: str, rows: str) -> None:
    with closing(sqlite3.connect(rows.partition("///")[2])) as connection, connection:
        connection.execute(f"UPDATE media_files SET updated_at = {value} WHERE id = 2")
    async with SqlMediaRepository(rows, DatabaseSettings()) as database:
        found = await database.find(2)
    assert found is not None
    assert found.updated_at.timestamp() == 0


FACES = (Face(0.25, 0.125, 0.5, 0.25, 0.75), Face(0, 0, 1, 1, 1))


async def known_faces(database: SqlMediaRepository, media_id: int) -> tuple[Face, ...] | None:
    found, many = await database.find(media_id), await database.find_many([media_id])
    assert found is not None
    assert found.known_facts is not None
    assert many == {media_id: found}
    return found.known_facts.faces


async def test_faces_are_read_with_the_facts_of_the_same_content(
    database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    media_id = await database.insert(new, facts)
    assert await known_faces(database, media_id) is None
    for faces in (FACES, ()):
        await database.save_faces(media_id, facts.content_hash, faces)
        assert await known_faces(database, media_id) == faces
    await database.save_faces(media_id, facts.content_hash, FACES)
    # The same content is read again, without another detection.
    again = replace(facts, width=7)
    await database.save_facts(media_id, again, since=0)
    assert await known_faces(database, media_id) == FACES
    await database.save_facts(media_id, replace(facts, content_hash="cd" * 32), since=0)
    assert await known_faces(database, media_id) is None


async def test_faces_of_another_model_or_that_are_switched_off_are_unknown(
    database: SqlMediaRepository,
    settings: DatabaseSettings,
    backend: Backend,
    url: str,
    new: NewMedia,
    facts: MediaFacts,
) -> None:
    media_id = await database.insert(new, facts)
    await database.save_faces(media_id, facts.content_hash, FACES)
    async with SqlMediaRepository(url, settings, faces=False) as other:
        assert await known_faces(other, media_id) is None
    backend.run(url, "UPDATE media_faces SET model = 'other'; SELECT 1")
    assert await known_faces(database, media_id) is None


@pytest.mark.parametrize("stored", ["7", "[[0.1, 0.2]]", '["abcde"]', "[[0, 0, 1, 1, 9]]"])
async def test_stored_faces_that_are_none_are_unknown_and_logged(
    stored: str,
    database: SqlMediaRepository,
    backend: Backend,
    url: str,
    new: NewMedia,
    facts: MediaFacts,
) -> None:
    media_id = await database.insert(new, facts)
    await database.save_faces(media_id, facts.content_hash, FACES)
    backend.run(url, f"UPDATE media_faces SET faces = '{stored}'; SELECT 1")
    with capture_logs() as logs:
        assert await known_faces(database, media_id) is None
    assert [(one["table"], one["column"]) for one in logs] == [("media_faces", "faces")]
