"""The tables and their column types on each dialect."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, insert, select
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.schema import CreateTable

from proxy.storage.database.metadata_tables import media_tags
from proxy.storage.database.tables import (
    media_ai_analysis,
    media_files,
    metadata,
    processing_checklist,
)


def ddl(name: str, dialect: str) -> str:
    chosen = mysql.dialect() if dialect == "mysql" else sqlite.dialect()
    return str(CreateTable(metadata.tables[name]).compile(dialect=chosen))


@pytest.mark.parametrize("name", sorted(metadata.tables))
def test_every_table_stores_names_in_any_script_on_mysql(name: str) -> None:
    assert "CHARSET=utf8mb4" in ddl(name, "mysql")
    assert "ENGINE=InnoDB" in ddl(name, "mysql")


def test_mysql_updates_the_timestamp_itself() -> None:
    assert "ON UPDATE CURRENT_TIMESTAMP" in ddl("media_files", "mysql")
    assert "ON UPDATE" not in ddl("media_files", "sqlite")


def test_choices_are_an_enum_on_mysql_and_text_on_sqlite() -> None:
    assert "status ENUM('downloading'" in ddl("media_files", "mysql")
    assert "status VARCHAR(16)" in ddl("media_files", "sqlite")


def test_tags_are_compared_as_they_are_written_on_mysql_too() -> None:
    assert "tag VARCHAR(191) COLLATE utf8mb4_bin" in ddl(media_tags.name, "mysql")
    assert "COLLATE" not in ddl(media_tags.name, "sqlite")


def test_ids_count_up_and_are_not_reused_on_sqlite(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/media.db")
    metadata.create_all(engine)
    row = {"main_api_id": 0, "user_id": 1, "data_type": "logo"}
    with engine.begin() as connection:
        first = connection.execute(insert(media_files).values(row)).lastrowid
        connection.execute(media_files.delete())
        assert connection.execute(insert(media_files).values(row)).lastrowid > first
    engine.dispose()


def test_defaults_and_json_are_read_as_they_were_written(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/media.db")
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(processing_checklist).values(media_id=1, worker_id=""))
        connection.execute(insert(media_ai_analysis).values(media_id=1, mood_keywords=["ü"]))
        steps = connection.execute(select(processing_checklist)).one()
        analysis = connection.execute(select(media_ai_analysis)).one()
    engine.dispose()
    assert (steps.retrieve_file, steps.retrieve_file_attempts) == ("pending", 0)
    assert (analysis.mood_keywords, analysis.detected_objects) == (["ü"], None)
