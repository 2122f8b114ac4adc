"""Creates ``media_files`` as the requirements document defines it."""

import sqlalchemy as sa

from proxy.storage.database.alembic_runner import (
    auto_id,
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
    """Create the table unless it exists: ``oaf_media`` of another program is used as it is."""
    create_table(
        "media_files",
        auto_id(),
        required("main_api_id", sa.BigInteger),
        required("user_id", sa.BigInteger),
        required("data_type", one_of("product", "profile", "event", "logo", "sites")),
        sa.Column("original_name", sa.String(255)),
        sa.Column("mime_type", sa.String(100)),
        sa.Column("file_size", sa.BigInteger),
        sa.Column("bulk_path", sa.String(500)),
        sa.Column("library_path", sa.String(500)),
        sa.Column("status", one_of("downloading", "processing", "completed", "failed")),
        created_at(),
        updated_at(),
        reuse_ids=False,
    )
