"""Creates ``media_fallbacks``: smaller files from which a medium is rendered without its source."""

from proxy.storage.database.alembic_runner import create_missing
from proxy.storage.database.tables import media_fallbacks

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table unless it exists."""
    create_missing(media_fallbacks)
