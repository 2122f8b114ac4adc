"""The steps of an upload: download, analyse, render and callback."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from proxy.analysis.analyst import Analyst
from proxy.domain.analysis import PUBLIC_TYPES, Analysis
from proxy.domain.errors import (
    FILE_FAULTS,
    MainApiUnavailable,
    MediaNotFound,
    SourceError,
    UploadMerged,
)
from proxy.domain.formats import TRAITS, Format
from proxy.domain.media import DataType, Focus, Media, MediaFacts
from proxy.domain.render_plan import RenderPlan, RenderPlanner
from proxy.domain.request import DPRS
from proxy.domain.upload import LeasedItem, Step, StepState
from proxy.domain.urls import image_url
from proxy.domain.variant import MAX_SIDE, EncoderProfile, SizeSpec, plan_geometry
from proxy.domain.worker_protocol import RenderOutput, RenditionSet
from proxy.ingest.main_api import MainApi
from proxy.metadata.media_extraction import MediaExtractor
from proxy.runtime.tempfiles import fill, scratch_file
from proxy.runtime.thread_pool import in_daemon_thread
from proxy.serving.finals.queue import UpgradeQueue
from proxy.serving.finals.renderer import FinalRenderer
from proxy.serving.job_dispatch import JobDispatcher
from proxy.serving.source_facts import SourceChecker, SourceFactsService, to_facts
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import AnalysisRepository, SqlMediaRepository
from proxy.storage.originals.local_store import LocalOriginals, library_path, original_path

_PHOTO = EncoderProfile(Format.JPEG, (("Q", 92), ("interlace", True), ("optimize_coding", True)))
_LOSSLESS = EncoderProfile(Format.PNG, (("compression", 6),))
_ANIMATION = EncoderProfile(Format.WEBP, (("Q", 90), ("effort", 4)))


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSteps:
    """Does the work of each step; `proxy.ingest.item_runner.ItemRunner` calls them in order.

    Each method records the completion of its step in the same transaction as its results.
    """

    api: MainApi
    media: SqlMediaRepository
    """The database itself, not a cache: other processes change the same rows."""
    facts: SourceFactsService
    progress: LeasedWriter
    changed: Callable[[int], None]
    """Called with a media id when its row changed."""
    checker: SourceChecker
    originals: LocalOriginals
    storage_root: Path
    analyst: Analyst
    analyses: AnalysisRepository
    dispatcher: JobDispatcher
    planner: RenderPlanner
    finals: FinalRenderer
    finals_queue: UpgradeQueue
    metadata: MediaExtractor | None
    """None if no metadata is extracted."""
    renditions: Literal["draft", "final", "none"]
    """What is rendered in advance."""
    base_url: str
    """Address at which others reach the media; empty if none is known."""

    async def _current(self, item: LeasedItem) -> tuple[Media, MediaFacts]:
        """Return the medium of an upload with its facts.

        Raises:
            MediaNotFound: its row was deleted.
            SmartserveError: its facts are unknown and could not be read from its source.
        """
        media = await self.media.find(item.lease.media_id)
        if media is None:
            raise MediaNotFound("The row of the medium was deleted.")
        return media, await self.facts.facts(media)

    async def download(self, item: LeasedItem) -> None:
        """Store the upload as an original. From the commit on, the image is served."""
        async with self.api.download(item.upload.image_path) as (descriptor, doubt):
            # Every pixel is decoded: a truncated file must fail here, not when it is served.
            try:
                result = await self.checker.check(descriptor)
            except FILE_FAULTS as error:
                # An error page of a proxy is no image either, and proves nothing about the file.
                if doubt:
                    raise MainApiUnavailable(f"{doubt} {error.detail}") from error
                raise
            path = original_path(item, result.content_hash, result.source_type)
            # The worker process shares the open file, and has moved its offset.
            os.lseek(descriptor, 0, os.SEEK_SET)
            equal = await self.progress.find_equal(item, result.content_hash)
            if equal is not None:
                # In case the file of the other medium is missing.
                await self.originals.add(equal[1], descriptor)
                await self._merge(item, equal[0])
            # The path contains id and content hash. If the file exists, a worker stored it and
            # ended before it could record that.
            await self.originals.add(path, descriptor)
        equal = await self.progress.save_original(item, to_facts(result, path))
        if equal is not None:
            # Another worker has stored it meanwhile.
            await self._merge(item, equal[0], path)
        self.changed(item.lease.media_id)

    async def _merge(self, item: LeasedItem, media_id: int, path: str | None = None) -> NoReturn:
        """Continue an upload with an equal medium; ``path`` is its own original, if it is stored.

        Raises:
            UploadMerged: always; any worker continues the upload.
        """
        await self.progress.merge(item.lease, media_id)
        self.changed(item.lease.media_id)
        if path is not None:
            # A file that cannot be deleted now is only waste.
            with suppress(SourceError):
                await self.originals.remove(path)
        raise UploadMerged(f"it is equal to image {media_id} of the same user and type")

    async def analyse(self, item: LeasedItem) -> None:
        """Analyse the medium of an upload, and store the result."""
        await self._analyse(item, None)

    async def is_analysis_incomplete(self, item: LeasedItem) -> bool:
        """Return whether a provider was unavailable and should be requested again."""
        stored = await self.analyses.find(item.lease.media_id)
        return stored is not None and bool(stored.pending_providers)

    async def complete_analysis(self, item: LeasedItem) -> bool:
        """Request what the stored analysis lacks, or everything if none is stored.

        Earlier results are kept. Return whether the analysis is complete now.
        """
        return await self._analyse(item, await self.analyses.find(item.lease.media_id))

    async def _analyse(self, item: LeasedItem, stored: Analysis | None) -> bool:
        media, facts = await self._current(item)
        found = await self.analyst.analyse(media, facts, stored=stored)
        pending = found.pending_providers
        # Without a new answer the stored analysis stays: it may be better, for example in its text.
        if stored is None or set(pending) != set(stored.pending_providers):
            await self.progress.save_analysis(
                item.lease,
                found.columns,
                found.own,
                focus=focus_of(found),
                embedding=found.embedding,
            )
            self.changed(media.id)
        return not pending

    async def render(self, item: LeasedItem) -> None:
        """Render the processed file and the renditions that are missing.

        From the commit on, the medium is complete.
        """
        media, facts = await self._current(item)
        path = await self._store_master(item, media, facts)
        facts = await self.finals.with_faces(media, facts)
        plans = plans_of(self.planner, media, facts)
        if self.renditions != "none":
            await self.finals.complete(drafts_of(plans) if self.renditions == "draft" else plans)
        await self.progress.save_library_file(item.lease, path)
        self.changed(media.id)
        # The finals follow at idle priority; the upload does not wait for them.
        if self.renditions == "draft":
            self.finals_queue.request_all(plans)

    async def _store_master(self, item: LeasedItem, media: Media, facts: MediaFacts) -> str:
        """Store the processed file, and return its path.

        It is upright, sRGB, without metadata, and as large as the largest size that is served.
        """
        profile = master_profile(media, facts)
        rules = self.planner.rules
        geometry = plan_geometry(largest_box(rules.sizes.values()), facts)
        output = RenderOutput(geometry, profile, animated=facts.animated)
        job = RenditionSet(rules.limits, (output,), rules.copyright_notice)
        master = await self.dispatcher.encoded(media, job, facts=facts)
        path = library_path(item, facts.content_hash, TRAITS[profile.format].suffix)
        async with scratch_file(self.storage_root) as file:
            # In a thread: the file is below the storage root, which may be a slow network file
            # system.
            await in_daemon_thread(lambda: fill(file, master))
            await self.originals.add(path, file.fileno())
        return path

    async def callback(self, item: LeasedItem) -> None:
        """Report the complete medium to the main API."""
        media, facts = await self._current(item)
        payload = callback_payload(
            media,
            facts,
            base_url=self.base_url,
            formats={plan.variant.format for plan in plans_of(self.planner, media, facts)},
            stored=await self.analyses.find(media.id),
        )
        await self.api.complete(item.upload.id, payload)
        # After the request: if the worker ends in between, the callback is sent again. The main API
        # accepts it twice.
        await self.progress.set_step(item.lease, Step.UPDATE_CALLBACK, StepState.COMPLETED)

    async def extract_metadata(self, item: LeasedItem) -> None:
        """Extract and store the metadata of the medium, unless that has been done.

        Not fenced by the lease: each worker would store the same.
        """
        media_id = item.lease.media_id
        if self.metadata is None or await self.metadata.metadata.find_generation(media_id):
            return
        media = await self.media.find(media_id)
        if media is None:
            raise MediaNotFound("The row of the medium was deleted.")
        await self.metadata.store(media)


def focus_of(analysis: Analysis) -> Focus | None:
    """Return the centre of the most prominent object, or None if no provider located one.

    Prominence is confidence times the side of the box. This focus takes precedence over the one
    that libvips computes.
    """
    objects = analysis.columns["detected_objects"] or ()
    located = [(one["confidence"], one["box"]) for one in objects if one["box"]]
    if not located:
        return None
    _, (left, top, right, bottom) = max(located, key=lambda one: one[0] * _side(one[1]))
    return Focus(_clamped((left + right) / 2), _clamped((top + bottom) / 2))


def _side(box: tuple[float, float, float, float]) -> float:
    left, top, right, bottom = box
    return math.sqrt(max(0.0, right - left) * max(0.0, bottom - top))


def _clamped(fraction: float) -> float:
    # Some providers place the corners of an object outside the image.
    return min(1.0, max(0.0, fraction))


def plans_of(planner: RenderPlanner, media: Media, facts: MediaFacts) -> list[RenderPlan]:
    """Return all named sizes in all formats, and for logos also with the background removed."""
    plans = planner.all_plans(media, facts)
    if media.data_type == DataType.LOGO and facts.flat_background:
        plans += planner.all_plans(media, facts, remove_background=True)
    return list({plan.variant.digest: plan for plan in plans}.values())


def drafts_of(plans: Sequence[RenderPlan]) -> list[RenderPlan]:
    """Return plans of the drafts. A plan without a draft stays as it is."""
    drafts = [
        plan if plan.draft is None else replace(plan, variant=plan.draft, draft=None)
        for plan in plans
    ]
    # Plans that differ in their final only, by its alternative, have the same draft.
    return list({plan.variant.digest: plan for plan in drafts}.values())


def master_profile(media: Media, facts: MediaFacts) -> EncoderProfile:
    """Return the encoding of the processed file: without visible loss."""
    if facts.animated:
        return _ANIMATION
    # JPEG would add ringing to the sharp edges of a logo, and has no alpha channel.
    return _LOSSLESS if facts.has_alpha or media.data_type == DataType.LOGO else _PHOTO


def largest_box(sizes: Iterable[SizeSpec]) -> SizeSpec:
    """Return a square with the longest side of all named sizes at the highest pixel density."""
    sides = [side for size in sizes for side in (size.width, size.height) if side]
    side = min(MAX_SIDE, round(max(sides) * max(DPRS.values())))
    return SizeSpec("master", side, side)


def callback_payload(
    media: Media,
    facts: MediaFacts,
    *,
    base_url: str,
    formats: set[Format],
    stored: Analysis | None,
) -> Mapping[str, Any]:
    """Return the rich payload: section 12 of the requirements document.

    ``stored`` is None if the analysis is not complete. Unknown values are null. A main API that
    reads the simple payload uses ``media_id`` only.
    """
    logo, site = media.data_type == DataType.LOGO, media.data_type == DataType.SITES
    found = {} if stored is None else stored.public()
    details = dict.fromkeys(PUBLIC_TYPES) if stored is None else stored.details()
    names = ("style", "medium", "quality_score", "mood_keywords", "dominant_colors")
    return {
        "media_id": str(media.id),
        "permanent_url": image_url(media.id, base=base_url) if base_url else None,
        "processing_complete": True,
        "ai_enhanced": stored is not None and stored.ai_enhanced,
        # In the order of the enumeration, so that equal media have equal payloads.
        "formats_available": [str(fmt) for fmt in Format if fmt in formats],
        "ai_analysis": {
            **{name: found.get(name) for name in names},
            **details,
            "reasons": found.get("reasons", {}),
            "brand_colors": found.get("brand_colors") if logo else None,
            "site_context": found.get("site_context") if site else None,
            "background_removed": facts.flat_background if logo else None,
        },
    }
