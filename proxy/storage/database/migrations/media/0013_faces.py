"""Creates ``media_faces``: the faces that were detected in images."""

from proxy.storage.database.alembic_runner import create_missing
from proxy.storage.database.tables import media_faces

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Create the table unless it exists."""
    create_missing(media_faces)
