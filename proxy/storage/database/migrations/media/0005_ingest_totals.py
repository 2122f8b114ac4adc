"""Adds indexes and totals, so that nothing reads the whole queue or all media."""

import sqlalchemy as sa
from alembic import op

from proxy.domain.upload import ItemState
from proxy.storage.database.alembic_runner import create_indexes, create_missing, is_own
from proxy.storage.database.tables import ingest_items, ingest_totals, media_files

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create what does not exist, and count the items once."""
    create_missing(ingest_items, ingest_totals)
    if is_own(media_files):
        create_indexes(media_files)
    # An interrupted upgrade may have inserted the rows.
    op.execute(ingest_totals.delete())
    items = ingest_items.c
    done = sa.select(sa.literal("done"), sa.func.count()).where(items.state == ItemState.DONE)
    takeovers = sa.select(
        sa.literal("takeovers"), sa.func.coalesce(sa.func.sum(items.takeovers), 0)
    )
    for totals in (done, takeovers):
        op.execute(ingest_totals.insert().from_select(["name", "value"], totals))
