from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.domain.bulk import BulkPlan, BulkTask, PlanStatus

PLAN = BulkPlan(
    id=1,
    task=BulkTask.WARM,
    status=PlanStatus.RUNNING,
    total=100,
    done=30,
    failed=10,
    workers=2,
    rate=None,
    speed=4.0,
)


def test_the_remaining_time_counts_failures_as_processed() -> None:
    assert PLAN.remaining_s == 15


@pytest.mark.parametrize(
    "unknown",
    [
        replace(PLAN, speed=None),
        replace(PLAN, status=PlanStatus.PAUSED),
        replace(PLAN, status=PlanStatus.DONE),
    ],
)
def test_nothing_is_estimated_for_a_plan_that_does_not_progress(unknown: BulkPlan) -> None:
    assert unknown.remaining_s is None


def test_a_library_that_has_grown_smaller_needs_no_negative_time() -> None:
    assert replace(PLAN, done=200).remaining_s == 0
