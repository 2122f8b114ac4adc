"""Stores what a worker has done with an upload, fenced by its lease."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.media import Focus, MediaFacts, MediaStatus
from proxy.domain.upload import Lease, Step, StepState
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import BY_ID, media_of, save_bound_facts
from proxy.storage.database.tables import (
    media_ai_analysis,
    media_analysis_details,
    media_files,
    processing_checklist,
)

_files, _steps = media_files.c, processing_checklist.c
# Columns of 255 characters that a language model fills with text of any length.
_SHORT_COLUMNS = ("style_classification", "medium_detected")
_MAX_SHORT = 255


@dataclass(frozen=True, slots=True)
class StoredOriginal:
    """An original that is in the storage."""

    bulk_path: str
    mime_type: str
    facts: MediaFacts


class IngestProgress:
    """Writes to the media and their checklists.

    Every method raises LeaseLost if another worker has the upload, and DatabaseUnavailable.
    """

    def __init__(self, writer: LeasedWriter) -> None:
        """Use a writer that the caller closes."""
        self._writer = writer

    async def start_attempt(self, lease: Lease, step: Step, *, worker_id: str) -> int:
        """Count an attempt before it is made; return the number of attempts including this one."""
        column = processing_checklist.c[f"{step}_attempts"]

        async def work(connection: AsyncConnection) -> int:
            # A worker that crashes during the step has used up an attempt too. NULL occurs in
            # tables of other programs.
            counted = {column.name: func.coalesce(column, 0) + 1, "worker_id": worker_id}
            await connection.execute(_checklist(lease, counted))
            query = select(func.max(column)).where(_steps.media_id == lease.media_id)
            return int((await connection.execute(query)).scalar_one())

        return await self._writer.fenced(lease, work)

    async def set_step(self, lease: Lease, step: Step, state: StepState) -> None:
        """Store how a step ended."""
        await self._writer.fenced_execute(lease, _checklist(lease, {step: state}))

    async def save_original(self, lease: Lease, original: StoredOriginal) -> None:
        """Store where the original is; from the commit on the image is served."""

        async def work(connection: AsyncConnection) -> None:
            values = {
                "bulk_path": original.bulk_path,
                "mime_type": original.mime_type,
                "file_size": original.facts.byte_size,
                "status": MediaStatus.PROCESSING,
            }
            await connection.execute(_medium(lease, values))
            await save_bound_facts(connection, lease.media_id, original.facts)
            await connection.execute(_completed(lease, Step.RETRIEVE_FILE))

        await self._writer.fenced(lease, work)

    async def save_analysis(
        self,
        lease: Lease,
        columns: Mapping[str, Any],
        own: Mapping[str, Any],
        *,
        focus: Focus | None,
    ) -> None:
        """Replace the stored analysis; ``focus`` becomes the centre of cropped renditions."""

        async def work(connection: AsyncConnection) -> None:
            # Not an upsert: the tables of another program need no unique key.
            for table in (media_ai_analysis, media_analysis_details):
                await connection.execute(delete(table).where(table.c.media_id == lease.media_id))
            row = {"media_id": lease.media_id, **_truncated(columns)}
            await connection.execute(insert(media_ai_analysis).values(row))
            details = {"media_id": lease.media_id, "details": dict(own)}
            await connection.execute(insert(media_analysis_details).values(details))
            if focus is not None:
                await _rebind_facts(connection, lease.media_id, focus)
            await connection.execute(_completed(lease, Step.AI_VISUAL_ANALYSIS))

        await self._writer.fenced(lease, work)

    async def save_library_file(self, lease: Lease, library_path: str) -> None:
        """Store where the processed file is, and mark the medium as completed."""

        async def work(connection: AsyncConnection) -> None:
            values = {"library_path": library_path, "status": MediaStatus.COMPLETED}
            await connection.execute(_medium(lease, values))
            await _rebind_facts(connection, lease.media_id)
            await connection.execute(_completed(lease, Step.RESIZE_OPTIMIZE))

        await self._writer.fenced(lease, work)


def _medium(lease: Lease, values: Mapping[str, Any]) -> Any:
    return update(media_files).where(_files.id == lease.media_id).values(values)


def _checklist(lease: Lease, values: Mapping[Any, Any]) -> Any:
    return update(processing_checklist).where(_steps.media_id == lease.media_id).values(values)


def _completed(lease: Lease, step: Step) -> Any:
    return _checklist(lease, {step: StepState.COMPLETED})


def _truncated(columns: Mapping[str, Any]) -> dict[str, Any]:
    # MySQL in strict mode rejects a value that is longer than its column.
    short = {name: (columns[name] or "")[:_MAX_SHORT] or None for name in _SHORT_COLUMNS}
    return dict(columns) | short


async def _rebind_facts(
    connection: AsyncConnection, media_id: int, focus: Focus | None = None
) -> None:
    """Keep the facts valid although the row has changed: the file is the same."""
    row = (await connection.execute(BY_ID, {"media_id": media_id})).one()
    media = media_of(row)
    # A row whose source path has changed has another file; its facts must expire.
    if media.facts is not None and media.facts.source_path == media.source_path:
        facts = media.facts if focus is None else replace(media.facts, focus=focus)
        await save_bound_facts(connection, media_id, facts)
