"""Planning: a request and the facts of its picture, resolved to variants. Pure.

A format may have two stages. What is asked for is the final; until that is there its draft may
stand in. Both are variants like any other, with keys and ETags of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import product

from cachetools import LRUCache

from proxy.domain.formats import TRAITS, EncodingStage, EncodingStages, Format
from proxy.domain.geometry import SHAPE_DIGITS, Geometry, SizeSpec, base_size, plan_geometry
from proxy.domain.media import Media, MediaFacts
from proxy.domain.negotiation import acceptable, fallback
from proxy.domain.query import DPRS, WIDTHS, VariantRequest
from proxy.domain.variant import Variant, resolve
from proxy.domain.worker_protocol import Limits

_BASES = 10_000
"""Sizes of pictures whose base is remembered: it is asked for with every plan."""

_SAME_SHAPE = 0.05
"""Up to here the ratios of two sides count as equal, by their logarithm."""


@dataclass(frozen=True, slots=True)
class RenderRules:
    """What decides a variant besides the request and the picture."""

    stages: Mapping[Format, EncodingStages]
    order: tuple[Format, ...]
    """The server's preference, which breaks ties."""
    sizes: Mapping[str, SizeSpec]
    limits: Limits
    recipe: str
    copyright_notice: str | None = None
    """Written into every rendition."""
    prefer_smallest: bool = False
    """Whether a final gives way to the next format that the client takes, where that is smaller."""


@dataclass(frozen=True, slots=True)
class RenderPlan:
    """A request resolved against its medium."""

    media: Media
    facts: MediaFacts
    request: VariantRequest
    variant: Variant
    draft: Variant | None = None
    """What may stand in until the variant is there; None where it has but one stage."""
    is_fallback: bool = False
    """Whether a lesser file takes the place of the picture's own source."""

    @property
    def background_kept(self) -> bool:
        """Whether the background was to be removed and cannot be."""
        return self.request.remove_background and not self.facts.flat_background

    @property
    def stages(self) -> tuple[Variant, ...]:
        """The final, and its draft where it has one."""
        return (self.variant,) if self.draft is None else (self.variant, self.draft)


class RenderPlanner:
    """Makes plans by the rules of one server."""

    def __init__(self, rules: RenderRules) -> None:
        self.rules = rules
        self._boxes = tuple(_all_boxes(rules.sizes.values()))
        self._bases: LRUCache[tuple[int, int], tuple[int, int]] = LRUCache(_BASES)

    def plan(
        self, media: Media, facts: MediaFacts, request: VariantRequest, accept: str | None
    ) -> RenderPlan:
        """Resolve a request against a picture: pick the format, and what may replace it."""
        if request.format is not None:
            return self._plan(media, facts, request, (request.format,))
        formats = acceptable(
            accept,
            order=self.rules.order,
            transparent=_transparent(request, facts),
            animated=facts.animated,
        )
        return self._plan(media, facts, request, formats)

    def _plan(
        self,
        media: Media,
        facts: MediaFacts,
        request: VariantRequest,
        formats: tuple[Format, ...],
    ) -> RenderPlan:
        """``formats``: the one that goes out, then those that might in its place."""
        stages = self.rules.stages[formats[0]]
        recipe = self.rules.recipe
        draft = resolve(request, media, facts, stage=stages.draft, recipe=recipe)
        if stages.final == stages.draft:
            return RenderPlan(media, facts, request, draft)
        final = resolve(
            request,
            media,
            facts,
            stage=stages.final,
            recipe=recipe,
            alternative=self._rival(facts, formats[1:]),
            base=self._base(facts),
        )
        return RenderPlan(media, facts, request, final, draft)

    def _base(self, facts: MediaFacts) -> tuple[int, int]:
        size = facts.width, facts.height
        if size not in self._bases:
            self._bases[size] = base_size(self.rules.sizes.values(), facts)
        return self._bases[size]

    def _rival(self, facts: MediaFacts, following: tuple[Format, ...]) -> EncodingStage | None:
        """The next format's final; animations are left alone, for no other format carries them."""
        if not following or facts.animated or not self.rules.prefer_smallest:
            return None
        return self.rules.stages[following[0]].final

    def all_plans(
        self, media: Media, facts: MediaFacts, *, remove_background: bool = False
    ) -> list[RenderPlan]:
        """All named sizes of a picture, in all that browsers can be given, with one ``bg``.

        Once as negotiation gives them to the three generations of browsers, and once in each
        format by its name.
        """
        plans = [
            self.plan(media, facts, VariantRequest(size, name, fmt, remove_background), accept)
            for name, size in self.rules.sizes.items()
            for fmt, accept in self._asked(facts, transparent=facts.has_alpha or remove_background)
        ]
        return list({plan.variant.digest: plan for plan in plans}.values())

    def _asked(
        self, facts: MediaFacts, *, transparent: bool
    ) -> Iterator[tuple[Format | None, str]]:
        """Formats by name, and Accept headers: each with one format less than the one before."""
        last = fallback(transparent=transparent, animated=facts.animated)
        named = [fmt for fmt in self.rules.order if fmt is not Format.JPEG]
        for at in range(len(named) + 1):
            yield None, ",".join([*(TRAITS[fmt].media_type for fmt in named[at:]), "*/*;q=0.8"])
        for fmt in (*named, last):
            if fmt is not Format.GIF:
                yield fmt, ""

    def formats(self, facts: MediaFacts) -> tuple[Format, ...]:
        """The formats that a picture goes out in by negotiation, in the server's order."""
        last = fallback(transparent=facts.has_alpha, animated=facts.animated)
        order = (last if fmt is Format.JPEG else fmt for fmt in self.rules.order)
        able = (fmt for fmt in order if TRAITS[fmt].animation or not facts.animated)
        return tuple(dict.fromkeys((*able, last)))

    def available(
        self, media: Media, facts: MediaFacts, held: AbstractSet[str]
    ) -> dict[str, dict[Format, bool]]:
        """Of the renditions that there are: by named size and format, whether it is the final.

        Only the sizes whose shape is among the digests are worked out.
        """
        shapes = {digest[:SHAPE_DIGITS] for digest in held}
        found: dict[str, dict[Format, bool]] = {}
        for name, size in self.rules.sizes.items():
            if plan_geometry(size, facts).shape not in shapes:
                continue
            for fmt, accept in self._asked(facts, transparent=facts.has_alpha):
                plan = self.plan(media, facts, VariantRequest(size, name, fmt), accept)
                stages = [stage for stage in plan.stages if stage.digest in held]
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
        """Plans that answer a request from the lesser files of a picture, the best first.

        ``known`` are the facts in whose place they stand, where those are known. Such a plan has
        one stage, the quick one.
        """
        if not media.fallbacks:
            return []
        like = known or max(media.fallbacks, key=lambda facts: facts.width * facts.height)
        wanted = plan_geometry(request.box, like)
        ranked = sorted(
            (facts for facts in media.fallbacks if facts != known),
            key=lambda facts: _lesser(facts, plan_geometry(request.box, facts), wanted, like),
        )
        plans = (self.plan(media.with_source(facts), facts, request, accept) for facts in ranked)
        return [
            replace(plan, variant=plan.stages[-1], draft=None, is_fallback=True) for plan in plans
        ]

    def fallbacks_for(self, plan: RenderPlan) -> list[RenderPlan]:
        """Plans that may answer in place of one, in its format: see `fallback_plans`."""
        accept = TRAITS[plan.variant.format].media_type
        return self.fallback_plans(plan.media, plan.request, accept, known=plan.facts)

    def nearest_variants(self, plan: RenderPlan, held: AbstractSet[str]) -> list[Variant]:
        """Of the renditions that a picture has, by their digests, those that may stand in.

        The nearest first; ties go to the larger. Those of its lesser files count as well.
        """
        variants: dict[str, Variant] = {}
        for one in (plan, *self.fallbacks_for(plan)):
            variants |= self._among(held, one)
        for stage in plan.stages:
            variants.pop(stage.digest, None)
        return sorted(variants.values(), key=lambda variant: _distance(variant, plan.variant))

    def _among(self, held: AbstractSet[str], plan: RenderPlan) -> dict[str, Variant]:
        """Renditions of one source that are there, in formats that may be shown.

        Under overload this is asked for most requests, so only the sizes whose shape is among the
        digests are worked out.
        """
        shapes = {digest[:SHAPE_DIGITS] for digest in held}
        boxes = (box for box in self._boxes if plan_geometry(box, plan.facts).shape in shapes)
        requests = [replace(plan.request, box=box) for box in boxes]
        return {
            variant.digest: variant
            for request, formats in product(requests, _showable(plan))
            for variant in self._plan(plan.media, plan.facts, request, formats).stages
            if variant.digest in held
        }


def _all_boxes(sizes: Iterable[SizeSpec]) -> Iterator[SizeSpec]:
    """Every box that a request can name."""
    for size in sizes:
        yield from (size.scaled(dpr) for dpr in DPRS.values())
    yield from (SizeSpec(f"w{width}", width, None) for width in WIDTHS)


def _transparent(request: VariantRequest, facts: MediaFacts) -> bool:
    """Whether the picture that goes out has transparency."""
    return facts.has_alpha or (request.remove_background and facts.flat_background)


def _showable(plan: RenderPlan) -> list[tuple[Format, ...]]:
    """Formats that may stand in: the chosen one, and where it was negotiated the fallback."""
    variant = plan.variant
    alternative = () if variant.alternative is None else (variant.alternative.profile.format,)
    chosen = (variant.format, *alternative)
    if not plan.request.negotiated:
        return [chosen]
    transparent = _transparent(plan.request, plan.facts)
    return [chosen, (fallback(transparent=transparent, animated=plan.facts.animated),)]


def _distance(variant: Variant, wanted: Variant) -> tuple[bool, float, int]:
    """How unlike two variants are: in shape and scale, then a smaller one is further off."""
    here, there = variant.geometry, wanted.geometry
    unlike = abs(math.log(here.width / there.width)) + abs(math.log(here.height / there.height))
    return (variant.format is not wanted.format, round(unlike, 3), -here.width)


def _lesser(
    facts: MediaFacts, given: Geometry, wanted: Geometry, like: MediaFacts
) -> tuple[bool, bool, bool, int, int]:
    """How far a lesser file is from giving what is wanted, ``like`` the picture itself would.

    One of another shape, a square thumbnail say, comes last. Then a larger one stands in for a
    smaller, and only then a smaller for a larger; of those the nearest.
    """
    unlike = abs(math.log(given.width / given.height * wanted.height / wanted.width))
    # A pixel less is a matter of how the other system rounded.
    small = given.width < wanted.width - 1 or given.height < wanted.height - 1
    pixels = facts.width * facts.height
    opaque = like.has_alpha and not facts.has_alpha
    return (unlike > _SAME_SHAPE, small, opaque, -pixels if small else pixels, -facts.byte_size)
