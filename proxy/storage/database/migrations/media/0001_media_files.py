"""Creates ``media_files``; an existing one, as in ``oaf_media``, is used as it is."""

from proxy.storage.database.alembic_runner import create_missing
from proxy.storage.database.tables import media_files

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table unless it exists."""
    create_missing(media_files)
