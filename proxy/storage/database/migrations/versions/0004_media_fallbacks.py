"""The table of lesser files, made elsewhere, that may stand in for the sources of pictures."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make ``media_fallbacks``, unless an interrupted upgrade has: MySQL cannot roll it back."""
    if sa.inspect(op.get_bind()).has_table("media_fallbacks"):
        return
    op.create_table(
        "media_fallbacks",
        sa.Column("media_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("content_hash", sa.String(64), primary_key=True),
        sa.Column("source_path", sa.String(500), nullable=False),
        sa.Column("byte_size", sa.BigInteger, nullable=False),
        sa.Column("source_type", sa.String(16), nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("has_alpha", sa.Boolean, nullable=False),
        sa.Column("pages", sa.Integer, nullable=False),
        sa.Column("flat_background", sa.Boolean, nullable=False),
        sa.Column("focus_x", sa.Double),
        sa.Column("focus_y", sa.Double),
        sa.Column(
            "adopted_at",
            sa.TIMESTAMP,
            nullable=False,
            server_default=sa.text("CURRENT_TIMESTAMP"),
        ),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
