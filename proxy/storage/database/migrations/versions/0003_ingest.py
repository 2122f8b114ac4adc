"""The tables of the ingest worker; those of the requirements document are taken as they are."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STEPS = ("retrieve_file", "ai_visual_analysis", "resize_optimize", "update_callback")
_TOUCH = """
CREATE TRIGGER IF NOT EXISTS processing_checklist_touched AFTER UPDATE ON processing_checklist
FOR EACH ROW WHEN new.updated_at IS old.updated_at
BEGIN
    UPDATE processing_checklist SET updated_at = CURRENT_TIMESTAMP WHERE id = new.id;
END
"""


def upgrade() -> None:
    """Make what is missing, an interrupted upgrade's rest too: MySQL cannot roll one back."""
    bind = op.get_bind()
    inspector = sa.inspect(bind)
    for name, create in _TABLES.items():
        if not inspector.has_table(name):
            create(bind)
    inspector.clear_cache()
    for index, columns in _INDEXES.items():
        if not inspector.has_index("ingest_items", index):
            op.create_index(index, "ingest_items", columns)


def _create(name: str, *parts: sa.schema.SchemaItem) -> None:
    op.create_table(name, *parts, mysql_engine="InnoDB", mysql_charset="utf8mb4")


def _checklist(bind: sa.Connection) -> None:
    on_update = " ON UPDATE CURRENT_TIMESTAMP" if bind.dialect.name == "mysql" else ""
    _create(
        "processing_checklist",
        _counted(),
        sa.Column("media_id", sa.BigInteger, nullable=False, unique=True),
        sa.Column("worker_id", sa.String(50), nullable=False),
        *(
            sa.Column(step, _one_of("pending", "completed", "failed"), server_default="pending")
            for step in _STEPS
        ),
        *(
            sa.Column(f"{step}_attempts", sa.Integer, server_default=sa.text("0"))
            for step in _STEPS
        ),
        _created(),
        sa.Column(
            "updated_at", sa.TIMESTAMP, server_default=sa.text("CURRENT_TIMESTAMP" + on_update)
        ),
    )
    if bind.dialect.name == "sqlite":
        op.execute(_TOUCH)


def _analysis(_bind: sa.Connection) -> None:
    _create(
        "media_ai_analysis",
        _counted(),
        sa.Column("media_id", sa.BigInteger, nullable=False, unique=True),
        sa.Column("dominant_colors", sa.JSON),
        sa.Column("detected_objects", sa.JSON),
        sa.Column("detected_text", sa.Text),
        sa.Column("style_classification", sa.String(255)),
        sa.Column("medium_detected", sa.String(255)),
        sa.Column("subject_matter", sa.Text),
        sa.Column("quality_score", sa.Integer),
        sa.Column("mood_keywords", sa.JSON),
        sa.Column("confidence_score", sa.Float),
        sa.Column("raw_google_response", sa.JSON),
        sa.Column("raw_gpt4_response", sa.JSON),
        _created(),
    )


def _details(_bind: sa.Connection) -> None:
    _create(
        "media_analysis_details",
        sa.Column("media_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("details", sa.JSON, nullable=False),
    )


def _items(_bind: sa.Connection) -> None:
    _create(
        "ingest_items",
        sa.Column("main_api_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("media_id", sa.BigInteger),
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("image_path", sa.String(500), nullable=False),
        sa.Column("original_name", sa.String(255)),
        sa.Column("mime_type", sa.String(100)),
        sa.Column("data_type", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("final", sa.Boolean, nullable=False),
        sa.Column("worker_id", sa.String(50)),
        sa.Column("lease", sa.String(32)),
        sa.Column("lease_until", sa.Double),
        sa.Column("not_before", sa.Double),
        sa.Column("heals", sa.Integer, nullable=False),
        sa.Column("takeovers", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
    )


def _counted() -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("id", kind, primary_key=True, autoincrement=True)


def _created() -> sa.Column[object]:
    return sa.Column("created_at", sa.TIMESTAMP, server_default=sa.text("CURRENT_TIMESTAMP"))


def _one_of(*values: str) -> sa.types.TypeEngine[str]:
    return sa.String(16).with_variant(mysql.ENUM(*values), "mysql")


_TABLES = {
    "processing_checklist": _checklist,
    "media_ai_analysis": _analysis,
    "media_analysis_details": _details,
    "ingest_items": _items,
}
_INDEXES = {
    "ix_ingest_items_due": ["state", "not_before"],
    "ix_ingest_items_media_id": ["media_id"],
}
