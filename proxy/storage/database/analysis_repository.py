"""Analyses as they are kept: one medium's, and the brand colours that a user's logos have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from proxy.domain.media import DataType
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.tables import media_ai_analysis, media_analysis_details, media_files

_files, _found, _details = media_files.c, media_ai_analysis.c, media_analysis_details.c
_LOGOS = 5
"""The latest logos of a user that are asked for their colours."""


@dataclass(frozen=True, slots=True)
class StoredAnalysis:
    """An analysis as `Analysis.columns` and `Analysis.own` gave it."""

    columns: Mapping[str, Any]
    own: Mapping[str, Any]
    """Empty where another program has made the analysis."""


class AnalysisRepository:
    """Reads analyses; every method raises DatabaseUnavailable."""

    def __init__(self, writer: LeasedWriter) -> None:
        """The writer stays the caller's."""
        self._writer = writer

    async def find(self, media_id: int) -> StoredAnalysis | None:
        """The latest analysis of a medium, or None."""
        query = (
            select(media_ai_analysis, _details.details)
            .outerjoin(media_analysis_details, _details.media_id == _found.media_id)
            .where(_found.media_id == media_id)
            .order_by(_found.id.desc())
            .limit(1)
        )
        for row in await self._writer.read(query):
            columns = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
            own = columns.pop("details") or {}
            return StoredAnalysis(columns, own)
        return None

    async def thumbhashes(self, media_ids: Collection[int]) -> Mapping[int, str]:
        """Of these media, those whose ThumbHash is stored."""
        query = select(media_analysis_details).where(_details.media_id.in_(media_ids))
        rows = await self._writer.read(query)
        hashes = {row.media_id: (row.details or {}).get("thumbhash") for row in rows}
        return {media_id: one for media_id, one in hashes.items() if one}

    async def brand_of(self, user_id: int) -> Mapping[str, Any] | None:
        """The brand colours of a user's latest logo that has any, and its medium; None: none."""
        query = (
            select(_files.id, _details.details)
            .join(media_analysis_details, _details.media_id == _files.id)
            .where(_files.user_id == user_id, _files.data_type == DataType.LOGO)
            .order_by(_files.id.desc())
            .limit(_LOGOS)
        )
        for row in await self._writer.read(query):
            if colours := row.details.get("brand_colors"):
                return {"brand_colors": colours, "logo_media_id": row.id}
        return None
