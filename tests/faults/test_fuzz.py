"""Mutated images through a real server: it survives, and every response is correct.

`make fuzz` sends twenty thousand.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.conftest import Launch
from tests.faults.table import Figure, Record
from tests.fuzz.campaign import FuzzRun, Plan
from tests.support.photos import photo

pytestmark = pytest.mark.slow

PLAN = Plan(seed=2026, mutants=300)


@pytest.mark.parametrize("finals", [False, True])
async def test_three_hundred_mutants_are_answered_correctly(
    launch: Launch, *, finals: bool
) -> None:
    photo("kodak-23.png")
    plan = replace(PLAN, mutants=60 if finals else 240, finals=finals)
    server = await launch(plan.sections)
    report = await FuzzRun(server, plan).run()
    assert not report.lost
    assert report.tally.statuses[200] > plan.mutants // 2


@pytest.mark.drill
async def test_mutants_are_answered_correctly_and_in_time(launch: Launch, record: Record) -> None:
    """About 30 s."""
    photo("kodak-23.png")
    plan = Plan(seed=7, mutants=1_500)
    server = await launch(plan.sections)
    report = await FuzzRun(server, plan).run()
    tally = report.tally
    assert not report.lost
    assert not report.costly
    measured = (
        f"p99 {tally.quantile(0.99):.2f} s, most {max(tally.seconds):.2f} s, "
        f"worker deaths {dict(report.restarts) or 0}"
    )
    done = "mutants of real pictures asked for, each in two variants"
    record(Figure(4, done, plan.mutants, len(report.lost), measured))
