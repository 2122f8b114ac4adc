"""Creates ``pending_images``, the queue of uploads, as the requirements document defines it."""

import sqlalchemy as sa

from proxy.storage.database.alembic_runner import (
    auto_id,
    create_indexes,
    create_table,
    created_at,
    one_of,
    required,
    updated_at,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table unless it exists, and the indexes that it lacks."""
    status = one_of("pending", "processed", "complete", "failed")
    create_table(
        "pending_images",
        auto_id(),
        required("user_id", sa.BigInteger),
        required("image_path", sa.String(255)),
        sa.Column("original_name", sa.String(255)),
        sa.Column("mime_type", sa.String(100)),
        sa.Column("permanent_url", sa.String(500)),
        sa.Column("thumbnail_url", sa.String(500)),
        sa.Column("status", status, server_default="pending"),
        created_at(),
        updated_at(),
        reuse_ids=False,
    )
    create_indexes(
        "pending_images",
        {f"ix_pending_images_{column}": [column] for column in ("status", "image_path")},
    )
