"""Creates ``media_facts``: what the server has measured on the source of a medium."""

from proxy.storage.database.alembic_runner import create_missing
from proxy.storage.database.tables import media_facts

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table and its index unless they exist."""
    create_missing(media_facts)
