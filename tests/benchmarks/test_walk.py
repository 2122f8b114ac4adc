"""The path of a request does not grow: modules that it crosses, and switches between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

LIMITS = {
    # name: modules, switches between modules
    "cold miss": (35, 150),
    "draft hit": (15, 35),
    "final hit": (12, 30),
}
UPLOAD_MODULES = 60
"""Modules that an upload and its ingest cross together."""
ATTEMPTS = 6
"""Timers of other tasks run in between and count as well, so the best walk of each is compared."""


def walk() -> dict[str, dict[str, Any]]:
    """Return the walks of one server by name.

    Its ingest extracts no metadata: that step starts engines of its own, whose pools would count.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.walk", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "SMARTSERVE_METADATA__ENABLED": "false"},
    )
    walks = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]
    return {walk["name"]: walk for walk in walks}


def grown(walks: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Return the counts that exceed their limits."""
    found = {
        name: (walks[name]["modules"], walks[name]["switches"])
        for name, (modules, switches) in LIMITS.items()
        if walks[name]["modules"] > modules or walks[name]["switches"] > switches
    }
    upload = set(walks["upload"]["calls_by_module"]) | set(walks["its ingest"]["calls_by_module"])
    if len(upload) > UPLOAD_MODULES:
        found["upload"] = (len(upload), 0)
    return found


@pytest.mark.slow
def test_a_request_crosses_no_more_modules_than_allowed() -> None:
    found = grown(walk())
    for _ in range(ATTEMPTS - 1):
        if not found:
            return
        again = grown(walk())
        found = {name: min(counts, again[name]) for name, counts in found.items() if name in again}
    assert not found, f"crossed too many modules (modules, switches): {found}"
