"""Defines the tables of metadata that was extracted from images."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from proxy.storage.database.tables import JSON, created_at, define_table, foreign_id, required

MAX_TAG = 191
"""Characters of a tag."""
# TEXT has 64 KiB, and a prompt may have as many characters.
_LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql")
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
