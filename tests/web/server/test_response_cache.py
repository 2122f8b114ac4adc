"""Hot answers are few and small, whatever strangers write."""

from __future__ import annotations

import math

import pytest
from aiohttp.test_utils import make_mocked_request

from proxy.web.server.response_cache import ResolvedResponse, ResponseCache
from tests.support.server import Library, Serving

MOST = 3


@pytest.fixture
async def resolved(server: Serving, library: Library) -> ResolvedResponse:
    """An answer as it was worked out."""
    target = f"/serve/{library.ids['photo']}?size=thumbnail"
    for _ in range(2):
        answer = await server.client.get(target)
        assert answer.status == 200
    (hot,) = server.surface.runner._frontdesk._hot._hot.values()
    return hot.answer


@pytest.fixture
def hot(server: Serving) -> ResponseCache:
    """Room for a few."""
    return ResponseCache(
        store=server.rooms.storage.store,
        metrics=server.rooms.metrics,
        fresh_until=lambda _media: math.inf,
        max_items=MOST,
    )


def keep(hot: ResponseCache, target: str, accept: str, answer: ResolvedResponse) -> bool:
    """Whether an answer is found again for what it was kept for."""
    request = make_mocked_request("GET", target, headers={"Accept": accept})
    hot.keep(request, accept, answer)
    return hot.find(request.raw_path, "GET", request.headers) is not None


async def test_the_oldest_go_where_there_are_too_many(
    hot: ResponseCache, resolved: ResolvedResponse
) -> None:
    for number in range(10):
        assert keep(hot, f"/serve/1?v={number}", "*/*", resolved)
    assert [target for target, _ in hot._hot] == [f"/serve/1?v={number}" for number in (7, 8, 9)]
    assert {key for keys in hot._keys.values() for key in keys} == hot._hot.keys()


@pytest.mark.parametrize(
    ("target", "accept", "kept"),
    [
        ("/serve/1?utm=" + "x" * 900, "*/*", True),
        ("/serve/1?utm=" + "x" * 1100, "*/*", False),
        ("/serve/1", "*/*," + "text/html," * 200, False),
    ],
)
async def test_the_long_text_of_a_stranger_is_not_kept(
    hot: ResponseCache, resolved: ResolvedResponse, *, target: str, accept: str, kept: bool
) -> None:
    assert keep(hot, target, accept, resolved) == kept
    assert len(hot._hot) == kept
