"""Reads stored analyses, and the brand colours of a user's logos."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import select

from proxy.domain.analysis import Analysis
from proxy.domain.media import DataType
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.tables import media_ai_analysis, media_analysis_details, media_files

_files, _analyses, _details = media_files.c, media_ai_analysis.c, media_analysis_details.c
# The number of the latest logos that are searched for brand colours.
_LOGOS = 5


class AnalysisRepository:
    """Reads analyses; every method raises DatabaseUnavailable."""

    def __init__(self, writer: LeasedWriter) -> None:
        """Use a writer that the caller closes."""
        self._writer = writer

    async def find(self, media_id: int) -> Analysis | None:
        """Return the latest analysis of a medium, or None."""
        query = (
            select(media_ai_analysis, _details.details)
            .outerjoin(media_analysis_details, _details.media_id == _analyses.media_id)
            .where(_analyses.media_id == media_id)
            # A table that another program created may have several rows for a medium.
            .order_by(_analyses.id.desc())
            .limit(1)
        )
        for row in await self._writer.read(query):
            columns = row._asdict()
            own = columns.pop("details") or {}
            return Analysis(columns, own)
        return None

    async def thumbhashes(self, media_ids: Collection[int]) -> Mapping[int, str]:
        """Return the stored ThumbHashes of these media; media without one are left out."""
        query = select(media_analysis_details).where(_details.media_id.in_(media_ids))
        rows = await self._writer.read(query)
        hashes = {row.media_id: (row.details or {}).get("thumbhash") for row in rows}
        return {media_id: one for media_id, one in hashes.items() if one}

    async def find_brand(self, user_id: int) -> Mapping[str, Any] | None:
        """Return the brand colours and the id of a user's latest logo that has any, or None."""
        query = (
            select(_files.id, _details.details)
            .join(media_analysis_details, _details.media_id == _files.id)
            .where(_files.user_id == user_id, _files.data_type == DataType.LOGO)
            .order_by(_files.id.desc())
            .limit(_LOGOS)
        )
        for row in await self._writer.read(query):
            # A logo that is not analysed yet, or has no distinct colours, is skipped.
            if colours := row.details.get("brand_colors"):
                return {"brand_colors": colours, "logo_media_id": row.id}
        return None
