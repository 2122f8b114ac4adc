"""Creates the tables of bulk work: plans, parts under way, and failures."""

from proxy.storage.database.alembic_runner import create_missing
from proxy.storage.database.tables import bulk_failures, bulk_parts, bulk_plans

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Create each table unless it exists."""
    for table in (bulk_plans, bulk_parts, bulk_failures):
        create_missing(table)
