"""Creates the tables of the ingest worker, some as the requirements document defines them."""

import sqlalchemy as sa

from proxy.storage.database.alembic_runner import (
    auto_id,
    create_indexes,
    create_table,
    created_at,
    foreign_id,
    one_of,
    required,
    updated_at,
)

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STEPS = ("retrieve_file", "ai_visual_analysis", "resize_optimize", "update_callback")


def upgrade() -> None:
    """Create what is missing, also the rest after an interrupted upgrade."""
    step_state = one_of("pending", "completed", "failed")
    create_table(
        "processing_checklist",
        auto_id(),
        sa.Column("media_id", sa.BigInteger, nullable=False, unique=True),
        required("worker_id", sa.String(50)),
        *(sa.Column(step, step_state, server_default="pending") for step in _STEPS),
        *(
            sa.Column(f"{step}_attempts", sa.Integer, server_default=sa.text("0"))
            for step in _STEPS
        ),
        created_at(),
        updated_at(),
    )
    create_table(
        "media_ai_analysis",
        auto_id(),
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
        created_at(),
    )
    create_table("media_analysis_details", foreign_id("media_id"), required("details", sa.JSON))
    create_table(
        "ingest_items",
        foreign_id("main_api_id"),
        sa.Column("media_id", sa.BigInteger),
        required("user_id", sa.BigInteger),
        required("image_path", sa.String(500)),
        sa.Column("original_name", sa.String(255)),
        sa.Column("mime_type", sa.String(100)),
        required("data_type", sa.String(16)),
        required("state", sa.String(16)),
        sa.Column("reason", sa.Text),
        required("final", sa.Boolean),
        sa.Column("worker_id", sa.String(50)),
        sa.Column("lease", sa.String(32)),
        sa.Column("lease_until", sa.Double),
        sa.Column("not_before", sa.Double),
        required("heals", sa.Integer),
        required("takeovers", sa.Integer),
        required("created_at", sa.Double),
        required("updated_at", sa.Double),
        sa.Column("finished_at", sa.Double),
    )
    create_indexes(
        "ingest_items",
        {
            "ix_ingest_items_due": ["state", "not_before"],
            "ix_ingest_items_media_id": ["media_id"],
        },
    )
