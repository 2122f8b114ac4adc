"""Creates ``media_embeddings``: vectors of images, for the search of similar ones."""

from proxy.storage.database.alembic_runner import create_missing
from proxy.storage.database.tables import media_embeddings

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Create the table and its index unless they exist."""
    create_missing(media_embeddings)
