"""Creates ``purge_epochs``: how often all images of a user, or of all users, were purged."""

from proxy.storage.database.alembic_runner import create_missing
from proxy.storage.database.tables import purge_epochs

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Create the table unless it exists."""
    create_missing(purge_epochs)
