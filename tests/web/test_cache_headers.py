"""What browsers and CDNs are told about keeping an answer."""

from __future__ import annotations

import re

import pytest

from proxy.domain.outcome import Origin
from proxy.domain.render_plan import RenderPlan
from proxy.settings import LifetimeSettings, Settings
from proxy.web.cache_headers import ImageRoute, cache_control, cache_status, tags
from tests.web.plans import plan

LIFETIMES = LifetimeSettings()
STAND_INS = {Origin.FALLBACK}
KEPT_LONG = [origin for origin in Origin if origin not in STAND_INS]


def control(
    of: RenderPlan, origin: Origin = Origin.MEMORY, *, route: ImageRoute = ImageRoute.SERVE
) -> str:
    return cache_control(of, origin, route=route, lifetimes=LIFETIMES)


@pytest.mark.parametrize("origin", KEPT_LONG)
def test_the_picture_asked_for_may_be_kept_for_a_year(origin: Origin) -> None:
    assert control(plan(), origin) == "public, max-age=31536000"


def test_a_url_that_names_the_version_never_has_to_be_asked_for_again() -> None:
    assert control(plan("v=3")) == "public, max-age=31536000, immutable"
    assert control(plan("v=")) == "public, max-age=31536000"


@pytest.mark.parametrize("query", ["", "v=3"])
def test_the_api_gives_an_hour_and_a_day_of_grace(query: str) -> None:
    expected = "public, max-age=3600, stale-while-revalidate=86400"
    assert control(plan(query), route=ImageRoute.API_IMAGES) == expected


@pytest.mark.parametrize("route", ImageRoute)
@pytest.mark.parametrize("query", ["", "v=3"])
def test_what_stands_in_for_the_picture_is_asked_for_again_soon(
    route: ImageRoute, query: str
) -> None:
    assert control(plan(query), Origin.FALLBACK, route=route) == "public, max-age=30"


@pytest.mark.parametrize("route", ImageRoute)
@pytest.mark.parametrize("origin", Origin)
def test_a_background_that_stayed_is_asked_for_again_soon(
    route: ImageRoute, origin: Origin
) -> None:
    assert control(plan("bg=removed&v=3"), origin, route=route) == "public, max-age=30"


def test_a_background_that_was_removed_may_be_kept_for_a_year() -> None:
    removed = plan("bg=removed", flat_background=True)
    assert control(removed) == "public, max-age=31536000"


@pytest.mark.parametrize("route", ImageRoute)
@pytest.mark.parametrize("status", ["processing", "downloading"])
def test_a_medium_that_is_not_settled_is_asked_for_again_soon(
    route: ImageRoute, status: str
) -> None:
    assert control(plan("v=3", status=status), route=route) == "public, max-age=30"


def test_the_lifetimes_are_those_of_the_settings() -> None:
    lifetimes = LifetimeSettings(serve_s=1, api_s=2, api_stale_s=3, unsettled_s=4, fallback_s=5)

    def told(of: RenderPlan, origin: Origin, route: ImageRoute = ImageRoute.SERVE) -> str:
        return cache_control(of, origin, route=route, lifetimes=lifetimes)

    api = "public, max-age=2, stale-while-revalidate=3"
    assert told(plan(), Origin.DISK) == "public, max-age=1"
    assert told(plan(), Origin.DISK, ImageRoute.API_IMAGES) == api
    assert told(plan(status="processing"), Origin.DISK) == "public, max-age=4"
    assert told(plan(), Origin.FALLBACK) == "public, max-age=5"


_TOKEN = r"[A-Za-z][A-Za-z0-9_.*/:-]*"
_ITEM = re.compile(rf"smartserve(?:; (?:hit|stored|collapsed|(?:fwd|detail)={_TOKEN}))+")


@pytest.mark.parametrize("origin", Origin)
def test_cache_status_is_an_item_of_rfc_9211(origin: Origin) -> None:
    status = cache_status(origin)
    assert _ITEM.fullmatch(status)
    # RFC 9211, 2.2: fwd and hit exclude each other.
    assert ("; hit" in status) != ("; fwd=" in status)


def test_cache_status_tells_each_origin_apart() -> None:
    assert len({cache_status(origin) for origin in Origin}) == len(Origin)


@pytest.mark.parametrize(
    ("query", "size"),
    [("", "detail"), ("size=grid&dpr=3", "grid"), ("w=600", "w640"), ("w=300&dpr=2", "w640")],
)
def test_an_answer_can_be_purged_by_medium_user_and_size(query: str, size: str) -> None:
    assert tags(plan(query)) == ("m-789", "u-42", f"s-{size}")


@pytest.mark.parametrize("size", Settings().sizes)
def test_tags_hold_no_separators(size: str) -> None:
    assert all(re.fullmatch(r"[a-z]-\w+", tag) for tag in tags(plan(f"size={size}")))
