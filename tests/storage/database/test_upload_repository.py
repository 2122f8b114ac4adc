"""The main database: one contract for SQLite and MariaDB, our own and that of another program."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import orjson
import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.dialects import mysql

from proxy.domain.errors import (
    CommitUncertain,
    DatabaseUnavailable,
    PendingConflict,
    PendingNotFound,
    QuotaExceeded,
)
from proxy.domain.upload import PendingStatus
from proxy.settings import DatabaseSettings
from proxy.storage.database.engine import open_engine
from proxy.storage.database.profile_columns import (
    ARTIST_LOGO,
    COLUMNS,
    HEADER,
    PROFILE,
    SITE,
    metadata,
)
from proxy.storage.database.schema import inspect_version, main_schema, upgrade
from proxy.storage.database.upload_repository import (
    NewUpload,
    UploadLimits,
    UploadQuota,
    UploadRepository,
    replace_value,
    upsert_profile,
)
from tests.storage.database.backends import Backend, MariaDBBackend
from tests.support.mariadb import MariaDB

PATH = "/temp_images/profiles/456-profile-789.jpg"
ADDRESS = "https://api2.example.org/api/images/789?size=detail"

# As the requirements document has it, word for word.
_REQUIRED = """
CREATE TABLE pending_images (
  id BIGINT AUTO_INCREMENT PRIMARY KEY,
  user_id BIGINT NOT NULL,
  image_path VARCHAR(255) NOT NULL,        -- /temp_images/profiles/123-profile-456.jpg
  original_name VARCHAR(255),
  mime_type VARCHAR(100),
  permanent_url VARCHAR(500),              -- Media ID after processing
  thumbnail_url VARCHAR(500),              -- Same as permanent_url (media ID)
  status ENUM('pending','processed','complete','failed') DEFAULT 'pending',
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP
);
"""
_COLUMNS = """
SELECT column_name, column_type, is_nullable, column_default, extra
FROM information_schema.columns
WHERE table_schema = DATABASE() AND table_name = 'pending_images' ORDER BY ordinal_position
"""
_TABLES = (
    "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
    " ORDER BY table_name"
)

_NORMAL, _FULL = 1, 2
# INNODB_TRX is a copy that MariaDB does not renew while it is read more than ten times a second.
_WAITING = (
    "SELECT variable_value FROM information_schema.global_status "
    "WHERE variable_name = 'Innodb_row_lock_current_waits'"
)


def new(field: str = "profile_image", path: str = PATH) -> NewUpload:
    return NewUpload(field, path, "Überfahrt 🚢.jpg", "image/jpeg")


@pytest.fixture
async def url(backend: Backend, settings: DatabaseSettings) -> str:
    url = backend.empty()
    await upgrade(url, settings, schema=main_schema(own=True))
    return url


@pytest.fixture
async def main(url: str, settings: DatabaseSettings) -> AsyncIterator[UploadRepository]:
    async with UploadRepository(url, settings, own=True) as database:
        yield database


@pytest.fixture
def foreign(mariadb: MariaDB) -> tuple[MariaDBBackend, str]:
    """A main database of another program, with one of its profile tables."""
    backend = MariaDBBackend(mariadb)
    url = backend.empty()
    backend.run(
        url,
        "CREATE TABLE user_profiles (id INT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT NOT NULL,"
        " bio TEXT NOT NULL, profile_image_path VARCHAR(255));"
        "INSERT INTO user_profiles (user_id, bio) VALUES (456, 'x'), (457, 'y')",
    )
    return backend, url


async def test_a_commit_of_an_upload_outlives_a_power_cut(tmp_path: Path) -> None:
    """FULL is 2: SQLite synchronises its log before it says that it is done."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'main.db'}"
    async with (
        UploadRepository(url, DatabaseSettings(), own=True) as main,
        main.transaction() as connection,
    ):
        found = await connection.exec_driver_sql("PRAGMA synchronous")
        assert found.scalar() == 2


async def test_both_schemas_live_in_one_database(
    backend: Backend, url: str, settings: DatabaseSettings
) -> None:
    assert (await inspect_version(url, settings))[1]
    assert await upgrade(url, settings)
    assert not (await inspect_version(url, settings))[1]
    assert not (await inspect_version(url, settings, schema=main_schema(own=True)))[1]


async def test_the_migrations_make_the_required_table(
    mariadb: MariaDB, settings: DatabaseSettings
) -> None:
    backend = MariaDBBackend(mariadb)
    required, ours, declared = backend.empty(), backend.empty(), backend.empty()
    backend.run(required, _REQUIRED)
    await upgrade(ours, settings, schema=main_schema(own=True))
    engine = open_engine(declared, settings)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    assert backend.run(ours, _COLUMNS) == backend.run(required, _COLUMNS)
    assert backend.run(declared, _COLUMNS) == backend.run(required, _COLUMNS)


async def test_in_a_database_of_others_only_the_queue_is_made(
    foreign: tuple[MariaDBBackend, str], settings: DatabaseSettings
) -> None:
    backend, url = foreign
    before = backend.run(url, "SHOW CREATE TABLE user_profiles")
    assert await upgrade(url, settings, schema=main_schema(own=False))
    made = backend.run(url, _TABLES)
    assert made == ["pending_images", "smartserve_main_version", "user_profiles"]
    assert backend.run(url, "SHOW CREATE TABLE user_profiles") == before


async def test_a_queue_that_is_there_is_enough_in_a_database_of_others(
    foreign: tuple[MariaDBBackend, str], settings: DatabaseSettings
) -> None:
    """Its account may be one that makes no tables."""
    backend, url = foreign
    backend.run(url, _REQUIRED)
    assert not (await inspect_version(url, settings, schema=main_schema(own=False)))[1]
    assert backend.run(url, _TABLES) == ["pending_images", "user_profiles"]


async def test_an_upload_is_queued_and_named_in_the_profile(
    main: UploadRepository, backend: Backend, url: str
) -> None:
    (pending_id,) = await main.insert(456, [new()])
    (row,) = await main.list_pending(limit=10)
    assert await main.count_pending() == 1
    assert (row.id, row.user_id, row.image_path) == (pending_id, 456, PATH)
    assert (row.original_name, row.mime_type) == ("Überfahrt 🚢.jpg", "image/jpeg")
    assert row.status is PendingStatus.PENDING
    assert backend.run(url, "SELECT * FROM user_profiles") in (
        [f"456\t{PATH}\tNone"],
        [f"456\t{PATH}\tNULL"],
    )


async def test_a_second_upload_takes_the_place_of_the_first(
    main: UploadRepository, backend: Backend, url: str
) -> None:
    await main.insert(456, [new(), new("header_image", "/temp_images/profiles/h.jpg")])
    await main.insert(456, [new(path="/temp_images/profiles/second.jpg")])
    told = backend.run(url, "SELECT profile_image_path, header_image_path FROM user_profiles")
    assert told == ["/temp_images/profiles/second.jpg\t/temp_images/profiles/h.jpg"]


@pytest.mark.parametrize("has", ["promoter_profiles", "artist_profiles"])
async def test_a_logo_goes_to_the_profile_that_the_user_has(
    main: UploadRepository, backend: Backend, url: str, has: str
) -> None:
    other = "artist_profiles" if has == "promoter_profiles" else "promoter_profiles"
    backend.run(url, f"INSERT INTO {has} (user_id) VALUES (9); SELECT 1")
    await main.insert(9, [new("logo_image")])
    assert backend.run(url, f"SELECT logo_path FROM {has}") == [PATH]
    assert backend.run(url, f"SELECT COUNT(*) FROM {other}") == ["0"]


async def test_fields_without_a_profile_are_queued_alone(
    main: UploadRepository, backend: Backend, url: str
) -> None:
    assert (
        len(await main.insert(9, [new("product_image"), new("event_image"), new("site_image")]))
        == 3
    )
    assert backend.run(url, "SELECT user_id, media_path FROM site_media") == [f"9\t{PATH}"]
    assert backend.run(url, "SELECT COUNT(*) FROM user_profiles") == ["0"]


async def test_uploads_at_once_are_all_queued(main: UploadRepository) -> None:
    """Profiles of new users share gaps of an index, where InnoDB likes to deadlock."""
    async with asyncio.TaskGroup() as group:
        for user in range(1, 25):
            group.create_task(main.insert(user, [new(), new("logo_image"), new("site_image")]))
    assert await main.count_pending() == 72


async def test_uploads_and_replacements_at_once_are_all_done(main: UploadRepository) -> None:
    """As InnoDB reads repeatably, each locks gaps that the other inserts into."""
    ids: list[int] = []

    async def uploads(user: int) -> None:
        for turn in range(40):
            path = f"/temp_images/profiles/{user}-profile-{turn}.jpg"
            ids.extend(await main.insert(user, [new(path=path), new("logo_image", path + "l")]))

    async with asyncio.TaskGroup() as group:
        uploading = [group.create_task(uploads(user)) for user in (1, 2, 3)]
        while not all(task.done() for task in uploading):
            if not ids:
                await asyncio.sleep(0)  # lets the uploads run
                continue
            await main.mark_processed(ids.pop(), "7")
            for row in await main.list_ended(PendingStatus.PROCESSED):
                assert await main.replace_path(row, ADDRESS, COLUMNS) is not None


async def test_a_deadlock_is_tried_again(mariadb: MariaDB, settings: DatabaseSettings) -> None:
    backend = MariaDBBackend(mariadb)
    url = backend.empty()
    await upgrade(url, settings, schema=main_schema(own=True))
    other = open_engine(url, settings)
    async with UploadRepository(url, settings, own=True) as main:
        await main.insert(456, [new()])
        async with other.connect() as connection:
            # Of two that wait for each other the one that has written less is undone.
            values = ",".join(f"({user})" for user in range(1000, 1200))
            await connection.exec_driver_sql(f"INSERT INTO user_profiles (user_id) VALUES {values}")
            await connection.exec_driver_sql("DELETE FROM user_profiles WHERE user_id = 456")
            adding = asyncio.create_task(main.insert(456, [new()]))
            while await asyncio.to_thread(backend.run, url, _WAITING) != ["1"]:
                assert not adding.done()
            await connection.exec_driver_sql("SELECT * FROM pending_images FOR UPDATE")
            await connection.commit()
        assert len(await adding) == 1
        assert await main.count_pending() == 2
    await other.dispose()


async def test_the_queue_is_listed_in_pages_and_counted_as_a_whole(main: UploadRepository) -> None:
    ids = await main.insert(1, [new("product_image") for _ in range(5)])
    pages = [await main.list_pending(after=after, limit=2) for after in (0, ids[1], ids[3], ids[4])]
    assert [[row.id for row in page] for page in pages] == [ids[:2], ids[2:4], ids[4:], []]
    assert await main.count_pending() == 5


async def test_the_same_completion_twice_is_one(
    main: UploadRepository, backend: Backend, url: str
) -> None:
    (pending_id,) = await main.insert(456, [new()])
    for _ in range(2):
        await main.mark_processed(pending_id, "789")
    told = backend.run(url, "SELECT status, permanent_url, thumbnail_url FROM pending_images")
    assert told == ["processed\t789\t789"]


async def test_completions_at_once_agree(main: UploadRepository) -> None:
    (pending_id,) = await main.insert(456, [new()])
    told = await asyncio.gather(
        *(main.mark_processed(pending_id, str(one % 2)) for one in range(8)), return_exceptions=True
    )
    assert sum(isinstance(one, PendingConflict) for one in told) == 4


async def test_an_upload_comes_to_one_end(main: UploadRepository) -> None:
    done, failed = await main.insert(456, [new(), new()])
    await main.mark_processed(done, "1")
    for _ in range(2):
        await main.mark_failed(failed)
    with pytest.raises(PendingConflict, match="another medium"):
        await main.mark_processed(done, "2")
    with pytest.raises(PendingConflict, match="already has a medium"):
        await main.mark_failed(done)
    with pytest.raises(PendingConflict, match="failed"):
        await main.mark_processed(failed, "1")
    with pytest.raises(PendingNotFound):
        await main.mark_processed(10**18, "1")
    with pytest.raises(PendingNotFound):
        await main.mark_failed(10**18)
    counts = await main.count_by_status()
    assert (counts[PendingStatus.PROCESSED], counts[PendingStatus.FAILED]) == (1, 1)


async def test_a_failed_upload_is_named_in_no_profile(
    main: UploadRepository, backend: Backend, url: str
) -> None:
    (failed,) = await main.insert(456, [new()])
    await main.insert(457, [new(path=PATH + "x")])
    await main.mark_failed(failed)
    told = backend.run(url, "SELECT profile_image_path FROM user_profiles ORDER BY user_id")
    assert told in (["None", PATH + "x"], ["NULL", PATH + "x"])


@pytest.mark.parametrize(("null", "left"), [("NULL", "NULL"), ("NOT NULL", PATH)])
async def test_a_failed_upload_leaves_the_profiles_of_others_where_it_may(
    foreign: tuple[MariaDBBackend, str], settings: DatabaseSettings, null: str, left: str
) -> None:
    backend, url = foreign
    column = f"profile_image_path VARCHAR(255) {null}"
    backend.run(
        url,
        f"DELETE FROM user_profiles WHERE user_id = 457;"
        f"UPDATE user_profiles SET profile_image_path = '';"
        f"ALTER TABLE user_profiles MODIFY {column}",
    )
    await upgrade(url, settings, schema=main_schema(own=False))
    async with UploadRepository(url, settings, own=False) as main:
        (failed,) = await main.insert(456, [new()])
        await main.mark_failed(failed)
        assert (await main.count_by_status())[PendingStatus.FAILED] == 1
    assert backend.run(url, "SELECT profile_image_path FROM user_profiles") == [left]


async def test_addresses_take_the_place_of_exactly_that_path(
    main: UploadRepository, backend: Backend, url: str
) -> None:
    (pending_id,) = await main.insert(456, [new()])
    await main.insert(457, [new(path=PATH + "x")])
    await main.mark_processed(pending_id, "789")
    (row,) = await main.list_ended(PendingStatus.PROCESSED)
    changed = await main.replace_path(row, ADDRESS, COLUMNS)
    assert changed is not None
    assert {place: rows for place, rows in changed.items() if rows} == {PROFILE: 1}
    told = backend.run(url, "SELECT profile_image_path FROM user_profiles ORDER BY user_id")
    assert told == [ADDRESS, PATH + "x"]
    assert await main.replace_path(row, ADDRESS, COLUMNS) is None
    assert (await main.count_by_status())[PendingStatus.COMPLETE] == 1
    await main.mark_processed(pending_id, "789")


async def test_a_replacement_that_is_cut_off_changes_nothing(
    main: UploadRepository, backend: Backend, url: str
) -> None:
    (pending_id,) = await main.insert(456, [new()])
    await main.mark_processed(pending_id, "789")
    (row,) = await main.list_ended(PendingStatus.PROCESSED)
    backend.run(url, "DROP TABLE site_media; SELECT 1")
    with pytest.raises(DatabaseUnavailable):
        await main.replace_path(row, ADDRESS, COLUMNS)
    assert await main.list_ended(PendingStatus.PROCESSED) == [row]
    assert backend.run(url, "SELECT profile_image_path FROM user_profiles") == [PATH]


async def test_the_profiles_of_others_are_changed_where_they_are(
    foreign: tuple[MariaDBBackend, str], settings: DatabaseSettings
) -> None:
    backend, url = foreign
    await upgrade(url, settings, schema=main_schema(own=False))
    async with UploadRepository(url, settings, own=False) as main:
        assert await main.profile_columns() == {PROFILE}
        ids = await main.insert(456, [new(), new("logo_image", PATH + "l"), new("site_image")])
        await main.insert(999, [new(path=PATH + "z")])
        assert ARTIST_LOGO not in await main.profile_columns()
        await main.mark_processed(ids[0], "789")
        (row,) = await main.list_ended(PendingStatus.PROCESSED)
        assert await main.replace_path(row, ADDRESS, await main.profile_columns()) == {PROFILE: 1}
    told = backend.run(url, "SELECT user_id, profile_image_path FROM user_profiles")
    assert told == [f"456\t{ADDRESS}", "457\tNULL"]


async def test_odd_rows_of_others_are_read(
    foreign: tuple[MariaDBBackend, str], settings: DatabaseSettings
) -> None:
    backend, url = foreign
    backend.run(
        url,
        "SET sql_mode = '';" + _REQUIRED + "ALTER TABLE pending_images MODIFY status VARCHAR(20);"
        "INSERT INTO pending_images (user_id, image_path, status, created_at) VALUES"
        " (-1, '', 'pending', '0000-00-00'), (1, 'x', 'archived', NULL), (1, 'x', NULL, NULL)",
    )
    async with UploadRepository(url, settings, own=False) as main:
        (row,) = await main.list_pending(limit=10)
        assert (row.user_id, row.image_path) == (-1, "")
        assert row.created_at.timestamp() == 0
        named = await main.find_by_paths(["x", "y"])
        assert named["x"].status is None
        assert "y" not in named
        with pytest.raises(PendingConflict):
            await main.mark_processed(2, "1")


# A cancelled connect of aiosqlite leaves its connection unclosed; Python 3.13 warns of that.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_cancelled_change_leaves_nothing(main: UploadRepository) -> None:
    for steps in range(0, 60, 5):
        task = asyncio.create_task(main.insert(1, [new("product_image"), new("product_image")]))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    rows = await main.list_pending(limit=100)
    assert await main.count_pending() == len(rows) == len(rows) // 2 * 2
    assert len(await main.insert(1, [new()])) == 1


async def test_uploads_are_durable_in_a_file_of_sqlite(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'main.db'}"
    async with (
        UploadRepository(url, settings, own=True) as main,
        main.connection() as connection,
    ):
        assert await connection.scalar(text("PRAGMA synchronous")) == _FULL
    engine = open_engine(url, settings)
    async with engine.connect() as connection:
        assert await connection.scalar(text("PRAGMA synchronous")) == _NORMAL
    await engine.dispose()


@pytest.mark.slow
async def test_a_commit_that_is_not_answered_is_told_apart(
    mariadb: MariaDB, settings: DatabaseSettings
) -> None:
    """What failed before it has certainly not happened; of the commit itself nobody knows."""
    url = mariadb.url(mariadb.create_database())
    short = settings.model_copy(update={"query_timeout_s": 1})
    await upgrade(url, settings, schema=main_schema(own=True))
    async with UploadRepository(url, short, own=True) as main:
        await main.insert(1, [new()])
        with pytest.raises(CommitUncertain):
            await _pausing(main, mariadb)
        with pytest.raises(DatabaseUnavailable) as told:
            await main.insert(1, [new()])
        mariadb.resume()
        assert not isinstance(told.value, CommitUncertain)
        assert await main.count_pending() == 1


async def _pausing(main: UploadRepository, mariadb: MariaDB) -> None:
    """A transaction whose database stops just before the commit."""
    async with main.transaction() as connection:
        await connection.exec_driver_sql("SELECT 1")
        mariadb.pause()


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{tmp_path}/main.db")
    metadata.create_all(engine)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def profiles(connection: Connection) -> list[tuple[object, ...]]:
    return [tuple(row) for row in connection.execute(text("SELECT * FROM user_profiles"))]


def test_an_upsert_inserts_and_then_updates(connection: Connection) -> None:
    for path in ("a", "b"):
        connection.execute(upsert_profile(PROFILE, 7, path, dialect="sqlite"))
    connection.execute(upsert_profile(HEADER, 7, "h", dialect="sqlite"))
    assert profiles(connection) == [(7, "b", "h")]


def test_an_upsert_of_a_site_always_inserts(connection: Connection) -> None:
    for path in ("a", "b"):
        connection.execute(upsert_profile(SITE, 7, path, dialect="sqlite"))
    found = connection.execute(text("SELECT media_path FROM site_media ORDER BY id"))
    assert [row.media_path for row in found] == ["a", "b"]


def test_an_upsert_is_one_statement_on_mysql() -> None:
    statement = upsert_profile(PROFILE, 7, "a", dialect="mysql")
    assert "ON DUPLICATE KEY UPDATE" in str(statement.compile(dialect=mysql.dialect()))  # type: ignore[attr-defined]


def test_a_value_is_replaced_in_every_row_that_equals_it(connection: Connection) -> None:
    for user_id, path in ((1, "old"), (2, "older"), (3, "old")):
        connection.execute(upsert_profile(PROFILE, user_id, path, dialect="sqlite"))
    assert connection.execute(replace_value(PROFILE, "old", None)).rowcount == 2
    assert profiles(connection) == [(1, None, None), (2, "older", None), (3, None, None)]


async def test_a_profile_has_the_values_of_its_user_in_all_columns(main: UploadRepository) -> None:
    fields = ("profile_image", "logo_image", "site_image")
    paths = {field: f"/temp_images/profiles/{field}.jpg" for field in fields}
    await main.insert(456, [new(field, path) for field, path in paths.items()])
    await main.insert(456, [new("site_image", PATH)])
    await main.insert(457, [new("header_image", PATH)])
    profile = await main.profile(456)
    assert {column: found for column, found in profile.items() if found} == {
        PROFILE: [paths["profile_image"]],
        ARTIST_LOGO: [paths["logo_image"]],
        SITE: [PATH, paths["site_image"]],
    }
    assert not any((await main.profile(1)).values())


async def test_a_profile_of_another_program_has_only_columns_that_name_a_user(
    foreign: tuple[MariaDBBackend, str], settings: DatabaseSettings
) -> None:
    """``site_media`` of the requirements document may belong to a site instead of a user."""
    backend, url = foreign
    backend.run(url, "CREATE TABLE site_media (id INT PRIMARY KEY, media_path VARCHAR(500))")
    async with UploadRepository(url, settings, own=False) as main:
        assert await main.profile(456) == {PROFILE: []}
        backend.run(url, f"UPDATE user_profiles SET profile_image_path = '{PATH}'")
        assert await main.profile(456) == {PROFILE: [PATH]}


@pytest.mark.parametrize(
    "change",
    [
        *(
            f"{column} = {value}"
            for column in ("created_at", "updated_at", "image_path", "original_name", "user_id")
            for value in ("0", "''", "'nonsense'", "x'ff00'", "CAST(x'2fff' AS TEXT)", "1e308")
        ),
        "permanent_url = x'ff'",
    ],
)
async def test_a_bad_upload_affects_only_itself(
    change: str, tmp_path: Path, settings: DatabaseSettings
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/main.db"
    await upgrade(url, settings, schema=main_schema(own=True))
    async with UploadRepository(url, settings, own=True) as database:
        new = NewUpload("logo_image", "/temp_images/profiles/4-logo-1.png", "a.png", "image/png")
        ids = await database.insert(4, [new, new, new])
        with closing(sqlite3.connect(tmp_path / "main.db")) as connection, connection:
            connection.execute(f"UPDATE pending_images SET {change} WHERE id = {ids[1]}")
        rows = await database.list_pending(limit=10)
        # Not left out: the worker lists it, and it ends as failed with a reason.
        assert [one.id for one in rows] == ids
        assert await database.count_pending() == len(ids)
        orjson.dumps([asdict(one) for one in rows])
        await database.mark_failed(ids[1])
        await database.mark_processed(ids[2], "7")


def quota(
    url: str, settings: DatabaseSettings, uploads: int = 0, byte_size: int = 0
) -> UploadQuota:
    return UploadQuota(url, settings, UploadLimits(uploads, byte_size))


@pytest.fixture
async def media_url(url: str, settings: DatabaseSettings) -> str:
    """The same database, with the tables of the media too."""
    await upgrade(url, settings)
    return url


async def test_a_user_may_upload_a_number_of_files_per_day(
    media_url: str, settings: DatabaseSettings, backend: Backend
) -> None:
    async with quota(media_url, settings, uploads=3) as limited:
        for _ in range(2):
            await limited.reserve(7, uploads=0, byte_size=0)
        await limited.reserve(7, uploads=2, byte_size=999)
        with pytest.raises(QuotaExceeded, match="3 files per day") as told:
            await limited.reserve(7, uploads=2, byte_size=0)
        assert 0 < (told.value.retry_after_s or 0) <= 86_400
        # Nothing was added by that. Other users have their own.
        await limited.reserve(7, uploads=1, byte_size=0)
        await limited.reserve(8, uploads=3, byte_size=0)
        with pytest.raises(QuotaExceeded):
            await limited.reserve(7, uploads=0, byte_size=0)
        # A failed upload is returned.
        await limited.reserve(7, uploads=-1, byte_size=0)
        await limited.reserve(7, uploads=0, byte_size=0)
        await limited.reserve(7, uploads=1, byte_size=0)
        # The next day, and the row of yesterday is not kept.
        backend.run(media_url, "UPDATE upload_usage SET day = day - 1; SELECT 1")
        await limited.reserve(7, uploads=3, byte_size=0)
        rows = backend.run(media_url, "SELECT uploads FROM upload_usage WHERE user_id = 7")
        assert rows == ["3"]


async def test_a_user_may_upload_a_number_of_bytes_per_day(
    media_url: str, settings: DatabaseSettings
) -> None:
    async with quota(media_url, settings, byte_size=1000) as limited:
        await limited.reserve(7, uploads=50, byte_size=1000)
        for uploads, byte_size in ((0, 0), (1, 1)):
            with pytest.raises(QuotaExceeded, match="1000 bytes per day"):
                await limited.reserve(7, uploads=uploads, byte_size=byte_size)


async def test_concurrent_uploads_of_a_user_cannot_exceed_the_quota(
    media_url: str, settings: DatabaseSettings
) -> None:
    async with quota(media_url, settings, uploads=5) as one, quota(media_url, settings, 5) as two:
        reserved = [server.reserve(7, uploads=1, byte_size=1) for server in (one, two) * 6]
        told = await asyncio.gather(*reserved, return_exceptions=True)
    assert sum(answer is None for answer in told) == 5
    assert {type(answer) for answer in told if answer is not None} == {QuotaExceeded}
