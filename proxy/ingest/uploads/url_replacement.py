"""Replaces upload paths in user profiles by the addresses of their media."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import structlog

from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.upload import TEMP_PREFIX, PendingImage, PendingStatus, media_id_of
from proxy.domain.urls import API_IMAGES_ROUTE, profile_image_url
from proxy.ingest.uploads.upload_queue import UploadQueue
from proxy.storage.database.profile_columns import COLUMNS, ProfileColumn

_PAGE = 500
_SIZE = "detail"
_API_IMAGES = API_IMAGES_ROUTE.removesuffix("/{name}")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ReplacementReport:
    """Result of one run; also the JSON of the command and the fields of the log line."""

    completed: int = 0
    """Uploads whose paths were replaced."""
    rewritten: int = 0
    """Uploads whose addresses were written before, and got another base."""
    changed: dict[str, int] = field(default_factory=dict)
    """Number of changed rows by column."""
    absent: list[str] = field(default_factory=list)
    """Columns that the main database does not have."""
    unreadable: list[int] = field(default_factory=list)
    """Ids of processed uploads without a valid media id; they stay unchanged."""
    failed: dict[int, str] = field(default_factory=dict)
    """Ids of uploads that the database did not change, and why; the next run repeats them."""


@dataclass(slots=True)
class UrlReplacer:
    """Replaces the paths of processed uploads: processed becomes complete.

    Several processes may run it at once, because each upload is one transaction.
    """

    queue: UploadQueue
    base_url: str
    """Prefix of the addresses; set once the port of the server is known."""
    reachable: bool = True
    """Whether users on other machines can reach it. If not, responses have paths only."""

    async def run(self, *, dry: bool = False, again: bool = False) -> ReplacementReport:
        """Replace the paths of all processed uploads; ``dry`` rolls every change back.

        With ``again``, addresses that were written before and have another base are replaced too.

        An upload whose rows the database does not change costs only itself.

        Raises:
            DatabaseUnavailable: the uploads could not be listed; completed replacements remain.
        """
        database = self.queue.database
        columns = await database.profile_columns()
        report = ReplacementReport(
            changed={str(column): 0 for column in COLUMNS if column in columns},
            absent=[str(column) for column in COLUMNS if column not in columns],
        )
        columns_of = {PendingStatus.PROCESSED: columns}
        if again:
            # An address does not name the upload as its path does: only in rows of its user.
            columns_of[PendingStatus.COMPLETE] = await database.profile_columns(of_users=True)
        for status, existing in columns_of.items():
            after = 0
            # By id and not by offset: rows leave the result as their status changes.
            while page := await database.list_ended(status, after=after, limit=_PAGE):
                after = page[-1].id
                for row in page:
                    try:
                        await self._replace(row, existing, report, dry=dry)
                    except DatabaseUnavailable as error:
                        report.failed[row.id] = error.reason or error.detail
        if report.failed:
            # Once, and not for each: if the database is down, all of a page fail.
            upload, cause = next(iter(report.failed.items()))
            log.warning(
                "addresses_not_written", uploads=len(report.failed), first=upload, cause=cause
            )
        if (report.completed or report.rewritten) and not dry:
            log.info("addresses_replaced", **asdict(report))
        return report

    async def profile(self, user_id: int) -> Mapping[ProfileColumn, Sequence[str]]:
        """Return a user's profile as it will be once `run` has replaced all paths.

        Uploads that are not processed yet have the address of their preview, failed ones none.

        Raises:
            DatabaseUnavailable: nothing is known.
        """
        database = self.queue.database
        stored = await database.profile(user_id)
        paths = {one for values in stored.values() for one in values if one.startswith(TEMP_PREFIX)}
        rows = await database.find_by_paths(paths) if paths else {}

        # A browser resolves a path against the address by which it has reached this server.
        base = self.base_url if self.reachable else _API_IMAGES

        def shown(path: str) -> str | None:
            row = rows.get(path)
            if not path.startswith(TEMP_PREFIX):
                return path
            if row is None or row.status == PendingStatus.PENDING:
                # Absolute: the page may be of another origin than this server. The path alone if a
                # server with other routes serves the media.
                return (
                    f"{base.removesuffix(_API_IMAGES)}{path}"
                    if base.endswith(_API_IMAGES)
                    else path
                )
            media_id = media_id_of(row.permanent_url)
            # Failed, or processed without a valid media id.
            return media_id and profile_image_url(base, media_id, size=_SIZE)

        return {
            column: [address for path in values if (address := shown(path))]
            for column, values in stored.items()
        }

    async def _replace(
        self,
        row: PendingImage,
        columns: Collection[ProfileColumn],
        report: ReplacementReport,
        *,
        dry: bool,
    ) -> None:
        database, media_id = self.queue.database, media_id_of(row.permanent_url)
        if media_id is None:
            # Reported and left unchanged: one bad row must not stop the others.
            report.unreadable.append(row.id)
            return
        address = profile_image_url(self.base_url, media_id, size=_SIZE)
        if row.status is PendingStatus.COMPLETE:
            done = await database.replace_address(row, media_id, address, columns, dry_run=dry)
            report.rewritten += any(done.values())
        else:
            found = await database.replace_path(row, address, columns, dry_run=dry)
            # None: another process has replaced this upload meanwhile.
            if found is None:
                return
            done = found
            report.completed += 1
            if not dry:
                # After the commit: until then the profile refers to this file.
                await self.queue.discard(row.image_path)
        for column, rows in done.items():
            report.changed[str(column)] += rows
