"""The profile columns of the main database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, text

from proxy.storage.database.profile_columns import (
    COLUMNS,
    COLUMNS_OF,
    HEADER,
    PROFILE,
    SITE,
    existing_columns,
    metadata,
)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{tmp_path}/main.db")
    metadata.create_all(engine)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def test_our_own_database_has_all_columns(connection: Connection) -> None:
    assert existing_columns(connection) == frozenset(COLUMNS)


def test_columns_and_tables_that_are_missing_are_left_out(connection: Connection) -> None:
    connection.execute(text("DROP TABLE site_media"))
    connection.execute(text("ALTER TABLE user_profiles DROP COLUMN header_image_path"))
    assert existing_columns(connection) == frozenset(COLUMNS) - {SITE, HEADER}


def test_every_form_field_names_known_columns() -> None:
    assert {one for columns in COLUMNS_OF.values() for one in columns} == set(COLUMNS)
    assert str(PROFILE) == "user_profiles.profile_image_path"
