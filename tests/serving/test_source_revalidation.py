"""Checks of originals on other web servers for changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from proxy.serving.source_revalidation import SourceRevalidator
from tests.app.test_http_originals import JPEG, add_row, fetch, section
from tests.support.clock import Clock
from tests.support.server import Serve, Serving
from tests.support.waiting import eventually
from tests.support.web_origin import WebOrigin, web_origin

INTERVAL_S = 100.0


@pytest.fixture
async def origin() -> AsyncIterator[WebOrigin]:
    async with web_origin(body=JPEG + b"1", headers={"ETag": '"1"'}) as running:
        yield running


def revalidator(
    server: Serving, clock: Callable[[], float], *, first_s: float = INTERVAL_S
) -> SourceRevalidator:
    storage = server.services.storage
    assert storage.http_originals is not None
    return SourceRevalidator(
        rows=storage.database,
        originals=storage.http_originals,
        facts=server.services.serving.facts,
        changed=storage.changed,
        interval_s=INTERVAL_S,
        clock=clock,
        jitter=lambda _low, _high: first_s,
    )


async def test_a_changed_original_gets_new_renditions_without_a_render(
    serve: Serve, origin: WebOrigin
) -> None:
    server, clock = await serve(http=section(origin)), Clock()
    media_id = await add_row(server, origin.url())
    _, old, _ = await fetch(server, media_id)
    checks = revalidator(server, clock)
    origin.body, origin.headers = JPEG + b"2", {"ETag": '"2"'}
    # Found, and not due yet.
    await checks.run()
    assert (await fetch(server, media_id))[1] == old

    async def is_replaced() -> bool:
        # A busy machine may have no worker for the new facts: the next check tries again.
        clock.now += INTERVAL_S
        await checks.run()
        status, etag, _ = await fetch(server, media_id)
        return status == 200 and etag not in ("", old)

    await eventually(is_replaced)


async def test_each_interval_has_one_conditional_request_for_an_original(
    serve: Serve, origin: WebOrigin
) -> None:
    server, clock = await serve(http=section(origin)), Clock()
    media_id = await add_row(server, origin.url())
    before = await fetch(server, media_id)
    checks = revalidator(server, clock)
    for _ in range(3):
        await checks.run()
        await checks.run()
        clock.now += INTERVAL_S
    assert [one.headers.get("If-None-Match") for one in origin.received] == [None, '"1"', '"1"']
    assert await fetch(server, media_id) == before


async def test_an_original_that_cannot_be_checked_stays_as_it_is(
    serve: Serve, origin: WebOrigin
) -> None:
    server, clock = await serve(http=section(origin)), Clock()
    media_id = await add_row(server, origin.url())
    before = await fetch(server, media_id)
    for status in (500, 404):
        origin.status = status
        await revalidator(server, clock, first_s=0).run()
        assert await fetch(server, media_id) == before


async def test_what_replaces_an_original_and_is_no_image_changes_nothing(
    serve: Serve, origin: WebOrigin
) -> None:
    server, clock = await serve(http=section(origin)), Clock()
    media_id = await add_row(server, origin.url())
    before = await fetch(server, media_id)
    origin.body, origin.headers = b"<html>Moved</html>", {}
    await revalidator(server, clock, first_s=0).run()
    assert await fetch(server, media_id) == before


async def test_local_originals_are_not_checked(serve: Serve, origin: WebOrigin) -> None:
    server, clock = await serve(http=section(origin)), Clock()
    await add_row(server, "bulk/a.jpg")
    await revalidator(server, clock, first_s=0).run()
    assert origin.received == []
