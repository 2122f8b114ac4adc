"""The table of what the proxy learns from the sources, beside ``media_files``."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_INDEX = "ix_media_facts_content_hash"


def upgrade() -> None:
    """Make ``media_facts``, or what an interrupted upgrade left out: MySQL cannot roll it back."""
    inspector = sa.inspect(op.get_bind())
    if not inspector.has_table("media_facts"):
        _create()
        inspector.clear_cache()
    if not inspector.has_index("media_facts", _INDEX):
        op.create_index(_INDEX, "media_facts", ["content_hash"])


def _create() -> None:
    op.create_table(
        "media_facts",
        sa.Column("media_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("byte_size", sa.BigInteger, nullable=False),
        sa.Column("source_type", sa.String(16), nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("has_alpha", sa.Boolean, nullable=False),
        sa.Column("pages", sa.Integer, nullable=False),
        sa.Column("flat_background", sa.Boolean, nullable=False),
        sa.Column("focus_x", sa.Double),
        sa.Column("focus_y", sa.Double),
        sa.Column("source_path", sa.String(500), nullable=False),
        sa.Column("row_version", sa.String(64), nullable=False),
        sa.Column(
            "learned_at",
            sa.TIMESTAMP,
            nullable=False,
            server_default=sa.text("CURRENT_TIMESTAMP"),
        ),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
