"""The table of media, where it is missing: an existing ``oaf_media`` is taken as it is."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TOUCH = """
CREATE TRIGGER media_files_touched AFTER UPDATE ON media_files
FOR EACH ROW WHEN new.updated_at IS old.updated_at
BEGIN
    UPDATE media_files SET updated_at = CURRENT_TIMESTAMP WHERE id = new.id;
END
"""


def _one_of(*values: str) -> sa.types.TypeEngine[str]:
    return sa.String(16).with_variant(mysql.ENUM(*values), "mysql")


def upgrade() -> None:
    """Make ``media_files`` as the requirements document has it."""
    bind = op.get_bind()
    if sa.inspect(bind).has_table("media_files"):
        return
    on_update = " ON UPDATE CURRENT_TIMESTAMP" if bind.dialect.name == "mysql" else ""
    op.create_table(
        "media_files",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("main_api_id", sa.BigInteger, nullable=False),
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column(
            "data_type", _one_of("product", "profile", "event", "logo", "sites"), nullable=False
        ),
        sa.Column("original_name", sa.String(255)),
        sa.Column("mime_type", sa.String(100)),
        sa.Column("file_size", sa.BigInteger),
        sa.Column("bulk_path", sa.String(500)),
        sa.Column("library_path", sa.String(500)),
        sa.Column("status", _one_of("downloading", "processing", "completed", "failed")),
        sa.Column("created_at", sa.TIMESTAMP, server_default=sa.text("CURRENT_TIMESTAMP")),
        sa.Column(
            "updated_at", sa.TIMESTAMP, server_default=sa.text("CURRENT_TIMESTAMP" + on_update)
        ),
        sqlite_autoincrement=True,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
    if bind.dialect.name == "sqlite":
        op.execute(_TOUCH)
