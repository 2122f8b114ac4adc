"""The step ``resize_optimize``: the processed file, and the named sizes in all formats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from proxy.domain.formats import TRAITS, Format
from proxy.domain.media import DataType, Media, MediaFacts
from proxy.domain.render_plan import RenderPlan, RenderPlanner
from proxy.domain.request import DPRS
from proxy.domain.upload import LeasedItem
from proxy.domain.variant import MAX_SIDE, EncoderProfile, SizeSpec, plan_geometry
from proxy.domain.worker_protocol import RenderOutput, RenditionSet
from proxy.ingest.steps import StepContext
from proxy.runtime.tempfiles import fill, scratch_file
from proxy.runtime.thread_pool import in_daemon_thread
from proxy.serving.finals.queue import UpgradeQueue
from proxy.serving.finals.renderer import FinalRenderer
from proxy.serving.job_dispatch import JobDispatcher
from proxy.storage.originals.local_store import LocalOriginals, library_path

_PHOTO = EncoderProfile(Format.JPEG, (("Q", 92), ("interlace", True), ("optimize_coding", True)))
_LOSSLESS = EncoderProfile(Format.PNG, (("compression", 6),))
_ANIMATION = EncoderProfile(Format.WEBP, (("Q", 90), ("effort", 4)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderStep:
    """Renders the processed file and the renditions of a medium.

    ``renditions`` selects what is rendered in advance: drafts, finals, or nothing.
    """

    context: StepContext
    dispatcher: JobDispatcher
    planner: RenderPlanner
    finals: FinalRenderer
    finals_queue: UpgradeQueue
    originals: LocalOriginals
    storage_root: Path
    renditions: Literal["draft", "final", "none"]

    async def __call__(self, item: LeasedItem) -> None:
        """Render what is missing. From the commit on, the medium is complete."""
        media, facts = await self.context.current(item)
        path = await self._store_master(item, media, facts)
        plans = plans_of(self.planner, media, facts)
        if self.renditions != "none":
            await self.finals.complete(drafts_of(plans) if self.renditions == "draft" else plans)
        await self.context.progress.save_library_file(item.lease, path)
        self.context.changed(media.id)
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
        master = await self.dispatcher.encoded(media, job, byte_size=facts.byte_size)
        path = library_path(item, facts.content_hash, TRAITS[profile.format].suffix)
        async with scratch_file(self.storage_root) as file:
            # In a thread: the file is below the storage root, which may be a slow network file
            # system.
            await in_daemon_thread(lambda: fill(file, master))
            await self.originals.add(path, file.fileno())
        return path


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
