"""Creates the tables of metadata jobs and of the metadata cache."""

from proxy.storage.database.alembic_runner import create_missing
from proxy.storage.database.metadata_tables import metadata_cache, metadata_jobs

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Create the tables and their indexes unless they exist."""
    create_missing(metadata_jobs, metadata_cache)
