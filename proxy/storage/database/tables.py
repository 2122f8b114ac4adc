"""The tables: three as the requirements document has them, and those of our own beside them.

The queries are built from these. The tables themselves are made by the migrations, which keep
frozen copies of their own; a test holds the two equal.
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
    """The time of the insert and of each update; SQLite has a trigger for the latter."""

    inherit_cache = True
    type = TIMESTAMP()


@compiles(UpdatedAt)
def _touched(_element: UpdatedAt, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(UpdatedAt, "mysql")
def _touched_on_update(_element: UpdatedAt, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP"


def _one_of(*values: str) -> TypeEngine[str]:
    return String(16).with_variant(mysql.ENUM(*values), "mysql")


def _counted() -> TypeEngine[int]:
    """A BIGINT that counts up by itself; in SQLite only an INTEGER does."""
    return BigInteger().with_variant(Integer(), "sqlite")


_JSON = JSON(none_as_null=True)

metadata = MetaData()

media_files = Table(
    "media_files",
    metadata,
    Column("id", _counted(), primary_key=True, autoincrement=True),
    Column("main_api_id", BigInteger, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("data_type", _one_of(*DataType), nullable=False),
    Column("original_name", String(255)),
    Column("mime_type", String(100)),
    Column("file_size", BigInteger),
    Column("bulk_path", String(500)),
    Column("library_path", String(500)),
    Column("status", _one_of(*MediaStatus)),
    Column("created_at", TIMESTAMP, server_default=text("CURRENT_TIMESTAMP")),
    Column("updated_at", TIMESTAMP, server_default=UpdatedAt()),
    sqlite_autoincrement=True,
)

media_facts = Table(
    "media_facts",
    metadata,
    # No foreign key: it would need InnoDB, an equal column type and a right on a table that
    # another program owns, and it would refuse that program its deletes.
    Column("media_id", BigInteger, primary_key=True, autoincrement=False),
    Column("content_hash", String(64), nullable=False, index=True),
    Column("byte_size", BigInteger, nullable=False),
    Column("source_type", String(16), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("has_alpha", Boolean, nullable=False),
    Column("pages", Integer, nullable=False),
    Column("flat_background", Boolean, nullable=False),
    Column("focus_x", Double),
    Column("focus_y", Double),
    Column("source_path", String(500), nullable=False),
    Column("row_version", String(64), nullable=False),
    Column("learned_at", TIMESTAMP, nullable=False, server_default=text("CURRENT_TIMESTAMP")),
)

processing_checklist = Table(
    "processing_checklist",
    metadata,
    Column("id", _counted(), primary_key=True, autoincrement=True),
    Column("media_id", BigInteger, nullable=False, unique=True),
    Column("worker_id", String(50), nullable=False),
    *(Column(step, _one_of(*StepState), server_default=StepState.PENDING) for step in Step),
    *(Column(f"{step}_attempts", Integer, server_default=text("0")) for step in Step),
    Column("created_at", TIMESTAMP, server_default=text("CURRENT_TIMESTAMP")),
    Column("updated_at", TIMESTAMP, server_default=UpdatedAt()),
)

media_ai_analysis = Table(
    "media_ai_analysis",
    metadata,
    Column("id", _counted(), primary_key=True, autoincrement=True),
    Column("media_id", BigInteger, nullable=False, unique=True),
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
    Column("created_at", TIMESTAMP, server_default=text("CURRENT_TIMESTAMP")),
)

media_analysis_details = Table(
    "media_analysis_details",
    metadata,
    Column("media_id", BigInteger, primary_key=True, autoincrement=False),
    Column("details", _JSON, nullable=False),
)

ingest_items = Table(
    "ingest_items",
    metadata,
    Column("main_api_id", BigInteger, primary_key=True, autoincrement=False),
    Column("media_id", BigInteger, index=True),
    Column("user_id", BigInteger, nullable=False),
    Column("image_path", String(500), nullable=False),
    Column("original_name", String(255)),
    Column("mime_type", String(100)),
    Column("data_type", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    # Nothing more is tried: what is left to do is to tell the main API.
    Column("final", Boolean, nullable=False),
    Column("worker_id", String(50)),
    Column("lease", String(32)),
    # Times that are compared: seconds since 1970 by the database's own clock, fractions included.
    Column("lease_until", Double),
    # When there is something to do again; NULL where there never is.
    Column("not_before", Double),
    Column("heals", Integer, nullable=False),
    Column("takeovers", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("finished_at", Double),
    Index("ix_ingest_items_due", "state", "not_before"),
)

media_fallbacks = Table(
    "media_fallbacks",
    metadata,
    # As above, no foreign key. By content and not by path: a path of 500 characters makes a key
    # whose collation decides which names are equal.
    Column("media_id", BigInteger, primary_key=True, autoincrement=False),
    Column("content_hash", String(64), primary_key=True),
    Column("source_path", String(500), nullable=False),
    Column("byte_size", BigInteger, nullable=False),
    Column("source_type", String(16), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("has_alpha", Boolean, nullable=False),
    Column("pages", Integer, nullable=False),
    Column("flat_background", Boolean, nullable=False),
    Column("focus_x", Double),
    Column("focus_y", Double),
    Column("adopted_at", TIMESTAMP, nullable=False, server_default=text("CURRENT_TIMESTAMP")),
)
"""Lesser files of pictures, from which these are rendered when their source cannot be had."""
