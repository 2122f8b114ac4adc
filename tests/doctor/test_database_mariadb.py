"""Checks of a MariaDB that is stopped, hangs, has another schema, or denies access."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.doctor.check import Verdict
from proxy.settings import Settings
from proxy.storage.database.schema import MEDIA, main_schema, upgrade
from tests.doctor.conftest import problems, run_area
from tests.support.mariadb import MariaDB
from tests.support.ports import free_port
from tests.support.server import make_settings

pytestmark = pytest.mark.slow


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


async def test_a_sound_mariadb_passes_all_checks(served: Settings) -> None:
    found = await run_area("database", served)
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert found["database"].seen.startswith("mysql 1")


@pytest.fixture
async def stopped(mariadb: MariaDB) -> AsyncIterator[None]:
    mariadb.stop()
    yield
    mariadb.start()


async def test_a_stopped_mariadb_fails(served: Settings, stopped: None) -> None:
    found = await run_area("database", served)
    assert problems(found) == {"database": Verdict.FAIL}
    assert "cannot connect: Can't connect" in found["database"].seen
    assert "systemctl status mariadb" in found["database"].advice


@pytest.fixture
def paused(mariadb: MariaDB, name: str) -> Iterator[None]:
    mariadb.pause()
    yield
    mariadb.resume()


async def test_a_mariadb_that_hangs_is_given_up(
    mariadb: MariaDB, name: str, paused: None, tmp_path: Path
) -> None:
    quick = {"url": mariadb.url(name), "connect_timeout_s": 0.5, "query_timeout_s": 0.5}
    found = await run_area("database", make_settings(tmp_path, database=quick))
    assert "no answer in time" in found["database"].seen


@pytest.mark.parametrize(
    ("user", "database", "text", "advice"),
    [
        ("nobody:wrong", "{name}", "Access denied", "SMARTSERVE_DATABASE__URL"),
        ("root", "not_there", "Unknown database", "CREATE DATABASE"),
    ],
)
async def test_denied_access_is_reported_without_the_password(
    user: str, database: str, text: str, advice: str, mariadb: MariaDB, name: str, tmp_path: Path
) -> None:
    url = f"mysql+aiomysql://{user}@127.0.0.1:{mariadb.port}/{database.format(name=name)}"
    settings = make_settings(tmp_path, database={"url": url})
    found = (await run_area("database", settings))["database"]
    assert (found.verdict, text in found.seen, advice in found.advice) == (Verdict.FAIL, True, True)
    assert "wrong" not in found.seen


@pytest.mark.parametrize(
    ("version", "text", "advice"),
    [
        ("0002", f"is at 0002, {MEDIA.revisions[-1]} is required", "smartserve db upgrade"),
        ("0099", "0099 was created by a newer smartserve; install that", "the server's log"),
    ],
)
async def test_a_schema_of_another_version_fails(
    version: str, text: str, advice: str, mariadb: MariaDB, name: str, served: Settings
) -> None:
    mariadb.execute(f"UPDATE smartserve_version SET version_num = '{version}'", database=name)
    found = await run_area("database", served)
    assert problems(found) == {"database schema": Verdict.FAIL}
    assert text in found["database schema"].seen
    assert advice in found["database schema"].advice


async def test_a_database_without_tables_fails(mariadb: MariaDB, tmp_path: Path) -> None:
    url = mariadb.url(mariadb.create_database())
    found = await run_area("database", make_settings(tmp_path, database={"url": url}))
    assert f"is at no version, {MEDIA.revisions[-1]} is" in found["database schema"].seen
    assert "read media_files" in found["database permissions"].seen


async def test_a_main_database_that_is_away_fails_the_schema(
    mariadb: MariaDB, name: str, tmp_path: Path
) -> None:
    main = {"url": f"mysql+aiomysql://root@127.0.0.1:{free_port()}/main"}
    settings = make_settings(tmp_path, database={"url": mariadb.url(name)}, main=main)
    found = await run_area("database", settings)
    assert problems(found) == {"database schema": Verdict.FAIL}
    assert "cannot connect to main.url: Can't connect" in found["database schema"].seen
    assert "host and port in main.url" in found["database schema"].advice


_READS = "GRANT SELECT ON {name}.* TO reader@'%' IDENTIFIED BY 'secret-of-reader';"
_FACTS = "".join(
    f"GRANT SELECT, INSERT, DELETE ON {{name}}.{table} TO reader@'%';"
    for table in ("media_facts", "media_faces", "purges")
)
_METADATA = (
    "GRANT UPDATE, DELETE ON {name}.media_metadata TO reader@'%';"
    "GRANT DELETE ON {name}.media_tags TO reader@'%';"
)
_CHOICES = "GRANT INSERT, UPDATE ON {name}.purge_epochs TO reader@'%';" + "".join(
    f"GRANT INSERT, UPDATE, DELETE ON {{name}}.{table} TO reader@'%';"
    for table in ("media_choices", "media_alt_texts")
)


@pytest.mark.parametrize(
    ("grants", "ingest", "denied"),
    [
        (_READS, False, ["write media_facts", "delete from media_facts", "write media_choices"]),
        (_READS + _FACTS, False, ["change media_metadata", "delete from media_tags"]),
        (_READS + _FACTS + _METADATA + _CHOICES, False, []),
        (
            _READS + _FACTS + _METADATA + _CHOICES,
            True,
            ["write media_files", "write media_metadata"],
        ),
    ],
)
async def test_denied_operations_are_named(
    grants: str,
    ingest: bool,  # noqa: FBT001
    denied: list[str],
    mariadb: MariaDB,
    name: str,
    tmp_path: Path,
) -> None:
    mariadb.execute(f"DROP USER IF EXISTS reader@'%'; {grants.format(name=name)}")
    url = f"mysql+aiomysql://reader:secret-of-reader@127.0.0.1:{mariadb.port}/{name}"
    settings = make_settings(tmp_path, database={"url": url}, main={"enabled": ingest})
    found = await run_area("database", settings)
    assert list(problems(found)) == (["database permissions"] if denied else [])
    for operation in denied:
        assert f"{operation}: " in found["database permissions"].seen
    if denied:
        assert "GRANT SELECT" in found["database permissions"].advice


async def test_the_check_of_permissions_changes_no_row(
    mariadb: MariaDB, name: str, served: Settings
) -> None:
    checksum = "CHECKSUM TABLE media_files, media_facts, media_fallbacks, ingest_items"
    mariadb.execute(
        "INSERT INTO media_files (id, main_api_id, user_id, data_type) VALUES (1, 0, 7, 'product')",
        database=name,
    )
    before = mariadb.execute(checksum, database=name)
    await run_area("database", served)
    assert mariadb.execute(checksum, database=name) == before
