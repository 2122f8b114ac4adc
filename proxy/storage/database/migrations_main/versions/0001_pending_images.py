"""The queue of uploads, where it is missing: an existing one is taken as it is."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TOUCH = """
CREATE TRIGGER pending_images_touched AFTER UPDATE ON pending_images
FOR EACH ROW WHEN new.updated_at IS old.updated_at
BEGIN
    UPDATE pending_images SET updated_at = CURRENT_TIMESTAMP WHERE id = new.id;
END
"""
_STATUS = ("pending", "processed", "complete", "failed")


def upgrade() -> None:
    """Make ``pending_images`` as the requirements document has it, or what was left out of it."""
    bind = op.get_bind()
    inspector = sa.inspect(bind)
    if not inspector.has_table("pending_images"):
        _create(bind)
        inspector.clear_cache()
    for column in ("status", "image_path"):
        name = f"ix_pending_images_{column}"
        if not inspector.has_index("pending_images", name):
            op.create_index(name, "pending_images", [column])


def _create(bind: sa.Connection) -> None:
    on_update = " ON UPDATE CURRENT_TIMESTAMP" if bind.dialect.name == "mysql" else ""
    op.create_table(
        "pending_images",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("image_path", sa.String(255), nullable=False),
        sa.Column("original_name", sa.String(255)),
        sa.Column("mime_type", sa.String(100)),
        sa.Column("permanent_url", sa.String(500)),
        sa.Column("thumbnail_url", sa.String(500)),
        sa.Column(
            "status",
            sa.String(16).with_variant(mysql.ENUM(*_STATUS), "mysql"),
            server_default="pending",
        ),
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
