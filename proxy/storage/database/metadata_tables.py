"""Defines the tables of metadata that was extracted from images, and of the jobs that do so."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from proxy.storage.database.tables import JSON, created_at, define_table, foreign_id, required

MAX_TAG = 191
"""Characters of a tag."""
# TEXT has 64 KiB, and a prompt may have as many characters.
_LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql")
_RESULT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql")
# Tags are compared as they are written, as in SQLite: the server's default collation may find
# "style:café" by "style:CAFE".
_TAG = sa.String(MAX_TAG).with_variant(mysql.VARCHAR(MAX_TAG, collation="utf8mb4_bin"), "mysql")

# One row for each medium. Values are null if the file says nothing.
media_metadata = define_table(
    "media_metadata",
    foreign_id("media_id"),
    sa.Column("filename", sa.String(255)),
    sa.Column("filesize", sa.BigInteger),
    sa.Column("width", sa.Integer),
    sa.Column("height", sa.Integer),
    # Of the medium.
    created_at(),
    required("user_id", sa.BigInteger),
    required("is_ai_generated", sa.Boolean),
    required("ai_generator", sa.String(32)),
    sa.Column("prompt", _LONG_TEXT),
    sa.Column("negative_prompt", _LONG_TEXT),
    # No index can contain a prompt.
    required("has_prompt", sa.Boolean),
    sa.Column("steps", sa.Integer),
    sa.Column("cfg_scale", sa.Double),
    sa.Column("sampler", sa.String(255)),
    sa.Column("scheduler", sa.String(255)),
    sa.Column("seed", sa.String(255)),
    sa.Column("checkpoint_model", sa.String(255)),
    sa.Column("mj_version", sa.String(32)),
    sa.Column("mj_aspect_ratio", sa.String(32)),
    sa.Column("mj_chaos", sa.Integer),
    sa.Column("mj_quality", sa.Double),
    sa.Column("mj_stylize", sa.Integer),
    sa.Column("mj_job_id", sa.String(64)),
    sa.Column("mj_experimental", sa.Integer),
    sa.Column("mj_weirdness", sa.Integer),
    sa.Column("mj_raw", sa.Boolean),
    sa.Column("comfy_node_count", sa.Integer),
    sa.Column("comfy_workflow_id", sa.String(255)),
    required("raw_metadata", JSON),
    # Name and version, such as "exiftool 13.59".
    required("engine", sa.String(64)),
    created_at("extracted_at", nullable=False),
    # A search returns the newest media first, so each index ends with the id.
    *(
        sa.Index(f"ix_media_metadata_{name}", name, "media_id")
        for name in ("user_id", "ai_generator", "has_prompt", "mj_version", "mj_quality")
    ),
)

media_tags = define_table(
    "media_tags",
    foreign_id("media_id"),
    sa.Column("tag", _TAG, primary_key=True),
    sa.Index("ix_media_tags_tag", "tag", "media_id"),
)

# Extractions that run in the background.
metadata_jobs = define_table(
    "metadata_jobs",
    sa.Column("id", sa.String(32), primary_key=True),
    required("owner", sa.String(64)),
    # What is due next, and which servers can do it; see `metadata_jobs.Queue`.
    required("queue", sa.String(64)),
    required("status", sa.String(16)),
    # Of an original; NULL if the file was uploaded.
    sa.Column("media_id", sa.BigInteger),
    required("filename", sa.String(255)),
    required("filesize", sa.BigInteger),
    required("options", JSON),
    sa.Column("callback", sa.Text),
    required("progress", sa.Integer, default=0),
    required("attempts", sa.Integer, default=0),
    required("callback_attempts", sa.Integer, default=0),
    sa.Column("error", sa.Text),
    sa.Column("code", sa.String(64)),
    # The answer as JSON text, which is returned as it is.
    sa.Column("result", _RESULT),
    required("result_bytes", sa.BigInteger, default=0),
    sa.Column("worker_id", sa.String(50)),
    sa.Column("lease", sa.String(32)),
    # Times: seconds since 1970 on the database's clock, with fractions.
    sa.Column("lease_until", sa.Double),
    # When the job is due next; NULL if it never is.
    sa.Column("not_before", sa.Double),
    required("created_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Index("ix_metadata_jobs_turns", "queue", "owner", "not_before"),
    sa.Index("ix_metadata_jobs_due", "queue", "not_before"),
    sa.Index("ix_metadata_jobs_status", "status", "created_at"),
    sa.Index("ix_metadata_jobs_finished", "finished_at"),
)

# Results of extractions, by content.
metadata_cache = define_table(
    "metadata_cache",
    # metadata:<sha256>
    sa.Column("cache_key", sa.String(80), primary_key=True),
    # Hash of all that the result depends on besides the content.
    sa.Column("binding", sa.String(64), primary_key=True),
    required("extraction", _RESULT),
    required("byte_size", sa.BigInteger),
    required("expires_at", sa.Double),
    sa.Index("ix_metadata_cache_expiry", "expires_at", "byte_size"),
)
