"""The path of a request does not grow: modules that it crosses, and switches between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
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
"""Background tasks use threads in between, which count as well."""


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


def exceeding(attempts: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, tuple[int, int]]:
    """Return the modules that each attempt crossed and the fewest switches, if above the limits."""
    crossed = {
        name: set.intersection(*(set(walks[name]["calls_by_module"]) for walks in attempts))
        for name in (*LIMITS, "upload", "its ingest")
    }
    counts = {
        name: (len(crossed[name]), min(walks[name]["switches"] for walks in attempts))
        for name in LIMITS
    }
    found = {
        name: (modules, switches)
        for name, (modules, switches) in counts.items()
        if modules > LIMITS[name][0] or switches > LIMITS[name][1]
    }
    if (upload := len(crossed["upload"] | crossed["its ingest"])) > UPLOAD_MODULES:
        found["upload"] = (upload, 0)
    return found


@pytest.mark.slow
def test_a_request_crosses_no_more_modules_than_allowed() -> None:
    attempts = [walk()]
    while (found := exceeding(attempts)) and len(attempts) < ATTEMPTS:
        attempts.append(walk())
    assert not found, f"crossed too many modules (modules, switches): {found}"
