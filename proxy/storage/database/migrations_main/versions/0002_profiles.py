"""Creates small profile tables if the main database is our own."""

import sqlalchemy as sa
from alembic import context

from proxy.storage.database.alembic_runner import (
    auto_id,
    create_table,
    created_at,
    foreign_id,
    required,
)

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = {
    "user_profiles": ("profile_image_path", "header_image_path"),
    "artist_profiles": ("logo_path",),
    "promoter_profiles": ("logo_path",),
}


def upgrade() -> None:
    """Create the tables that are missing; in a database of another program, none."""
    if not context.config.attributes["own"]:
        return
    for table, paths in _COLUMNS.items():
        columns = [sa.Column(path, sa.String(500)) for path in paths]
        create_table(table, foreign_id("user_id"), *columns)
    create_table(
        "site_media",
        auto_id(),
        required("user_id", sa.BigInteger),
        sa.Column("media_path", sa.String(500)),
        created_at(),
    )
