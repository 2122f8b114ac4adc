"""Creates ``pending_images``, the queue of uploads; an existing one is used as it is."""

from proxy.storage.database.alembic_runner import create_missing
from proxy.storage.database.profile_columns import pending_images

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table and its indexes unless they exist."""
    create_missing(pending_images)
