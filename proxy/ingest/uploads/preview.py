"""Renders uploads that are not processed yet, so that profiles show them in the meantime.

Like every other image an upload is decoded in a confined worker and encoded again: the file that
the client sent is never passed on to browsers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from cachetools import LRUCache

from proxy.domain.errors import PendingNotFound
from proxy.domain.formats import Format, sniff
from proxy.domain.media import Media, MediaFacts
from proxy.domain.render_plan import RenderPlan, RenderPlanner
from proxy.domain.request import VariantRequest
from proxy.domain.upload import PendingStatus
from proxy.domain.variant import Variant
from proxy.domain.worker_protocol import JobFailure, ProbeJob, RenditionSet
from proxy.ingest.uploads.upload_queue import UploadQueue
from proxy.runtime.single_flight import SharedResults
from proxy.serving.job_dispatch import JobDispatcher, output_of
from proxy.serving.source_facts import to_facts
from proxy.storage.upload_files import OpenUpload

_SHOWN = (PendingStatus.PENDING, PendingStatus.PROCESSED)
"""Until the profile has the address of the medium."""
_MAX_FACTS = 1000
_MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Preview:
    """A rendered upload."""

    plan: RenderPlan
    variant: Variant
    format: Format
    body: bytes


class UploadPreviews:
    """Renders uploads. Whoever knows the secret name of one may see it until it has ended."""

    def __init__(
        self, *, queue: UploadQueue, dispatcher: JobDispatcher, planner: RenderPlanner
    ) -> None:
        """All collaborators are owned by the caller."""
        self._queue = queue
        self._dispatcher = dispatcher
        self._planner = planner
        self._facts: LRUCache[str, MediaFacts] = LRUCache(_MAX_FACTS)
        self._bodies: LRUCache[str, bytes] = LRUCache(_MAX_BYTES, getsizeof=len)
        self._probes: SharedResults[MediaFacts] = SharedResults()
        self._renders: SharedResults[bytes] = SharedResults()

    async def render(self, image_path: str, request: VariantRequest, accept: str) -> Preview:
        """Return an upload as an image of the requested size and format, at draft quality.

        Raises:
            PendingNotFound: there is no such upload, or it was processed, failed or deleted.
            RenderError: the file cannot be decoded, or exceeds a limit.
            CapacityError: no worker became free in time, or the database is unavailable.
            UploadStorageError: the file cannot be read.
        """
        # The file before the row: a request for a file that does not exist costs no query.
        async with self._opened(image_path) as opened:
            key = f"{image_path} {opened.version}"
        # With each request, also if the image is in memory: the end of an upload revokes its name.
        row = (await self._queue.database.find_by_paths([image_path])).get(image_path)
        if row is None or row.status not in _SHOWN:
            raise PendingNotFound("there is no such temporary file")
        facts = self._facts.get(key) or await self._probes.result(
            key, lambda: self._probe(key, image_path)
        )
        plan = self._planner.plan(_media(image_path, facts), facts, request, accept)
        # No final is worth its time: the upload is shown for a minute or so.
        variant = plan.stages[-1]
        digest = f"{variant.digest} {key}"
        body = self._bodies.get(digest) or await self._renders.result(
            digest, lambda: self._render(key, digest, image_path, variant)
        )
        return Preview(plan, variant, Format(sniff(body) or variant.format), body)

    async def _probe(self, key: str, image_path: str) -> MediaFacts:
        # Opened anew: callers may leave, and close their files, while others wait for the result.
        async with self._opened(image_path) as opened:
            job = ProbeJob(self._planner.rules.limits)
            found = await self._dispatcher.run_file(key, opened.file.descriptor, job)
        facts = self._facts[key] = to_facts(found, image_path)
        return facts

    async def _render(self, key: str, digest: str, image_path: str, variant: Variant) -> bytes:
        rules, encoded = self._planner.rules, bytearray()
        job = RenditionSet(rules.limits, (output_of(variant),), rules.copyright_notice)
        async with self._opened(image_path) as opened:
            descriptor = opened.file.descriptor
            done = await self._dispatcher.run_file(key, descriptor, job, encoded.extend)
        (result,) = done.results
        if isinstance(result, JobFailure):
            raise result.to_error()
        body = bytes(encoded)
        if len(body) <= _MAX_BYTES:
            self._bodies[digest] = body
        return body

    @asynccontextmanager
    async def _opened(self, image_path: str) -> AsyncIterator[OpenUpload]:
        opened = await self._queue.open(image_path)
        try:
            yield opened
        finally:
            opened.file.close()

    async def aclose(self) -> None:
        """Cancel the running jobs."""
        await self._probes.aclose()
        await self._renders.aclose()


def _media(image_path: str, facts: MediaFacts) -> Media:
    """Return a row for the planner; 0 is the id of no medium."""
    return Media(
        id=0,
        user_id=0,
        data_type="",
        original_name=None,
        mime_type=None,
        file_size=facts.byte_size,
        bulk_path=image_path,
        library_path=None,
        status=None,
        updated_at=datetime.fromtimestamp(0, UTC),
        facts=facts,
    )
