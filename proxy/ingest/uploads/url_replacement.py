"""Replacing: addresses of media take the place of uploads in the profiles, and their files go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from proxy.domain.errors import SmartserveError
from proxy.domain.pending_image import PendingImage, media_id_of
from proxy.domain.urls import profile_image_url
from proxy.storage.database.profile_columns import COLUMNS, ProfileColumn
from proxy.storage.database.upload_repository import SqlMainDatabase
from proxy.storage.upload_files.names import temp_name
from proxy.storage.upload_files.store import TempFiles

_PAGE = 500
_SIZE = "detail"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReplacementReport:
    """What one run did."""

    completed: int = 0
    changed: Mapping[ProfileColumn, int] = field(default_factory=dict)
    """Rows, by the column that was changed."""
    absent: tuple[ProfileColumn, ...] = ()
    """Columns that the main database does not have."""
    unreadable: tuple[int, ...] = ()
    """Uploads that are processed and name no medium; they are left as they are."""

    def public(self) -> Mapping[str, object]:
        """As JSON values."""
        return {
            "completed": self.completed,
            "changed": {str(column): rows for column, rows in self.changed.items()},
            "absent": [str(column) for column in self.absent],
            "unreadable": list(self.unreadable),
        }


class UrlReplacer:
    """Puts addresses in place; several may do so at once, as each row is one transaction."""

    def __init__(self, *, database: SqlMainDatabase, files: TempFiles, base_url: str) -> None:
        """``base_url`` is what the addresses of media begin with; it may be set anew."""
        self._database = database
        self._files = files
        self.base_url = base_url

    def preview(self, media_id: str) -> str:
        """The address of a medium, without a size."""
        return profile_image_url(self.base_url, media_id)

    async def run(self, *, dry: bool = False) -> ReplacementReport:
        """Do so for all uploads that are processed; ``dry`` takes all of it back.

        Raises:
            DatabaseUnavailable: the main database cannot be asked; what is done stands.
        """
        columns = await self._database.columns()
        changed: Counter[ProfileColumn] = Counter(
            {column: 0 for column in COLUMNS if column in columns}
        )
        completed, unreadable, after = 0, list[int](), 0
        while page := await self._database.processed(after=after, limit=_PAGE):
            after = page[-1].id
            for row in page:
                media_id = media_id_of(row.permanent_url)
                if media_id is None:
                    unreadable.append(row.id)
                    continue
                address = profile_image_url(self.base_url, media_id, size=_SIZE)
                done = await self._database.replace(row, address, columns, dry=dry)
                if done is not None:
                    completed += 1
                    changed.update(done)
                    await self._gone(row, dry=dry)
        absent = tuple(column for column in COLUMNS if column not in columns)
        report = ReplacementReport(completed, changed, absent, tuple(unreadable))
        if completed and not dry:
            log.info("addresses_replaced", **report.public())
        return report

    async def _gone(self, row: PendingImage, *, dry: bool) -> None:
        if not dry:
            await self.discard(row.image_path)

    async def discard(self, image_path: str) -> None:
        """Take the temporary file of an upload away that has come to its end.

        Where that fails it is left to the sweep.
        """
        where = temp_name(image_path)
        if where is None:
            return
        try:
            await self._files.remove(where)
        except SmartserveError as error:
            log.warning("temporary_file_left", image_path=image_path, detail=error.detail)
