"""Creates small profile tables if the main database is our own."""

from alembic import context

from proxy.storage.database.alembic_runner import create_missing
from proxy.storage.database.profile_columns import PROFILE_TABLES

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables that do not exist; in a database of another program, none."""
    if context.config.attributes["own"]:
        create_missing(*PROFILE_TABLES)
