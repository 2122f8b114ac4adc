"""Creates the tables of the ingest worker."""

from proxy.storage.database import tables
from proxy.storage.database.alembic_runner import create_missing

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the tables and indexes that do not exist."""
    create_missing(
        tables.processing_checklist,
        tables.media_ai_analysis,
        tables.media_analysis_details,
        tables.ingest_items,
    )
