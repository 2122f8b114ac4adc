"""Defines the tables of the media database, and the column builders that all tables share.

Three tables follow the requirements document; the others are our own. The queries are built from
these definitions, and the migrations create the tables from them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    TIMESTAMP,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Double,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from proxy.domain.ingest_item import StepState
from proxy.domain.media import DataType, MediaStatus
from proxy.domain.pending_image import Step


class UpdatedAt(ColumnElement[datetime]):
    """Server default of ``updated_at``: the time of the insert and, on MySQL, of each update.

    SQLite has no ON UPDATE; there the migrations create a trigger.
    """

    inherit_cache = True
    type = TIMESTAMP()


@compiles(UpdatedAt)
def _compile_default(_element: UpdatedAt, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(UpdatedAt, "mysql")
def _compile_mysql(_element: UpdatedAt, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP"


def one_of(*values: str) -> TypeEngine[str]:
    """Return an ENUM on MySQL and MariaDB, else text."""
    return String(16).with_variant(mysql.ENUM(*values), "mysql")


def auto_id() -> Column[int]:
    """Build ``id``, which counts up; in SQLite only an INTEGER does."""
    kind = BigInteger().with_variant(Integer(), "sqlite")
    return Column("id", kind, primary_key=True, autoincrement=True)


def foreign_id(name: str) -> Column[int]:
    """Build a primary key that another table assigns.

    There is no foreign key: it would need InnoDB, an equal column type and a privilege on a table
    that another program owns, and it would make that program's deletes fail.
    """
    return Column(name, BigInteger, primary_key=True, autoincrement=False)


def required(name: str, kind: Any, **options: Any) -> Column[Any]:
    """Build a column that is NOT NULL."""
    return Column(name, kind, nullable=False, **options)


def created_at(name: str = "created_at", *, nullable: bool = True) -> Column[Any]:
    """Build the time of the insert."""
    now = text("CURRENT_TIMESTAMP")
    return Column(name, TIMESTAMP, nullable=nullable, server_default=now)


def updated_at() -> Column[Any]:
    """Build the time of the last change."""
    return Column("updated_at", TIMESTAMP, server_default=UpdatedAt())


def _fact_columns() -> list[Column[Any]]:
    return [
        required("byte_size", BigInteger),
        required("source_type", String(16)),
        required("width", Integer),
        required("height", Integer),
        required("has_alpha", Boolean),
        required("pages", Integer),
        required("flat_background", Boolean),
        Column("focus_x", Double),
        Column("focus_y", Double),
    ]


_JSON = JSON(none_as_null=True)

# The server's default may be another engine, or a character set that cannot store every name.
MYSQL_OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}

metadata = MetaData()

media_files = Table(
    "media_files",
    metadata,
    auto_id(),
    required("main_api_id", BigInteger),
    required("user_id", BigInteger),
    required("data_type", one_of(*DataType)),
    Column("original_name", String(255)),
    Column("mime_type", String(100)),
    Column("file_size", BigInteger),
    Column("bulk_path", String(500)),
    Column("library_path", String(500)),
    Column("status", one_of(*MediaStatus)),
    created_at(),
    updated_at(),
    sqlite_autoincrement=True,
    **MYSQL_OPTIONS,
)

media_facts = Table(
    "media_facts",
    metadata,
    foreign_id("media_id"),
    required("content_hash", String(64), index=True),
    *_fact_columns(),
    required("source_path", String(500)),
    required("row_version", String(64)),
    created_at("learned_at", nullable=False),
    **MYSQL_OPTIONS,
)

processing_checklist = Table(
    "processing_checklist",
    metadata,
    auto_id(),
    required("media_id", BigInteger, unique=True),
    required("worker_id", String(50)),
    *(Column(step, one_of(*StepState), server_default=StepState.PENDING) for step in Step),
    *(Column(f"{step}_attempts", Integer, server_default=text("0")) for step in Step),
    created_at(),
    updated_at(),
    **MYSQL_OPTIONS,
)

media_ai_analysis = Table(
    "media_ai_analysis",
    metadata,
    auto_id(),
    required("media_id", BigInteger, unique=True),
    Column("dominant_colors", _JSON),
    Column("detected_objects", _JSON),
    Column("detected_text", Text),
    Column("style_classification", String(255)),
    Column("medium_detected", String(255)),
    Column("subject_matter", Text),
    Column("quality_score", Integer),
    Column("mood_keywords", _JSON),
    Column("confidence_score", Float),
    Column("raw_google_response", _JSON),
    Column("raw_gpt4_response", _JSON),
    created_at(),
    **MYSQL_OPTIONS,
)

media_analysis_details = Table(
    "media_analysis_details",
    metadata,
    foreign_id("media_id"),
    required("details", _JSON),
    **MYSQL_OPTIONS,
)

ingest_items = Table(
    "ingest_items",
    metadata,
    foreign_id("main_api_id"),
    Column("media_id", BigInteger, index=True),
    required("user_id", BigInteger),
    required("image_path", String(500)),
    Column("original_name", String(255)),
    Column("mime_type", String(100)),
    required("data_type", String(16)),
    required("state", String(16)),
    Column("reason", Text),
    # True once no step is tried again; only the report to the main API may still be due.
    required("final", Boolean),
    Column("worker_id", String(50)),
    Column("lease", String(32)),
    # Times that are compared: seconds since 1970 on the database's clock, with fractions.
    Column("lease_until", Double),
    # When the item is due next; NULL if it never is.
    Column("not_before", Double),
    required("heals", Integer),
    required("takeovers", Integer),
    required("created_at", Double),
    required("updated_at", Double),
    Column("finished_at", Double),
    Index("ix_ingest_items_due", "state", "not_before"),
    **MYSQL_OPTIONS,
)

# Smaller files of a medium, from which it is rendered while its source is missing. The key is the
# content and not the path: a path of 500 characters makes a long key, and the collation of the
# table would decide which names are equal.
media_fallbacks = Table(
    "media_fallbacks",
    metadata,
    foreign_id("media_id"),
    Column("content_hash", String(64), primary_key=True),
    required("source_path", String(500)),
    *_fact_columns(),
    created_at("adopted_at", nullable=False),
    **MYSQL_OPTIONS,
)
