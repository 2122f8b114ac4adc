"""Creates ``media_fallbacks``: smaller files from which a medium is rendered without its source."""

import sqlalchemy as sa

from proxy.storage.database.alembic_runner import (
    create_table,
    created_at,
    fact_columns,
    foreign_id,
    required,
)

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table unless an interrupted upgrade has."""
    create_table(
        "media_fallbacks",
        foreign_id("media_id"),
        sa.Column("content_hash", sa.String(64), primary_key=True),
        required("source_path", sa.String(500)),
        *fact_columns(),
        created_at("adopted_at", nullable=False),
    )
