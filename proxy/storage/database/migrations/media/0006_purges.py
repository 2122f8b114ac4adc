"""Creates ``purges``, through which servers learn of each other's purges, and indexes changes."""

from proxy.storage.database.alembic_runner import create_indexes, create_missing, is_own
from proxy.storage.database.tables import media_files, purges

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table and the indexes unless they exist."""
    create_missing(purges)
    if is_own(media_files):
        create_indexes(media_files)
