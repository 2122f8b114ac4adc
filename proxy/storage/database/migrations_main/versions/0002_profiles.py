"""Small tables of profiles, where the main database is our own; those of others are let be."""

import sqlalchemy as sa
from alembic import context, op

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
    """Make the tables that are missing."""
    if not context.config.attributes["own"]:
        return
    inspector = sa.inspect(op.get_bind())
    for table, paths in _COLUMNS.items():
        if not inspector.has_table(table):
            op.create_table(
                table,
                sa.Column("user_id", sa.BigInteger, primary_key=True, autoincrement=False),
                *(sa.Column(path, sa.String(500)) for path in paths),
                mysql_engine="InnoDB",
                mysql_charset="utf8mb4",
            )
    if not inspector.has_table("site_media"):
        op.create_table(
            "site_media",
            sa.Column(
                "id",
                sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
                primary_key=True,
                autoincrement=True,
            ),
            sa.Column("user_id", sa.BigInteger, nullable=False),
            sa.Column("media_path", sa.String(500)),
            sa.Column("created_at", sa.TIMESTAMP, server_default=sa.text("CURRENT_TIMESTAMP")),
            mysql_engine="InnoDB",
            mysql_charset="utf8mb4",
        )
