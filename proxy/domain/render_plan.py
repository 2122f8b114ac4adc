"""Planning: from a request and the facts of its image to variants. Pure.

A format may have two stages. The request resolves to the final; until that is rendered, its draft
may be sent instead. Both are ordinary variants with their own keys and ETags.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product

from proxy.domain.formats import TRAITS, Format
from proxy.domain.media import Background, Media, MediaFacts
from proxy.domain.negotiation import acceptable, fallback
from proxy.domain.request import DPRS, WIDTHS, VariantRequest, width_box
from proxy.domain.variant import (
    SHAPE_DIGITS,
    EncodingStage,
    EncodingStages,
    Geometry,
    SizeSpec,
    Variant,
    plan_geometry,
    scaled_size,
    shape_of,
    wants_faces,
)
from proxy.domain.worker_protocol import Limits

# Cached base sizes: every plan needs one.
_BASE_SIZES = 10_000

# Maximum difference of the logarithms of two aspect ratios that count as equal.
_SAME_SHAPE = 0.05


@dataclass(frozen=True, slots=True)
class RenderRules:
    """Everything besides request and image that determines a variant."""

    stages: Mapping[Format, EncodingStages]
    order: tuple[Format, ...]
    """The server's preference, which breaks ties of q-values."""
    sizes: Mapping[str, SizeSpec]
    limits: Limits
    recipe: str
    copyright_notice: str | None = None
    """Written into every rendition."""
    prefer_smallest: bool = False
    """Whether the client's second format replaces a final if its file is smaller."""
    lean_stages: Mapping[Format, EncodingStages] | None = None
    """Replace ``stages`` for requests whose client hints request fewer bytes."""
    detects_faces: bool = False
    """Whether faces that have not been looked for will be."""


@dataclass(frozen=True, slots=True)
class RenderPlan:
    """A request that is resolved for an image."""

    media: Media
    facts: MediaFacts
    request: VariantRequest
    variant: Variant
    draft: Variant | None = None
    """May be sent until the variant is rendered; None if the format has one stage."""
    is_fallback: bool = False
    """Whether the image is rendered from one of its fallbacks instead of its source."""
    provisional: bool = False
    """Whether the crop may change, because faces have not been looked for."""
    epochs: int = 0
    """`PurgeEpochs.changes` when it was made."""

    background_kept: bool = field(init=False)
    """Whether the request removes the background and the image does not allow it."""

    def __post_init__(self) -> None:
        """Compute `background_kept`, which several headers of a response depend on."""
        kept = self.request.remove_background and not self.facts.flat_background
        object.__setattr__(self, "background_kept", bool(kept))

    @property
    def stages(self) -> tuple[Variant, ...]:
        """The final, and the draft if there is one."""
        return (self.variant,) if self.draft is None else (self.variant, self.draft)

    def other_recipes(self, digests: AbstractSet[str]) -> list[RenderPlan]:
        """Return plans whose draft is a stored rendition of another recipe.

        ``digests`` are those of the medium's stored renditions. After a change of an encoder's
        settings or of libvips such renditions are served until the final is rendered.
        """
        others = self.variant.others(digests - {stage.digest for stage in self.stages})
        return [replace(self, draft=other) for other in others]


EVERYONE = -1
"""Stands for all users, in the place of the id of one."""


class PurgeEpochs:
    """How often all images of a user, and all images, were purged; a part of every key.

    After a purge all keys are new, so it takes the same time for one image as for a billion.
    """

    def __init__(self) -> None:
        self._epochs: dict[int, int] = {}
        self.changes = 0
        """Counts changes. A plan that was made before one may have old keys."""

    def advance(self, user_id: int, epoch: int) -> bool:
        """Set the epoch of a user, or of `EVERYONE`; return whether it was an earlier one."""
        if epoch <= self._epochs.get(user_id, 0):
            return False
        self._epochs[user_id] = epoch
        self.changes += 1
        return True

    def version(self, content_hash: str, user_id: int) -> str:
        """Return the version of a user's image in keys: the hash alone if nothing was purged."""
        epochs = self._epochs
        if not epochs:
            return content_hash
        of_all, own = epochs.get(EVERYONE, 0), epochs.get(user_id, 0)
        return f"{content_hash}~{of_all}.{own}" if of_all or own else content_hash


class RenderPlanner:
    """Resolves requests by the rules of one server."""

    def __init__(self, rules: RenderRules, epochs: PurgeEpochs | None = None) -> None:
        """``epochs`` may change while the planner is used."""
        self.rules = rules
        self.epochs = epochs or PurgeEpochs()
        named = (size.scaled(dpr) for size in rules.sizes.values() for dpr in DPRS.values())
        # Every box that a request can name.
        self._boxes = (*named, *map(width_box, WIDTHS))
        # Thread-safe, as the whole planner is.
        self._largest = lru_cache(_BASE_SIZES)(self._largest_size)

    def plan(
        self, media: Media, facts: MediaFacts, request: VariantRequest, accept: str | None
    ) -> RenderPlan:
        """Resolve a request: select the format, and the one that may replace it.

        The request of the plan says whether the background is removed.
        """
        # Most media have no default; `replace` takes a quarter of the time of a plan.
        if media.choices.background is not None and request.remove_background is None:
            request = replace(request, remove_background=_removed_by_default(media, request.format))
        if request.format is not None:
            return self._plan(media, facts, request, (request.format,))
        transparent = _is_transparent(request, facts)
        formats = acceptable(
            accept, order=self.rules.order, transparent=transparent, animated=facts.animated
        )
        return self._plan(media, facts, request, formats)

    def _plan(
        self, media: Media, facts: MediaFacts, request: VariantRequest, formats: Sequence[Format]
    ) -> RenderPlan:
        """``formats``: the selected one, then those that may replace it."""
        by_format = (request.lean and self.rules.lean_stages) or self.rules.stages
        stages = by_format[formats[0]]
        # Lossless formats have the usual encoding, and the same renditions.
        lean = bool(request.lean) and stages != self.rules.stages[formats[0]]
        # Before the version: a plan with a count that is too old is only not cached.
        epochs = self.epochs.changes
        draft = resolve(
            request,
            media,
            facts,
            stage=stages.draft,
            recipe=self.rules.recipe,
            lean=lean,
            version=self.epochs.version(facts.content_hash, media.user_id),
        )
        provisional = self.rules.detects_faces and wants_faces(request.box, facts, media.choices)
        # PNG and GIF, or every format if finals are disabled.
        if stages.final == stages.draft:
            return RenderPlan(media, facts, request, draft, provisional=provisional, epochs=epochs)
        # Not by `replace`, which takes a quarter of the time of a plan.
        final = Variant(
            media_id=draft.media_id,
            version=draft.version,
            geometry=draft.geometry,
            profile=stages.final.profile,
            background_removed=draft.background_removed,
            animated=draft.animated,
            recipe=draft.recipe,
            search=stages.final.search,
            alternative=self._alternative(facts, formats[1:], by_format),
            base=self._base(draft, facts),
            lean=lean,
        )
        return RenderPlan(
            media, facts, request, final, draft, provisional=provisional, epochs=epochs
        )

    def _base(self, draft: Variant, facts: MediaFacts) -> tuple[int, int] | None:
        """Return the size that a variant is scaled from: the largest in named boxes, or None."""
        # An animation is scaled from its source, page by page.
        if draft.animated:
            return None
        # The base depends only on the size of the source, which many images share.
        base = self._largest(facts.width, facts.height)
        # An image as large as the base gains nothing from it and is scaled from the source.
        return base if draft.geometry.scaled_width < base[0] else None

    def _largest_size(self, width: int, height: int) -> tuple[int, int]:
        return max([scaled_size(box, width, height) for box in self.rules.sizes.values()])

    def _alternative(
        self,
        facts: MediaFacts,
        following: Sequence[Format],
        by_format: Mapping[Format, EncodingStages],
    ) -> EncodingStage | None:
        # An animation has no alternative: besides WebP only the fallback GIF can represent it.
        if not following or facts.animated or not self.rules.prefer_smallest:
            return None
        return by_format[following[0]].final

    def all_plans(
        self, media: Media, facts: MediaFacts, *, remove_background: bool | None = None
    ) -> list[RenderPlan]:
        """Return plans of all named sizes in all formats that browsers can receive.

        The formats are those of negotiation with three generations of browsers, and each format by
        its name. Duplicates are removed. By default the background is that of addresses without
        ``bg``.
        """
        if remove_background is None:
            remove_background = _removed_by_default(media)
        plans = [
            self.plan(media, facts, VariantRequest(size, fmt, remove_background), accept)
            for size in self.rules.sizes.values()
            for fmt, accept in self._requested(
                facts, transparent=facts.has_alpha or remove_background
            )
        ]
        # Several headers select the same format, and large boxes the size of the source.
        return list({plan.variant.digest: plan for plan in plans}.values())

    def _requested(
        self, facts: MediaFacts, *, transparent: bool
    ) -> Iterator[tuple[Format | None, str]]:
        """Yield format parameters with Accept headers, each header with one format less."""
        last = fallback(transparent=transparent, animated=facts.animated)
        # `*/*` alone selects the fallback, which has the place of JPEG.
        named = [fmt for fmt in self.rules.order if fmt is not Format.JPEG]
        for at in range(len(named) + 1):
            yield None, ",".join([*(TRAITS[fmt].media_type for fmt in named[at:]), "*/*;q=0.8"])
        for fmt in (*named, last):
            yield fmt, ""

    def formats(self, media: Media, facts: MediaFacts) -> tuple[Format, ...]:
        """Return the formats that negotiation selects for an image, in the server's order."""
        last = fallback(transparent=is_transparent(media, facts), animated=facts.animated)
        order = (last if fmt is Format.JPEG else fmt for fmt in self.rules.order)
        able = (fmt for fmt in order if TRAITS[fmt].animation or not facts.animated)
        return tuple(dict.fromkeys((*able, last)))

    def available(
        self, media: Media, facts: MediaFacts, digests: AbstractSet[str]
    ) -> dict[str, dict[Format, bool]]:
        """Return the stored renditions by named size and format; True for a final.

        ``digests`` are those of all renditions that are stored for the image.
        """
        shapes = {digest[:SHAPE_DIGITS] for digest in digests}
        found: dict[str, dict[Format, bool]] = {}
        for name, size in self.rules.sizes.items():
            # Planning is expensive; sizes without any rendition are skipped.
            if shape_of(plan_geometry(size, facts, media.choices)) not in shapes:
                continue
            for fmt, accept in self._requested(facts, transparent=is_transparent(media, facts)):
                plan = self.plan(media, facts, VariantRequest(size, fmt), accept)
                stages = [stage for stage in plan.stages if stage.digest in digests]
                if stages:
                    by_format = found.setdefault(name, {})
                    final = stages[0] is plan.variant or by_format.get(plan.variant.format, False)
                    by_format[plan.variant.format] = final
        return found

    def fallback_plans(
        self,
        media: Media,
        request: VariantRequest,
        accept: str | None,
        *,
        known: MediaFacts | None = None,
    ) -> list[RenderPlan]:
        """Return plans that answer a request from the image's fallbacks, the best one first.

        ``known`` are the facts of the unavailable source. Each plan has only its draft.
        """
        if not media.fallbacks:
            return []
        # Without its facts the largest fallback stands for the source.
        like = known or max(media.fallbacks, key=lambda facts: facts.width * facts.height)
        wanted = plan_geometry(request.box, like, media.choices)
        ranked = sorted(
            # The unavailable source may be one of the fallbacks.
            (facts for facts in media.fallbacks if facts != known),
            key=lambda facts: _mismatch(
                facts, plan_geometry(request.box, facts, media.choices), wanted, like
            ),
        )
        plans = (self.plan(media.with_source(facts), facts, request, accept) for facts in ranked)
        return [
            replace(plan, variant=plan.stages[-1], draft=None, is_fallback=True) for plan in plans
        ]

    def fallbacks_for(self, plan: RenderPlan) -> list[RenderPlan]:
        """Return `fallback_plans` that can replace a plan, in its format."""
        accept = TRAITS[plan.variant.format].media_type
        return self.fallback_plans(plan.media, plan.request, accept, known=plan.facts)

    def nearest_variants(self, plan: RenderPlan, digests: AbstractSet[str]) -> list[Variant]:
        """Return the stored variants that can replace a plan, the most similar one first.

        ``digests`` are those of the image's stored renditions. Variants of its fallbacks are
        included; of two equally similar ones the larger comes first.
        """
        variants: dict[str, Variant] = {}
        for one in (plan, *self.fallbacks_for(plan)):
            variants |= self._stored(digests, one)
        # The requested variants themselves are no replacement.
        for stage in plan.stages:
            variants.pop(stage.digest, None)
        return sorted(variants.values(), key=lambda variant: _distance(variant, plan.variant))

    def _stored(self, digests: AbstractSet[str], plan: RenderPlan) -> dict[str, Variant]:
        """Return the stored variants of one source in formats that the client can display."""
        shapes = {digest[:SHAPE_DIGITS] for digest in digests}
        # Under overload most requests come here; boxes without any rendition are skipped.
        choices = plan.media.choices
        boxes = (
            box
            for box in self._boxes
            if shape_of(plan_geometry(box, plan.facts, choices)) in shapes
        )
        lean = plan.request.lean
        # The requested quality first. The other one is better than no image.
        qualities = (None,) if lean is None else (lean, not lean)
        requests = [
            replace(plan.request, box=box, lean=one) for box, one in product(boxes, qualities)
        ]
        plans = [
            self._plan(plan.media, plan.facts, request, formats)
            for request, formats in product(requests, _displayable(plan))
        ]
        return {
            variant.digest: variant
            for one in plans
            for variant in (*one.stages, *one.variant.others(digests))
            if variant.digest in digests
        }


def resolve(
    request: VariantRequest,
    media: Media,
    facts: MediaFacts,
    *,
    stage: EncodingStage,
    recipe: str,
    lean: bool = False,
    version: str = "",
) -> Variant:
    """Resolve a validated request for an image and the encoding chosen for it.

    ``version`` is by default the content hash; see `PurgeEpochs.version`.
    """
    return Variant(
        media_id=media.id,
        version=version or facts.content_hash,
        geometry=plan_geometry(request.box, facts, media.choices),
        profile=stage.profile,
        # Without a flat background nothing is removed: both values of bg share one rendition.
        background_removed=bool(request.remove_background) and facts.flat_background,
        # Formats without animation show its first page.
        animated=facts.animated and TRAITS[stage.profile.format].animation,
        recipe=recipe,
        search=stage.search,
        lean=lean,
    )


def _is_transparent(request: VariantRequest, facts: MediaFacts) -> bool:
    """Return whether the resulting image has transparency."""
    return facts.has_alpha or (bool(request.remove_background) and facts.flat_background)


def is_transparent(media: Media, facts: MediaFacts) -> bool:
    """Return whether an image has transparency at addresses without ``bg``."""
    return facts.has_alpha or (_removed_by_default(media) and facts.flat_background)


def _removed_by_default(media: Media, fmt: Format | None = None) -> bool:
    """Return whether an address without ``bg`` shows a medium without its background."""
    # JPEG has no transparency. Only an address that asks for both is an error.
    return media.choices.background is Background.REMOVED and fmt is not Format.JPEG


def _displayable(plan: RenderPlan) -> list[tuple[Format, ...]]:
    """Return the planned format, and if it was negotiated the fallback format."""
    chosen = plan.variant.formats
    if not plan.request.negotiated:
        return [chosen]
    transparent = _is_transparent(plan.request, plan.facts)
    return [chosen, (fallback(transparent=transparent, animated=plan.facts.animated),)]


def _distance(variant: Variant, wanted: Variant) -> tuple[bool, float, int]:
    """Return how much two variants differ: by format, shape and scale, then a smaller width."""
    have, want = variant.geometry, wanted.geometry
    unlike = abs(math.log(have.width / want.width)) + abs(math.log(have.height / want.height))
    return (variant.format is not wanted.format, round(unlike, 3), -have.width)


def _mismatch(
    facts: MediaFacts, given: Geometry, wanted: Geometry, like: MediaFacts
) -> tuple[bool, bool, bool, int, int]:
    """Return how much a fallback's result ``given`` differs from ``wanted``, as a sort key.

    A result of another shape, such as a square thumbnail, comes last. A larger fallback precedes a
    smaller one, and among each the nearest in size is first. ``like`` are the facts of the image.
    """
    unlike = abs(math.log(given.width / given.height * wanted.height / wanted.width))
    # One pixel less comes from the rounding of the other system.
    small = given.width < wanted.width - 1 or given.height < wanted.height - 1
    pixels = facts.width * facts.height
    opaque = like.has_alpha and not facts.has_alpha
    return (unlike > _SAME_SHAPE, small, opaque, -pixels if small else pixels, -facts.byte_size)
