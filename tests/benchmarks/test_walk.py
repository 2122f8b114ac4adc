"""The path of a request does not grow: modules that it crosses, and switches between them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LIMITS = {
    # name: modules, switches between modules
    "cold miss": (54, 320),
    "draft hit": (20, 60),
    "final hit": (20, 60),
}
"""Measured: 48 modules and 240 switches for a miss (the aim is 35 and 150), 12 and 33 for a hit.
The rest is for timers of other tasks, which run in between on busy cores."""


@pytest.mark.slow
def test_a_request_crosses_no_more_modules_than_allowed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.walk", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    walks = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    counts = {walk["name"]: (walk["modules"], walk["switches"]) for walk in walks}
    assert counts.keys() >= LIMITS.keys()
    grown = {
        name: counts[name]
        for name, limits in LIMITS.items()
        if any(count > limit for count, limit in zip(counts[name], limits, strict=True))
    }
    assert grown == {}
