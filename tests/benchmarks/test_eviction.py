"""Eviction keeps what takes long to render: measured by a replay, whose figures are no times."""

from __future__ import annotations

import pytest

from tests.benchmarks.eviction import (
    CACHES,
    SHARES,
    TARGET_POINTS,
    Use,
    saved_by,
    touched_bytes,
    trace,
)


@pytest.fixture(scope="module")
def uses() -> list[Use]:
    return trace(requests=40_000, images=4000)


@pytest.mark.slow
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", CACHES)
def test_eviction_saves_more_render_time_than_the_order_by_last_use(
    uses: list[Use], name: str, share: float
) -> None:
    max_bytes = int(share * touched_bytes(uses))
    now, before = (saved_by(uses, cache(max_bytes)) for cache in CACHES[name])
    assert now >= before + TARGET_POINTS


def test_equal_traces_are_equal() -> None:
    assert trace(requests=500, images=50) == trace(requests=500, images=50)
