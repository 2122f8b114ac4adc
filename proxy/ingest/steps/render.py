"""The step resize_optimize: the processed file, and the named sizes in all formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from proxy.domain.formats import TRAITS, EncoderProfile, Format
from proxy.domain.geometry import MAX_SIDE, SizeSpec, plan_geometry
from proxy.domain.ingest_item import LeasedItem
from proxy.domain.media import DataType, Media, MediaFacts
from proxy.domain.query import DPRS
from proxy.domain.render_plan import RenderPlan, RenderPlanner
from proxy.domain.worker_protocol import RenderJob
from proxy.ingest.steps.media_of_item import IngestMediaLoader
from proxy.runtime.daemon_thread import aside
from proxy.runtime.scratch_file import fill, scratch_file
from proxy.serving.finals.renderer import FinalRenderer
from proxy.serving.job_dispatch import JobDispatcher
from proxy.storage.database.ingest_progress import IngestProgress
from proxy.storage.originals import OriginalStore
from proxy.storage.originals.naming import library_path

_PHOTO = EncoderProfile(Format.JPEG, (("Q", 92), ("interlace", True), ("optimize_coding", True)))
_LOSSLESS = EncoderProfile(Format.PNG, (("compression", 6),))
_MOVING = EncoderProfile(Format.WEBP, (("Q", 90), ("effort", 4)))


class FinalsQueue(Protocol):
    """Takes wishes for finals; `proxy.serving.finals.queue.UpgradeQueue` does."""

    def ask_all(self, plans: Sequence[RenderPlan]) -> None:
        """Wish for the finals of plans for one medium."""


class RenderStep:
    """Makes of an original all that is served of it."""

    def __init__(  # noqa: PLR0913 - what joins the rooms has to be given all of them
        self,
        *,
        shelf: IngestMediaLoader,
        workshop: JobDispatcher,
        planner: RenderPlanner,
        finisher: FinalRenderer,
        originals: OriginalStore,
        wishes: FinalsQueue,
        progress: IngestProgress,
        root: Path,
        renditions: str,
        changed: Callable[[int], None],
    ) -> None:
        """The rooms it works with; ``renditions``: ``draft``, ``final`` or ``none``."""
        self._shelf = shelf
        self._workshop = workshop
        self._planner = planner
        self._finisher = finisher
        self._originals = originals
        self._wishes = wishes
        self._progress = progress
        self._root = root
        self._renditions = renditions
        self._changed = changed

    async def __call__(self, item: LeasedItem) -> None:
        """Render what is missing of the medium of an upload; then it is complete."""
        media, facts = await self._shelf.take(item)
        path = await self._master(item, media, facts)
        plans = plans_of(self._planner, media, facts)
        await self._render(plans)
        await self._progress.rendered(item.lease, path)
        self._changed(media.id)
        if self._renditions == "draft":
            self._wishes.ask_all(plans)

    async def _master(self, item: LeasedItem, media: Media, facts: MediaFacts) -> str:
        """The processed file: upright, sRGB, without metadata, as large as is ever asked for."""
        profile = profile_of(media, facts)
        job = RenderJob(
            limits=self._planner.rules.limits,
            geometry=plan_geometry(largest_box(self._planner.rules.sizes.values()), facts),
            profile=profile,
            animated=facts.animated,
            copyright=self._planner.rules.copyright_notice,
        )
        rendition = await self._workshop.encoded(media, job, byte_size=facts.byte_size)
        path = library_path(item, facts.content_hash, TRAITS[profile.format].suffix)
        async with scratch_file(self._root) as file:
            await aside(lambda: fill(file, rendition))
            await self._originals.add(path, file.fileno())
        return path

    async def _render(self, plans: Sequence[RenderPlan]) -> None:
        if self._renditions == "none":
            return
        wanted = drafts_of(plans) if self._renditions == "draft" else list(plans)
        await self._finisher.complete(wanted)


def plans_of(planner: RenderPlanner, media: Media, facts: MediaFacts) -> list[RenderPlan]:
    """All named sizes in all formats; of a logo without its background as well."""
    plans = planner.whole_picture(media, facts)
    if media.data_type == DataType.LOGO and facts.flat_background:
        plans += planner.whole_picture(media, facts, remove_background=True)
    return list({plan.variant.digest: plan for plan in plans}.values())


def drafts_of(plans: Sequence[RenderPlan]) -> list[RenderPlan]:
    """The same with what stands in until the finals are there."""
    drafts = [
        plan if plan.draft is None else replace(plan, variant=plan.draft, draft=None)
        for plan in plans
    ]
    return list({plan.variant.digest: plan for plan in drafts}.values())


def profile_of(media: Media, facts: MediaFacts) -> EncoderProfile:
    """How the processed file is encoded: that it loses nothing that anybody sees."""
    if facts.animated:
        return _MOVING
    # A logo's edges would ring.
    return _LOSSLESS if facts.has_alpha or media.data_type == DataType.LOGO else _PHOTO


def largest_box(sizes: Iterable[SizeSpec]) -> SizeSpec:
    """The box that the largest named size needs on the finest screen."""
    sides = [side for size in sizes for side in (size.width, size.height) if side]
    side = min(MAX_SIDE, round(max(sides) * max(DPRS.values())))
    return SizeSpec("master", side, side)
