"""Creates ``media_metadata`` and ``media_tags``: what images say about themselves."""

from proxy.storage.database.alembic_runner import create_missing
from proxy.storage.database.metadata_tables import media_metadata, media_tags

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Create the tables and their indexes unless they exist."""
    create_missing(media_metadata, media_tags)
