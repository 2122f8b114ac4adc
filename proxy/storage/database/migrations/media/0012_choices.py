"""Creates ``media_choices`` and ``media_alt_texts``: what people decide and write about media."""

from proxy.storage.database.alembic_runner import create_missing
from proxy.storage.database.tables import media_alt_texts, media_choices

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Create the tables unless they exist."""
    create_missing(media_choices, media_alt_texts)
