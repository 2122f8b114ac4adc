"""Checks of an SQLite database and of clocks; MariaDB is in test_database_mariadb."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from proxy.doctor.check import Verdict
from proxy.doctor.database import judge_offset
from tests.doctor.conftest import problems, run_area
from tests.support.server import make_settings


async def test_a_sound_sqlite_database_passes_all_checks(data_dir: Path) -> None:
    found = await run_area("database", make_settings(data_dir))
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert found["database"].seen.startswith("sqlite 3")


async def test_a_missing_sqlite_file_is_not_created(tmp_path: Path) -> None:
    found = await run_area("database", make_settings(tmp_path / "elsewhere"))
    assert problems(found) == {"database": Verdict.FAIL}
    assert "data_dir" in found["database"].advice
    assert not (tmp_path / "elsewhere").exists()


async def test_a_file_that_is_not_a_database_fails(tmp_path: Path) -> None:
    (tmp_path / "smartserve.db").write_text("not a database, whatever its name is " * 100)
    found = (await run_area("database", make_settings(tmp_path)))["database"]
    assert (found.verdict, "not a database" in found.seen) == (Verdict.FAIL, True)
    assert "restore it from a backup" in found.advice


async def test_a_locked_database_fails_the_check_of_permissions(data_dir: Path) -> None:
    quick = {"query_timeout_s": 1}
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        found = await run_area("database", make_settings(data_dir, database=quick))
    assert problems(found) == {"database permissions": Verdict.FAIL}
    assert "database is locked" in found["database permissions"].seen


async def test_a_missing_index_is_reported_with_its_statement(data_dir: Path) -> None:
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as connection:
        connection.execute("DROP INDEX ix_media_files_main_api_id")
    found = await run_area("database", make_settings(data_dir))
    assert problems(found) == {"database schema": Verdict.WARN}
    assert "CREATE INDEX ix_media_files_main_api_id" in found["database schema"].advice


async def test_a_table_that_cannot_be_written_is_named(data_dir: Path) -> None:
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as connection:
        # Tests may run as root, who can write any file: a view cannot be written by anyone.
        connection.execute("DROP TABLE media_facts")
        connection.execute("CREATE VIEW media_facts AS SELECT id AS media_id FROM media_files")
        connection.commit()
    found = (await run_area("database", make_settings(data_dir)))["database permissions"]
    assert found.verdict is Verdict.FAIL
    assert "write media_facts: cannot modify media_facts" in found.seen


@pytest.mark.parametrize(
    ("offset_s", "verdict"),
    [(0.0, Verdict.OK), (-10.0, Verdict.WARN), (7200.0, Verdict.FAIL)],
)
def test_a_clock_that_differs_is_reported(offset_s: float, verdict: Verdict) -> None:
    found = judge_offset(offset_s)
    assert (found.verdict, "NTP" in found.advice) == (verdict, verdict is not Verdict.OK)
