"""Progress: what a worker has found out and made of an upload, written under its lease."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.ingest_item import Lease, StepState
from proxy.domain.media import Focus, MediaFacts, MediaStatus
from proxy.domain.pending_image import Step
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import BY_ID, SAVE_FACTS, fact_values, media_of
from proxy.storage.database.tables import (
    media_ai_analysis,
    media_analysis_details,
    media_files,
    processing_checklist,
)

_files, _steps = media_files.c, processing_checklist.c
_MAX_CLASS = 255
"""Characters of ``style_classification`` and ``medium_detected``."""


@dataclass(frozen=True, slots=True)
class StoredOriginal:
    """An original that is in the storage."""

    bulk_path: str
    mime_type: str
    facts: MediaFacts


class IngestProgress:
    """Writes to the media and their checklists.

    Every method raises DatabaseUnavailable, and LeaseLost where the upload is another's now.
    """

    def __init__(self, writer: LeasedWriter) -> None:
        """The writer stays the caller's."""
        self._writer = writer

    async def begin(self, lease: Lease, step: Step, *, worker_id: str) -> int:
        """Count an attempt at a step before it is made; gives how many there were, with this."""
        column = processing_checklist.c[f"{step}_attempts"]

        async def work(connection: AsyncConnection) -> int:
            counted = {column.name: func.coalesce(column, 0) + 1, "worker_id": worker_id}
            await connection.execute(_checklist(lease).values(counted))
            query = select(func.max(column)).where(_steps.media_id == lease.media_id)
            return int((await connection.execute(query)).scalar_one())

        return await self._writer.fenced(lease, work)

    async def note(self, lease: Lease, step: Step, state: StepState) -> None:
        """Write down how a step ended."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(_checklist(lease).values({step: state}))

        await self._writer.fenced(lease, work)

    async def filed(self, lease: Lease, filed: StoredOriginal) -> None:
        """The original is there: from now on the picture is served."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                _medium(lease).values(
                    bulk_path=filed.bulk_path,
                    mime_type=filed.mime_type,
                    file_size=filed.facts.byte_size,
                    status=MediaStatus.PROCESSING,
                )
            )
            await _save_facts(connection, lease.media_id, filed.facts)
            await connection.execute(_completed(lease, Step.RETRIEVE_FILE))

        await self._writer.fenced(lease, work)

    async def analysed(
        self,
        lease: Lease,
        columns: Mapping[str, Any],
        own: Mapping[str, Any],
        *,
        focus: Focus | None,
    ) -> None:
        """Keep an analysis in place of what there was; a ``focus`` feeds the crop from now on."""

        async def work(connection: AsyncConnection) -> None:
            for table in (media_ai_analysis, media_analysis_details):
                gone = delete(table).where(table.c.media_id == lease.media_id)
                await connection.execute(gone)
            row = {"media_id": lease.media_id, **_fitting(columns)}
            await connection.execute(insert(media_ai_analysis).values(row))
            details = {"media_id": lease.media_id, "details": dict(own)}
            await connection.execute(insert(media_analysis_details).values(details))
            if focus is not None:
                await _rebind(connection, lease.media_id, focus)
            await connection.execute(_completed(lease, Step.AI_VISUAL_ANALYSIS))

        await self._writer.fenced(lease, work)

    async def rendered(self, lease: Lease, library_path: str) -> None:
        """The processed file and the renditions are there: the medium is complete."""

        async def work(connection: AsyncConnection) -> None:
            values = {"library_path": library_path, "status": MediaStatus.COMPLETED}
            await connection.execute(_medium(lease).values(values))
            await _rebind(connection, lease.media_id)
            await connection.execute(_completed(lease, Step.RESIZE_OPTIMIZE))

        await self._writer.fenced(lease, work)


def _medium(lease: Lease) -> Any:
    return update(media_files).where(_files.id == lease.media_id)


def _checklist(lease: Lease) -> Any:
    return update(processing_checklist).where(_steps.media_id == lease.media_id)


def _completed(lease: Lease, step: Step) -> Any:
    return _checklist(lease).values({step: StepState.COMPLETED})


def _fitting(columns: Mapping[str, Any]) -> dict[str, Any]:
    """What a model says is as long as it likes; MySQL refuses what does not fit."""
    short = ("style_classification", "medium_detected")
    return dict(columns) | {name: (columns[name] or "")[:_MAX_CLASS] or None for name in short}


async def _save_facts(connection: AsyncConnection, media_id: int, facts: MediaFacts) -> None:
    """Facts are those of a row as it stands: read it for its version, in the same transaction."""
    row = (await connection.execute(BY_ID, {"media_id": media_id})).one()
    bound = replace(facts, row_version=media_of(row).row_version)
    await connection.execute(SAVE_FACTS, fact_values(media_id, bound))


async def _rebind(connection: AsyncConnection, media_id: int, focus: Focus | None = None) -> None:
    """Facts stay known although we changed the row: its file is the same."""
    row = (await connection.execute(BY_ID, {"media_id": media_id})).one()
    media = media_of(row)
    if media.facts is not None and media.facts.source_path == media.source_path:
        facts = media.facts if focus is None else replace(media.facts, focus=focus)
        await _save_facts(connection, media_id, facts)
