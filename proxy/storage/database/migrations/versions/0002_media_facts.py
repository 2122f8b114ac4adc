"""Creates ``media_facts``: what the server has measured on the source of a medium."""

import sqlalchemy as sa

from proxy.storage.database.alembic_runner import (
    create_indexes,
    create_table,
    created_at,
    fact_columns,
    foreign_id,
    required,
)

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table and its index, or the rest of them after an interrupted upgrade."""
    create_table(
        "media_facts",
        foreign_id("media_id"),
        required("content_hash", sa.String(64)),
        *fact_columns(),
        required("source_path", sa.String(500)),
        required("row_version", sa.String(64)),
        created_at("learned_at", nullable=False),
    )
    create_indexes("media_facts", {"ix_media_facts_content_hash": ["content_hash"]})
