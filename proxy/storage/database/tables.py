"""Defines the tables of the media database, and the column builders that all tables share.

Three tables follow the requirements document; the others are our own. The queries are built from
these definitions, and the migrations create the tables from them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from proxy.domain.embedding import WORDS
from proxy.domain.media import MAX_LANGUAGE, DataType, MediaStatus
from proxy.domain.upload import Step, StepState


class _DialectText(sa.ColumnElement[Any]):
    """An SQL expression whose text depends on the database."""

    on_sqlite: ClassVar[str]
    on_mysql: ClassVar[str]


@compiles(_DialectText)
def _text(element: _DialectText, compiler: SQLCompiler, **_options: Any) -> str:
    return element.on_mysql if compiler.dialect.name == "mysql" else element.on_sqlite


class UpdatedAt(_DialectText):
    """Server default of ``updated_at``: the time of the insert and, on MySQL, of each update."""

    inherit_cache = True
    type = sa.TIMESTAMP()
    # SQLite has no ON UPDATE; there the migrations create a trigger.
    on_sqlite = "CURRENT_TIMESTAMP"
    on_mysql = "CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP"


class DatabaseClock(_DialectText):
    """Seconds since 1970 on the database's clock: the clocks of the workers may differ."""

    inherit_cache = True
    type = sa.Double()
    on_sqlite = "((julianday('now') - 2440587.5) * 86400.0)"
    # + 0E0 converts the DECIMAL of UNIX_TIMESTAMP to a float.
    on_mysql = "(UNIX_TIMESTAMP(NOW(6)) + 0E0)"


CLOCK = sa.select(DatabaseClock())


def one_of(*values: str) -> TypeEngine[str]:
    """Return an ENUM on MySQL and MariaDB, else text."""
    return sa.String(16).with_variant(mysql.ENUM(*values), "mysql")


def auto_id() -> sa.Column[int]:
    """Build ``id``, which counts up; in SQLite only an INTEGER does."""
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("id", kind, primary_key=True, autoincrement=True)


def foreign_id(name: str) -> sa.Column[int]:
    """Build a primary key that another table assigns.

    There is no foreign key: it would need InnoDB, an equal column type and a privilege on a table
    that another program owns, and it would make that program's deletes fail.
    """
    return sa.Column(name, sa.BigInteger, primary_key=True, autoincrement=False)


def required(name: str, kind: Any, **options: Any) -> sa.Column[Any]:
    """Build a column that is NOT NULL."""
    return sa.Column(name, kind, nullable=False, **options)


def created_at(name: str = "created_at", *, nullable: bool = True) -> sa.Column[Any]:
    """Build the time of the insert."""
    now = sa.text("CURRENT_TIMESTAMP")
    return sa.Column(name, sa.TIMESTAMP, nullable=nullable, server_default=now)


def updated_at() -> sa.Column[Any]:
    """Build the time of the last change."""
    return sa.Column("updated_at", sa.TIMESTAMP, server_default=UpdatedAt())


def raw(column: sa.Column[Any]) -> sa.Label[Any]:
    """Return a column whose values are not converted: a type raises for all rows of a query.

    In SQLite each value may have any type, and an ENUM type rejects what another version added.
    """
    return sa.type_coerce(column, sa.types.NullType()).label(column.name)


def _fact_columns() -> list[sa.Column[Any]]:
    return [
        required("byte_size", sa.BigInteger),
        required("source_type", sa.String(16)),
        required("width", sa.Integer),
        required("height", sa.Integer),
        required("has_alpha", sa.Boolean),
        required("pages", sa.Integer),
        required("flat_background", sa.Boolean),
        sa.Column("focus_x", sa.Double),
        sa.Column("focus_y", sa.Double),
    ]


JSON = sa.JSON(none_as_null=True)

metadata = sa.MetaData()

SHARED = frozenset({"media_files", "processing_checklist", "media_ai_analysis", "pending_images"})
"""Tables of the requirements document. An existing one may belong to another program, so it gets
indexes only from `smartserve db upgrade --indexes`."""


def define_table(
    name: str, *parts: sa.schema.SchemaItem, target: sa.MetaData = metadata, **options: Any
) -> sa.Table:
    """Define a table; on MySQL with InnoDB and utf8mb4.

    The server's default may be another engine, or a character set that cannot store every name.
    """
    options |= {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}
    return sa.Table(name, target, *parts, **options)


media_files = define_table(
    "media_files",
    auto_id(),
    # Id in `pending_images` of the main database; 0 if the medium was not uploaded.
    required("main_api_id", sa.BigInteger, default=0, index=True),
    required("user_id", sa.BigInteger, index=True),
    required("data_type", one_of(*DataType)),
    sa.Column("original_name", sa.String(255)),
    sa.Column("mime_type", sa.String(100)),
    sa.Column("file_size", sa.BigInteger),
    sa.Column("bulk_path", sa.String(500)),
    sa.Column("library_path", sa.String(500)),
    sa.Column("status", one_of(*MediaStatus)),
    created_at(),
    updated_at(),
    sa.Index("ix_media_files_updated_at", "updated_at"),
    sqlite_autoincrement=True,
)

media_facts = define_table(
    "media_facts",
    foreign_id("media_id"),
    required("content_hash", sa.String(64), index=True),
    *_fact_columns(),
    required("source_path", sa.String(500)),
    required("row_version", sa.String(64)),
    created_at("learned_at", nullable=False),
)

# What people decided about a medium. A value that is null is decided automatically. The row stays
# when facts are read again.
media_choices = define_table(
    "media_choices",
    foreign_id("media_id"),
    # Fractions of the upright image.
    sa.Column("focus_x", sa.Double),
    sa.Column("focus_y", sa.Double),
    # By name of a size: left, top, width and height as fractions of the upright image.
    sa.Column("crops", JSON),
    # Text instead of an ENUM: an older server must be able to read what a newer one stores.
    sa.Column("background", sa.String(16)),
    sa.Column("visibility", sa.String(16)),
    # Seconds since 1970 on the database's clock.
    required("updated_at", sa.Double),
)

# Alternative texts that people wrote, by language (BCP 47, in canonical case).
media_alt_texts = define_table(
    "media_alt_texts",
    foreign_id("media_id"),
    sa.Column("language", sa.String(MAX_LANGUAGE), primary_key=True),
    required("alt", sa.Text),
    required("updated_at", sa.Double),
)

# Detected faces; an image without any has an empty list. The row holds for one content and one
# model: the facts of the source may be read again without another detection.
media_faces = define_table(
    "media_faces",
    foreign_id("media_id"),
    required("content_hash", sa.String(64)),
    required("model", sa.String(64)),
    # Left, top, width and height of each, as fractions of the upright image, and its score.
    required("faces", JSON),
    created_at("detected_at", nullable=False),
)

processing_checklist = define_table(
    "processing_checklist",
    auto_id(),
    required("media_id", sa.BigInteger, unique=True),
    required("worker_id", sa.String(50)),
    *(sa.Column(step, one_of(*StepState), server_default=StepState.PENDING) for step in Step),
    *(sa.Column(f"{step}_attempts", sa.Integer, server_default=sa.text("0")) for step in Step),
    created_at(),
    updated_at(),
)

media_ai_analysis = define_table(
    "media_ai_analysis",
    auto_id(),
    required("media_id", sa.BigInteger, unique=True),
    sa.Column("dominant_colors", JSON),
    sa.Column("detected_objects", JSON),
    sa.Column("detected_text", sa.Text),
    sa.Column("style_classification", sa.String(255)),
    sa.Column("medium_detected", sa.String(255)),
    sa.Column("subject_matter", sa.Text),
    sa.Column("quality_score", sa.Integer),
    sa.Column("mood_keywords", JSON),
    sa.Column("confidence_score", sa.Float),
    sa.Column("raw_google_response", JSON),
    sa.Column("raw_gpt4_response", JSON),
    created_at(),
)

media_analysis_details = define_table(
    "media_analysis_details",
    foreign_id("media_id"),
    required("details", JSON),
)

# Vectors of images. The index has all that a search reads of an image that is not similar.
media_embeddings = define_table(
    "media_embeddings",
    foreign_id("media_id"),
    required("model", sa.String(200)),
    *(required(f"word_{at}", sa.BigInteger) for at in range(WORDS)),
    # 32-bit floating point numbers, little-endian, in Base64: aiomysql 0.3 cannot send bytes.
    required("vector", sa.Text),
    sa.Index(
        "ix_media_embeddings_search", "model", "media_id", *(f"word_{at}" for at in range(WORDS))
    ),
)

ingest_items = define_table(
    "ingest_items",
    foreign_id("main_api_id"),
    sa.Column("media_id", sa.BigInteger, index=True),
    required("user_id", sa.BigInteger),
    required("image_path", sa.String(500)),
    sa.Column("original_name", sa.String(255)),
    sa.Column("mime_type", sa.String(100)),
    required("data_type", sa.String(16)),
    required("state", sa.String(16)),
    sa.Column("reason", sa.Text),
    # True once no step is tried again; only the report to the main API may still be due.
    required("final", sa.Boolean, default=False),
    sa.Column("worker_id", sa.String(50)),
    sa.Column("lease", sa.String(32)),
    # Times that are compared: seconds since 1970 on the database's clock, with fractions.
    sa.Column("lease_until", sa.Double),
    # When the item is due next; NULL if it never is.
    sa.Column("not_before", sa.Double),
    required("heals", sa.Integer, default=0),
    required("takeovers", sa.Integer, default=0),
    required("created_at", sa.Double),
    required("updated_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Index("ix_ingest_items_due", "state", "not_before"),
    # A claim takes the users in turn.
    sa.Index("ix_ingest_items_turns", "state", "user_id", "not_before"),
    sa.Index("ix_ingest_items_finished", "state", "finished_at"),
    sa.Index("ix_ingest_items_updated", "state", "updated_at"),
)

# Figures that would need a scan of all items. They change in the transaction that changes an item,
# as its last statement: transactions that lock items in any order lock this row after them.
ingest_totals = define_table(
    "ingest_totals",
    sa.Column("name", sa.String(16), primary_key=True),
    required("value", sa.BigInteger),
)

# Purges and changes of facts, which every server reads and applies to its own caches.
purges = define_table(
    "purges",
    auto_id(),
    required("media_id", sa.BigInteger),
    # Separated by spaces. NULL: all. Empty: no rendition, only the cached row and facts.
    sa.Column("shapes", sa.Text),
    # Seconds since 1970 on the database's clock: the clocks of the servers may differ.
    required("purged_at", sa.Double, index=True),
    # The process that purged, which does not apply it again.
    required("server", sa.String(32)),
    sqlite_autoincrement=True,
)

# The number of purges of all images of a user (-1: of all users), which is a part of every key.
# Rows are never deleted: old renditions may be stored anywhere.
purge_epochs = define_table(
    "purge_epochs",
    foreign_id("user_id"),
    required("epoch", sa.BigInteger),
    # As in `purges`.
    required("purged_at", sa.Double),
)

# What the worker of each upload reported: its medium, and all members of the callback.
upload_results = define_table(
    "upload_results",
    foreign_id("main_api_id"),
    required("media_id", sa.BigInteger, index=True),
    # Base of the media server's addresses; empty if the medium is a row of this database.
    required("server", sa.String(500)),
    required("callback", JSON),
    created_at("reported_at", nullable=False),
)

# What a user has uploaded on a day, for the quotas of [main].
upload_usage = define_table(
    "upload_usage",
    foreign_id("user_id"),
    # Days since 1970 in UTC, on the database's clock.
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    required("uploads", sa.BigInteger),
    required("bytes", sa.BigInteger),
)

# Smaller files of a medium, from which it is rendered while its source is missing. The key is the
# content and not the path: a path of 500 characters makes a long key, and the collation of the
# table would decide which names are equal.
media_fallbacks = define_table(
    "media_fallbacks",
    foreign_id("media_id"),
    sa.Column("content_hash", sa.String(64), primary_key=True),
    required("source_path", sa.String(500)),
    *_fact_columns(),
    created_at("adopted_at", nullable=False),
)

# Work on a whole library, as `smartserve bulk start` adds it.
bulk_plans = define_table(
    "bulk_plans",
    auto_id(),
    required("task", sa.String(16)),
    required("status", sa.String(16)),
    # Ids below this one belong to parts that have begun.
    required("next_id", sa.BigInteger),
    # The highest id when the plan was made.
    required("last_id", sa.BigInteger),
    # Maximum number of images of a part.
    required("part_size", sa.Integer),
    # Images per second of all workers together; NULL: as fast as they can.
    sa.Column("rate", sa.Double),
    required("total", sa.BigInteger),
    required("done", sa.BigInteger, default=0),
    required("failed", sa.BigInteger, default=0),
    # Times: seconds since 1970 on the database's clock, with fractions.
    required("created_at", sa.Double),
    # Since the first part, or since it was resumed: when, and how many were processed before.
    sa.Column("measured_since", sa.Double),
    required("measured_before", sa.BigInteger, default=0),
    sa.Column("finished_at", sa.Double),
    sqlite_autoincrement=True,
)

# The parts under way. What is before them is done, what is behind `next_id` has not begun.
bulk_parts = define_table(
    "bulk_parts",
    foreign_id("plan_id"),
    sa.Column("first_id", sa.BigInteger, primary_key=True, autoincrement=False),
    required("last_id", sa.BigInteger),
    # The last id up to which all images are processed and counted.
    required("position", sa.BigInteger),
    required("lease", sa.String(32)),
    required("lease_until", sa.Double),
)

# Images that could not be processed, with the reason.
bulk_failures = define_table(
    "bulk_failures",
    foreign_id("plan_id"),
    sa.Column("media_id", sa.BigInteger, primary_key=True, autoincrement=False),
    required("error", sa.Text),
)
