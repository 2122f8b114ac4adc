"""Leases of rows, and the writer that stores what the holder of a lease has done with an upload.

A lease is a token in the row, so each row of a queue has one worker at a time. A worker writes only
in transactions that check its token, so a worker whose lease has expired cannot overwrite the work
of the next one. All times are those of the database's clock.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Executable, Select, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.analysis import Analysis
from proxy.domain.embedding import Embedding
from proxy.domain.errors import LeaseLost
from proxy.domain.formats import SOURCE_MEDIA_TYPES
from proxy.domain.media import Focus, MediaFacts, MediaStatus
from proxy.domain.upload import Lease, LeasedItem, Step, StepState
from proxy.domain.variant import PurgeEntry
from proxy.settings import DatabaseSettings
from proxy.storage.database.embeddings import replace_embedding, row_of
from proxy.storage.database.media_repository import bind_facts
from proxy.storage.database.purge_table import announcement
from proxy.storage.database.tables import (
    DatabaseClock,
    ingest_items,
    ingest_totals,
    media_ai_analysis,
    media_analysis_details,
    media_facts,
    media_files,
    processing_checklist,
)
from proxy.storage.database.transactions import SqlDatabase

T = TypeVar("T")

RELEASED: Mapping[str, Any] = {"lease": None, "lease_until": None}
"""Values of a row without a lease."""


class LeasedTable:
    """The leases of a table with the columns ``lease``, ``lease_until`` and ``not_before``."""

    def __init__(self, table: sa.Table, *, key: str, owner: str, turns: str) -> None:
        """Name the columns of the key and of the owner, and the index in the order of claims.

        The index has these columns: those that a claim compares with one value each, then the
        owner, then `not_before`.
        """
        self._table = table
        self._key, self._owner = table.c[key], table.c[owner]
        self._lease, self._until = table.c.lease, table.c.lease_until
        self._not_before = table.c.not_before
        self.free = sa.or_(self._until.is_(None), self._until <= DatabaseClock())
        """Whether a row may be leased."""
        self._due = (
            sa.select(table)
            .where(self._not_before <= DatabaseClock(), self.free)
            # In the order of an index: InnoDB locks each row that it reads, and would lock the
            # whole queue to sort it.
            .order_by(self._owner, self._not_before, self._key)
            .with_hint(table, f"FORCE INDEX ({turns})", "mysql")
            .limit(1)
            # Two workers that search at the same time find different rows instead of waiting.
            .with_for_update(skip_locked=True)
        )

    async def next_due(
        self, connection: AsyncConnection, *conditions: sa.ColumnElement[bool], after: Any = None
    ) -> sa.Row[Any] | None:
        """Lock and return the row that has been due longest, or None.

        It is of the next owner behind ``after``, so that nobody's rows delay those of all others.
        """
        due, row = self._due.where(*conditions), None
        if after is not None:
            row = (await connection.execute(due.where(self._owner > after))).first()
        # All owners have had their turn; the first one is next.
        return row or (await connection.execute(due)).first()

    def acquired(self, lease_s: float) -> dict[str, Any]:
        """Return the values of a row with a new lease."""
        return {"lease": secrets.token_hex(16), "lease_until": DatabaseClock() + lease_s}

    async def fenced(
        self,
        database: SqlDatabase,
        key: Any,
        token: str,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        lease_s: float,
    ) -> T:
        """Renew a lease and run ``work`` in the same transaction.

        Raises:
            LeaseLost: another worker has the row, or it was deleted.
            DatabaseUnavailable: nothing is stored.
        """

        async def guarded(connection: AsyncConnection) -> T:
            # The update locks the row until the commit, so no other worker can acquire the lease
            # before `work` is committed.
            renewed = await connection.execute(
                sa.update(self._table)
                .where(self._key == key, self._lease == token)
                .values(lease_until=DatabaseClock() + lease_s)
            )
            if not renewed.rowcount:
                raise LeaseLost("another worker has taken over")
            return await work(connection)

        return await database.run(guarded)

    async def due_in_s(
        self, database: SqlDatabase, *conditions: sa.ColumnElement[bool]
    ) -> float | None:
        """Return the seconds until a row is due, 0 if one is due now, or None if none waits.

        The end of a lease counts, because its row may have to be taken over.
        """
        when = sa.case((self._until.is_not(None), self._until), else_=self._not_before)
        query = sa.select(sa.func.min(when) - DatabaseClock()).where(*conditions)
        seconds = (await database.read(query))[0][0]
        return None if seconds is None else max(0.0, float(seconds))


DONE, TAKEOVERS = "done", "takeovers"
"""Names in `ingest_totals`."""

INGEST_LEASES = LeasedTable(
    ingest_items, key="main_api_id", owner="user_id", turns="ix_ingest_items_turns"
)

_items, _steps = ingest_items.c, processing_checklist.c

# Columns of 255 characters that a language model fills with text of any length.
_SHORT_COLUMNS = ("style_classification", "medium_detected")
_MAX_SHORT = 255


class LeasedWriter(SqlDatabase):
    """Writes to the media and their checklists.

    Every method with a lease raises LeaseLost if another worker has the upload, and
    DatabaseUnavailable.
    """

    def __init__(self, url: str, settings: DatabaseSettings, *, lease_s: float) -> None:
        """Create the engine; a lease is valid for ``lease_s`` after it is acquired or renewed."""
        # With READ COMMITTED InnoDB releases the locks of rows that a search skips, and it locks
        # no gaps.
        super().__init__(url, settings, isolation="READ COMMITTED")
        self.lease_s = lease_s

    async def fenced(self, lease: Lease, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Renew the lease and run ``work`` in the same transaction."""
        return await INGEST_LEASES.fenced(
            self, lease.main_api_id, lease.token, work, lease_s=self.lease_s
        )

    async def fenced_execute(self, lease: Lease, *statements: Executable) -> None:
        """Renew the lease and run the statements in the same transaction."""

        async def work(connection: AsyncConnection) -> None:
            for statement in statements:
                await connection.execute(statement)

        await self.fenced(lease, work)

    async def start_attempt(self, lease: Lease, step: Step, *, worker_id: str) -> None:
        """Count an attempt before it is made: a worker that crashes in it has used it up too."""
        column = processing_checklist.c[f"{step}_attempts"]
        # NULL occurs in tables of other programs.
        counted = {column.name: func.coalesce(column, 0) + 1, "worker_id": worker_id}
        await self.fenced_execute(lease, _checklist(lease, counted))

    async def set_step(self, lease: Lease, step: Step, state: StepState) -> None:
        """Store how a step ended."""
        await self.fenced_execute(lease, _checklist(lease, {step: state}))

    async def save_original(self, item: LeasedItem, facts: MediaFacts) -> tuple[int, str] | None:
        """Store where the original is; from the commit on the image is served.

        If `find_equal` finds a medium, return that instead, and store nothing.
        """
        total = ingest_totals.c
        lock = select(total.value).where(total.name == DONE).with_for_update()

        async def work(connection: AsyncConnection) -> tuple[int, str] | None:
            # One at a time: of equal uploads that are stored at once, the second finds the first.
            # SQLite has one writer anyway.
            await connection.execute(lock)
            equal = (await connection.execute(_equal(item, facts.content_hash))).first()
            if equal is not None:
                return equal.id, equal.bulk_path
            await _save_file(
                connection,
                item.lease,
                Step.RETRIEVE_FILE,
                facts,
                bulk_path=facts.source_path,
                mime_type=SOURCE_MEDIA_TYPES[facts.source_type],
                file_size=facts.byte_size,
                status=MediaStatus.PROCESSING,
            )
            return None

        return await self.fenced(item.lease, work)

    async def find_equal(self, item: LeasedItem, content_hash: str) -> tuple[int, str] | None:
        """Return id and original of a stored medium that is equal to an upload, or None.

        It is an upload of the same user with the same type.
        """
        rows = await self.read(_equal(item, content_hash))
        return (rows[0].id, rows[0].bulk_path) if rows else None

    async def merge(self, lease: Lease, media_id: int) -> None:
        """Give an upload the medium of another one, delete its own, and release the lease."""
        own = lease.media_id
        owned = media_files.c.main_api_id == lease.main_api_id
        item = update(ingest_items).where(_items.main_api_id == lease.main_api_id)
        await self.fenced_execute(
            lease,
            delete(processing_checklist).where(_steps.media_id == own),
            delete(media_facts).where(media_facts.c.media_id == own),
            delete(media_files).where(media_files.c.id == own, owned),
            item.values(media_id=media_id, **RELEASED),
        )

    async def save_library_file(self, lease: Lease, library_path: str) -> None:
        """Store where the processed file is, and mark the medium as completed."""
        values = {"library_path": library_path, "status": MediaStatus.COMPLETED}

        async def work(connection: AsyncConnection) -> None:
            await _save_file(connection, lease, Step.RESIZE_OPTIMIZE, None, **values)

        await self.fenced(lease, work)

    async def save_analysis(
        self,
        lease: Lease,
        columns: Mapping[str, Any],
        own: Mapping[str, Any],
        *,
        focus: Focus | None,
        embedding: Embedding | None = None,
    ) -> None:
        """Replace the stored analysis; ``focus`` becomes the centre of cropped renditions.

        Without ``embedding`` the stored one stays.
        """
        vector = None if embedding is None else await row_of(lease.media_id, embedding)

        async def work(connection: AsyncConnection) -> None:
            await _replace_analysis(connection, lease.media_id, columns, own)
            if vector is not None:
                await replace_embedding(connection, vector)
            if focus is not None:
                await bind_facts(connection, lease.media_id, focus=focus)
                # The row itself does not change, so other servers would not notice.
                await connection.execute(announcement([PurgeEntry(lease.media_id, frozenset())]))
            done = {Step.AI_VISUAL_ANALYSIS: StepState.COMPLETED}
            await connection.execute(_checklist(lease, done))

        await self.fenced(lease, work)

    async def store_analysis(self, media_id: int, analysis: Analysis) -> None:
        """Replace the stored analysis of a medium that no upload is being processed for.

        Without an embedding the stored one stays.
        """
        new = analysis.embedding
        vector = None if new is None else await row_of(media_id, new)
        async with self.transaction() as connection:
            await _replace_analysis(connection, media_id, analysis.columns, analysis.own)
            if vector is not None:
                await replace_embedding(connection, vector)


async def _replace_analysis(
    connection: AsyncConnection, media_id: int, columns: Mapping[str, Any], own: Mapping[str, Any]
) -> None:
    """Replace the stored analysis of a medium, in a transaction of the caller."""
    # A value longer than its column is an error for MySQL in strict mode.
    short = {name: (columns[name] or "")[:_MAX_SHORT] or None for name in _SHORT_COLUMNS}
    for table, values in (
        (media_ai_analysis, {**columns, **short}),
        (media_analysis_details, {"details": dict(own)}),
    ):
        # Not an upsert: the tables of another program need no unique key.
        await connection.execute(delete(table).where(table.c.media_id == media_id))
        await connection.execute(insert(table).values({"media_id": media_id, **values}))


def add_to_total(name: str, count: int | ColumnElement[int]) -> Executable:
    """Build the change of one of `ingest_totals`; it must be the last of its transaction."""
    total = ingest_totals.c
    return update(ingest_totals).where(total.name == name).values(value=total.value + count)


def _equal(item: LeasedItem, content_hash: str) -> Select[tuple[int, str]]:
    files, facts = media_files.c, media_facts.c
    return (
        select(files.id, files.bulk_path)
        .join(media_facts, facts.media_id == files.id)
        .where(
            facts.content_hash == content_hash,
            # Facts of another file of the medium prove nothing about its original.
            facts.source_path == files.bulk_path,
            files.user_id == item.upload.user_id,
            files.data_type == item.upload.data_type,
            files.status.in_((MediaStatus.PROCESSING, MediaStatus.COMPLETED)),
            # Not an import, whose path may be one of another program.
            files.main_api_id > 0,
            files.id != item.lease.media_id,
        )
        .order_by(files.id)
        .limit(1)
    )


async def _save_file(
    connection: AsyncConnection, lease: Lease, step: Step, facts: MediaFacts | None, **values: Any
) -> None:
    medium = update(media_files).where(media_files.c.id == lease.media_id)
    await connection.execute(medium.values(values))
    # The row has another version now, and facts are valid for one version only.
    await bind_facts(connection, lease.media_id, facts)
    await connection.execute(_checklist(lease, {step: StepState.COMPLETED}))


def _checklist(lease: Lease, values: Mapping[Any, Any]) -> Any:
    return update(processing_checklist).where(_steps.media_id == lease.media_id).values(values)
