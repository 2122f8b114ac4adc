"""Databases that are well, and real ones that are stopped, old, closed or too small."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.app.storage import schemas
from proxy.doctor import Verdict, looked
from proxy.doctor.database import DatabaseFacts, look
from proxy.doctor.table import DATABASE
from proxy.settings import Settings
from proxy.storage.database.diagnostics import DatabaseHealth
from proxy.storage.database.schema import MEDIA, main_schema, upgrade
from tests.benchmarks.servers import free_port
from tests.doctor.conftest import Diagnoses, diagnoses
from tests.support.mariadb import MariaDB
from tests.support.server import make_settings

ALL = [check.name for check in DATABASE]


async def told(settings: Settings, *, ingest: bool = True) -> Diagnoses:
    return diagnoses(DATABASE, await looked(look(settings, schemas(settings), ingest=ingest)))


def unwell(found: Diagnoses) -> list[str]:
    return [name for name, one in found.items() if one.verdict in (Verdict.WARN, Verdict.FAIL)]


@pytest.fixture
async def name(mariadb: MariaDB) -> str:
    """A database that is up to date."""
    name = mariadb.create_database()
    settings = make_settings(Path("unused"), database={"url": mariadb.url(name)})
    for schema in (MEDIA, main_schema(own=True)):
        await upgrade(settings.database_url, settings.database, schema=schema)
    return name


@pytest.fixture
def served(mariadb: MariaDB, name: str, tmp_path: Path) -> Settings:
    return make_settings(tmp_path, database={"url": mariadb.url(name)})


async def test_a_mariadb_that_is_well(served: Settings) -> None:
    found = await told(served)
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert found["database"].seen.startswith("mysql 1")
    assert "of 60 are open" in found["database connections"].seen


async def test_an_sqlite_that_is_well(data_dir: Path) -> None:
    found = await told(make_settings(data_dir))
    assert unwell(found) == []
    assert found["database connections"].verdict is Verdict.SKIPPED


async def test_an_sqlite_file_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    found = await told(make_settings(tmp_path / "elsewhere"))
    assert found["database"].verdict is Verdict.FAIL
    assert "data_dir" in found["database"].advice
    assert [found[name].verdict for name in ALL[1:]] == [Verdict.SKIPPED] * 4
    assert not (tmp_path / "elsewhere").exists()


async def test_an_sqlite_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "smartserve.db").write_text("no database, whatever its name says " * 100)
    found = (await told(make_settings(tmp_path)))["database"]
    assert (found.verdict, "not a database" in found.seen) == (Verdict.FAIL, True)
    assert "SQLite file has to be the server's own" in found.advice


async def test_an_sqlite_that_another_holds_is_told(data_dir: Path) -> None:
    quick = {"query_timeout_s": 1}
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        found = (await told(make_settings(data_dir, database=quick)))["database rights"]
    assert (found.verdict, "database is locked" in found.seen) == (Verdict.FAIL, True)


@pytest.fixture
async def stopped(mariadb: MariaDB) -> AsyncIterator[None]:
    mariadb.stop()
    yield
    mariadb.start()


async def test_a_mariadb_that_is_stopped_is_told(served: Settings, stopped: None) -> None:
    found = await told(served)
    assert found["database"].verdict is Verdict.FAIL
    assert "cannot be asked: Can't connect" in found["database"].seen
    assert "systemctl status mariadb" in found["database"].advice
    assert [found[name].verdict for name in ALL[1:]] == [Verdict.SKIPPED] * 4


@pytest.fixture
def paused(mariadb: MariaDB, name: str) -> Iterator[None]:
    mariadb.pause()
    yield
    mariadb.resume()


async def test_a_mariadb_that_hangs_is_not_waited_for(
    mariadb: MariaDB, name: str, paused: None, tmp_path: Path
) -> None:
    quick = {"url": mariadb.url(name), "connect_timeout_s": 0.5, "query_timeout_s": 0.5}
    found = await told(make_settings(tmp_path, database=quick))
    assert "no answer in time" in found["database"].seen


@pytest.mark.parametrize(
    ("user", "database", "seen", "advice"),
    [
        ("nobody:wrong", "{name}", "Access denied", "SMARTSERVE_DATABASE__URL"),
        ("root", "not_there", "Unknown database", "CREATE DATABASE"),
    ],
)
async def test_who_may_not_in_is_told_what_to_set(
    user: str, database: str, seen: str, advice: str, mariadb: MariaDB, name: str, tmp_path: Path
) -> None:
    url = f"mysql+aiomysql://{user}@127.0.0.1:{mariadb.port}/{database.format(name=name)}"
    found = (await told(make_settings(tmp_path, database={"url": url})))["database"]
    assert (found.verdict, seen in found.seen, advice in found.advice) == (Verdict.FAIL, True, True)
    assert "wrong" not in found.seen


@pytest.mark.parametrize(
    ("version", "seen", "advice"),
    [
        ("0002", "smartserve_version: is at 0002, and 0004 is wanted", "smartserve db upgrade"),
        ("0099", "a newer smartserve has made", "install the version"),
    ],
)
async def test_a_schema_of_another_version_is_told(
    version: str, seen: str, advice: str, mariadb: MariaDB, name: str, served: Settings
) -> None:
    mariadb.execute(f"UPDATE smartserve_version SET version_num = '{version}'", database=name)
    found = await told(served)
    assert unwell(found) == ["database schema"]
    assert seen in found["database schema"].seen
    assert advice in found["database schema"].advice


async def test_a_database_without_our_tables_is_told(mariadb: MariaDB, tmp_path: Path) -> None:
    url = mariadb.url(mariadb.create_database())
    found = await told(make_settings(tmp_path, database={"url": url}))
    assert "is at no version, and 0004 is wanted" in found["database schema"].seen
    assert "read media_files" in found["database rights"].seen


async def test_a_main_database_of_another_program_that_is_away(
    mariadb: MariaDB, name: str, tmp_path: Path
) -> None:
    main = {"url": f"mysql+aiomysql://root@127.0.0.1:{free_port()}/main"}
    settings = make_settings(tmp_path, database={"url": mariadb.url(name)}, main=main)
    found = await told(settings)
    assert unwell(found) == ["database schema"]
    assert "main.url cannot be asked: Can't connect" in found["database schema"].seen
    assert "host and port in main.url" in found["database schema"].advice


_READS = "GRANT SELECT ON {name}.* TO reader@'%' IDENTIFIED BY 'secret-of-reader';"
_FACTS = "GRANT SELECT, INSERT, DELETE ON {name}.media_facts TO reader@'%';"


@pytest.mark.parametrize(
    ("grants", "ingest", "refused"),
    [
        (_READS, False, ["write media_facts", "delete from media_facts"]),
        (_READS + _FACTS, False, []),
        (_READS + _FACTS, True, ["write media_files", "write ingest_items"]),
    ],
)
async def test_rights_that_are_missing_are_named(
    grants: str,
    ingest: bool,  # noqa: FBT001
    refused: list[str],
    mariadb: MariaDB,
    name: str,
    tmp_path: Path,
) -> None:
    mariadb.execute(f"DROP USER IF EXISTS reader@'%'; {grants.format(name=name)}")
    url = f"mysql+aiomysql://reader:secret-of-reader@127.0.0.1:{mariadb.port}/{name}"
    found = await told(make_settings(tmp_path, database={"url": url}), ingest=ingest)
    assert unwell(found) == (["database rights"] if refused else [])
    for what in refused:
        assert f"{what}: " in found["database rights"].seen
    if refused:
        assert "GRANT SELECT" in found["database rights"].advice


async def test_asking_for_rights_changes_nothing(
    mariadb: MariaDB, name: str, served: Settings
) -> None:
    checksum = "CHECKSUM TABLE media_files, media_facts, media_fallbacks, ingest_items"
    mariadb.execute(
        "INSERT INTO media_files (id, main_api_id, user_id, data_type) VALUES (1, 0, 7, 'product')",
        database=name,
    )
    before = mariadb.execute(checksum, database=name)
    await told(served)
    assert mariadb.execute(checksum, database=name) == before


async def test_an_sqlite_file_that_cannot_be_written_is_told(data_dir: Path) -> None:
    settings = make_settings(data_dir)
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as connection:
        # As the owner of everything, tests may write what is closed to others.
        connection.execute("DROP TABLE media_facts")
        connection.execute("CREATE VIEW media_facts AS SELECT id AS media_id FROM media_files")
        connection.commit()
    found = (await told(settings))["database rights"]
    assert found.verdict is Verdict.FAIL
    assert "write media_facts: cannot modify media_facts" in found.seen


async def test_a_pool_that_the_database_has_no_room_for(
    mariadb: MariaDB, name: str, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path, database={"url": mariadb.url(name), "pool_size": 100})
    found = await told(settings)
    assert unwell(found) == ["database connections"]
    assert "database.pool_size" in found["database connections"].advice


SEEN = DatabaseFacts(DatabaseHealth("mysql", "10.11", 0.001, 0.0, 151, 10), (), (), 15)


@pytest.mark.parametrize(
    ("vitals", "check", "verdict", "advice"),
    [
        ({"ahead_s": -10.0}, "database clock", Verdict.WARN, "NTP"),
        ({"ahead_s": 7200.0}, "database clock", Verdict.FAIL, "NTP"),
        ({"latency_s": 0.3}, "database", Verdict.WARN, "near"),
        ({"connections": 140}, "database connections", Verdict.WARN, "max_connections"),
    ],
)
def test_a_database_that_is_off_late_or_nearly_full(
    vitals: dict[str, float], check: str, verdict: Verdict, advice: str
) -> None:
    seen = replace(SEEN, vitals=replace(SEEN.vitals, **vitals))  # type: ignore[arg-type]
    found = diagnoses(DATABASE, seen)
    assert unwell(found) == [check]
    assert (found[check].verdict, advice in found[check].advice) == (verdict, True)
