"""Creates ``upload_results``: what the worker of each upload reported, and where its medium is."""

from proxy.storage.database.alembic_runner import create_missing
from proxy.storage.database.tables import upload_results

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the table and its index unless they exist."""
    create_missing(upload_results)
