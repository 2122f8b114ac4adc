"""Statements on the profile columns of the main database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.dialects import mysql

from proxy.storage.database.profile_columns import (
    COLUMNS,
    COLUMNS_OF,
    HEADER,
    PROFILE,
    SITE,
    existing_columns,
    metadata,
    replace_value,
    upsert_profile,
)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{tmp_path}/main.db")
    metadata.create_all(engine)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def profiles(connection: Connection) -> list[tuple[object, ...]]:
    return [tuple(row) for row in connection.execute(text("SELECT * FROM user_profiles"))]


def test_our_own_database_has_all_columns(connection: Connection) -> None:
    assert existing_columns(connection) == frozenset(COLUMNS)


def test_columns_and_tables_that_are_missing_are_left_out(connection: Connection) -> None:
    connection.execute(text("DROP TABLE site_media"))
    connection.execute(text("ALTER TABLE user_profiles DROP COLUMN header_image_path"))
    assert existing_columns(connection) == frozenset(COLUMNS) - {SITE, HEADER}


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


def test_every_form_field_names_known_columns() -> None:
    assert {one for columns in COLUMNS_OF.values() for one in columns} == set(COLUMNS)
    assert str(PROFILE) == "user_profiles.profile_image_path"
