"""Metadata of the images of this server: what `smartserve metadata` stores and searches."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from proxy.app.metadata import MetadataServices, open_metadata_services
from proxy.app.storage import StorageServices, open_storage
from proxy.cli.base import (
    print_error,
    print_result,
    print_summary,
    printable,
    process_each,
    progress_bar,
    reason_of,
)
from proxy.domain.errors import ConfigurationError, MediaNotFound, SmartserveError
from proxy.metadata.extraction import Extraction
from proxy.runtime.supervised_task import UNCOUNTED
from proxy.settings import Settings
from proxy.storage.database.metadata_store import MetadataFilter, StoredMetadata, engine_text
from proxy.telemetry.metrics import Metrics

_PAGE = 100
_PROMPT = 60
"""Characters of a prompt in a line."""

log = structlog.get_logger(__name__)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[StorageServices, MetadataServices]]:
    async with open_storage(settings) as storage:
        opening = open_metadata_services(settings, storage, UNCOUNTED, Metrics().metadata)
        async with opening as metadata:
            if metadata is None:
                raise ConfigurationError(["metadata.enabled is false, so nothing is extracted"])
            yield storage, metadata


async def store_metadata(
    settings: Settings, ids: list[int], show: Callable[[int, Extraction], None]
) -> int:
    """Extract and store the metadata of images; return the number of failures.

    Without ids, read all images that have no stored metadata, or whose metadata another version of
    the engine has read. So an interrupted run continues where it ended.
    """
    async with _opened(settings) as (storage, metadata):
        wanted, current = (ids, 0) if ids else await _outdated(storage, metadata)

        async def store_one(media_id: int) -> bool:
            media = await storage.repository.find(media_id)
            if media is None:
                raise MediaNotFound("there is no image with this id")
            try:
                extraction = await metadata.media.store(media)
            except SmartserveError:
                raise
            except Exception as error:
                # An unforeseen error with one image must not end the run.
                log.exception("metadata_image_failed", media_id=media_id)
                print_error("failed", f"{media_id}: internal error: {error!r}")
                return False
            show(media_id, extraction)
            return True

        def report(media_id: int, error: SmartserveError) -> None:
            # One bad image costs only itself.
            print_error("failed", f"{media_id}: {reason_of(error)}")

        concurrency = settings.metadata.worker_settings(settings.workers).processes
        with progress_bar("extracting", len(wanted)) as progress:
            failed = await process_each(
                wanted, store_one, progress=progress, concurrency=concurrency, on_error=report
            )
    print_summary("extract", stored=len(wanted) - failed, current=current, failed=failed)
    return failed


async def _outdated(storage: StorageServices, metadata: MetadataServices) -> tuple[list[int], int]:
    """Return the images whose metadata is to be extracted, and the number of all others."""
    service = await metadata.extractor.started()
    name = "pillow" if service.missing else "exiftool"
    engine = engine_text(name, service.versions[name])
    found: list[int] = []
    current = after = 0
    while page := await storage.repository.ids(after=after):
        known = await storage.metadata.extracted_by(engine, page)
        found += [one for one in page if one not in known]
        current, after = current + len(known), page[-1]
    return found, current


async def search_metadata(
    settings: Settings, wanted: MetadataFilter, *, limit: int, as_json: bool
) -> int:
    """Print the images that match, newest first; return their number."""
    async with open_storage(settings) as storage:
        printed, before = 0, None
        while printed < limit:
            page = await storage.metadata.search(
                wanted, before=before, limit=min(_PAGE, limit - printed)
            )
            for one in page.images:
                print_result(_json_of(one) if as_json else _line_of(one))
            printed, before = printed + len(page.images), page.next_before
            if before is None:
                break
    return printed


def _json_of(found: StoredMetadata) -> str:
    values = {"id": found.media_id, "user_id": found.user_id, **found.columns}
    # `default` writes times as ISO 8601.
    return json.dumps({**values, "tags": [*found.tags]}, default=lambda time: time.isoformat())


def _line_of(found: StoredMetadata) -> str:
    columns = found.columns
    prompt = printable(columns["prompt"] or "")
    cut = prompt if len(prompt) <= _PROMPT else f"{prompt[:_PROMPT]}…"
    cells = (str(found.media_id), columns["ai_generator"], printable(columns["filename"] or ""))
    return "\t".join((*cells, cut))
