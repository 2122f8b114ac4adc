"""Adds the order in which users take turns, and what each has uploaded today."""

from proxy.storage.database.alembic_runner import create_missing
from proxy.storage.database.tables import ingest_items, upload_usage

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create what does not exist."""
    create_missing(ingest_items, upload_usage)
