"""What caches are told: Cache-Control, Cache-Status, tags; pure functions of an answer."""

from __future__ import annotations

from enum import StrEnum

from proxy.domain.outcome import Origin
from proxy.domain.render_plan import RenderPlan
from proxy.domain.urls import API_IMAGES_ROUTE, SERVE_ROUTE
from proxy.settings import LifetimeSettings


class ImageRoute(StrEnum):
    """The routes that serve pictures; they differ in lifetimes only."""

    SERVE = "serve"
    API_IMAGES = "api_images"

    @property
    def path(self) -> str:
        """The template of its addresses."""
        return _PATHS[self]


_PATHS = {ImageRoute.SERVE: SERVE_ROUTE, ImageRoute.API_IMAGES: API_IMAGES_ROUTE}

NO_STORE = "no-store"

_CACHE_STATUS = {
    Origin.MEMORY: "hit; detail=memory",
    Origin.DISK: "hit; detail=disk",
    Origin.RENDER: "fwd=uri-miss; stored; detail=render",
    Origin.COALESCED: "fwd=uri-miss; collapsed; detail=coalesced",
    Origin.FALLBACK: "hit; detail=fallback",
    Origin.NOT_MODIFIED: "hit; detail=not-modified",
    Origin.NONE: "fwd=uri-miss; detail=not-rendered",
}


def cache_status(origin: Origin, *, draft: bool = False) -> str:
    """Cache-Status (RFC 9211): whether the rendition was there, and in which tier.

    That it is a draft is said in place of the tier.
    """
    told = _CACHE_STATUS[origin]
    if draft:
        told = f"{told.partition('; detail=')[0]}; detail=draft"
    return f"smartserve; {told}"


def cache_control(
    plan: RenderPlan,
    origin: Origin,
    *,
    route: ImageRoute,
    lifetimes: LifetimeSettings,
    draft: bool = False,
) -> str:
    """For how long this answer may be kept.

    Only the settled picture that was asked for carries the long lifetime; what stands in for it,
    and what will soon change, is asked for again shortly.
    """
    if origin is Origin.FALLBACK or plan.stand_in or plan.background_kept:
        return f"public, max-age={lifetimes.fallback_s}"
    if not plan.media.settled:
        return f"public, max-age={lifetimes.unsettled_s}"
    if draft:
        stale = lifetimes.draft_stale_s
        return f"public, max-age={lifetimes.draft_s}, stale-while-revalidate={stale}"
    if route is ImageRoute.API_IMAGES:
        stale = lifetimes.api_stale_s
        return f"public, max-age={lifetimes.api_s}, stale-while-revalidate={stale}"
    immutable = ", immutable" if plan.request.version is not None else ""
    return f"public, max-age={lifetimes.serve_s}{immutable}"


def tags(plan: RenderPlan) -> tuple[str, ...]:
    """The tags by which a CDN purges: medium, user, size."""
    return (
        f"m-{plan.media.id}",
        f"u-{plan.media.user_id}",
        f"s-{plan.request.label}",
    )
