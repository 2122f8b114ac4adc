"""The lock files: every package is pinned with hashes, and no package index is named."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from proxy.app.startup_checks import FLOORS, at_least

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
_PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;]+)(?: ; .+)?")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def entries(text: str) -> Iterator[list[str]]:
    """Yield each requirement as its parts: the pin, then its options."""
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    for entry in "\n".join(lines).replace("\\\n", "\0").splitlines():
        yield [part.strip() for part in entry.split("\0")]


def faults(text: str) -> list[str]:
    """Return lines that are not pinned, have no hash, or are no requirement."""
    return [
        parts[0]
        for parts in entries(text)
        if not _PIN.fullmatch(parts[0])
        or len(parts) == 1
        or not all(_HASH.fullmatch(part) for part in parts[1:])
    ]


def pins(lock: str) -> dict[str, str]:
    found = (_PIN.fullmatch(parts[0]) for parts in entries((ROOT / lock).read_text()))
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


def wanted(groups: tuple[str, ...]) -> dict[str, str]:
    """Return the requirements of pyproject by name, with their lowest version."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    if "dev" not in groups:
        # Machines of a Dask cluster have it already, in the version of their scheduler.
        extras = {name: lines for name, lines in extras.items() if name != "dask"}
    lines = [*project["dependencies"], *chain(*extras.values())]
    for group in groups:
        lines += PROJECT["dependency-groups"][group]
    matches = [re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?(?:>=([0-9.]+))?", line) for line in lines]
    return {m[1].lower().replace("_", "-"): m[2] or "0" for m in matches if m}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_pinned_with_hashes_and_no_index_is_named(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert faults(text) == []
    assert len(pins(lock)) > 30
    assert "://" not in text


@pytest.mark.parametrize(
    "line",
    [
        "aiohttp==3.14.5",
        "aiohttp>=3.14.5 \\\n    --hash=sha256:" + "0" * 64,
        "aiohttp==3.14.5 \\\n    --hash=md5:" + "0" * 32,
        "aiohttp==3.14.5 \\\n    --hash=sha256:short",
        "--extra-index-url https://packages.example",
        "aiohttp @ https://packages.example/aiohttp.whl",
        "-e .",
    ],
)
def test_a_line_that_is_not_pinned_with_hashes_is_found(line: str) -> None:
    good = "aiofiles==25.1.0 \\\n    --hash=sha256:" + "a" * 64 + "\n    # via smartserve\n"
    assert faults(good) == []
    assert len(faults(good + line + "\n" + good)) == 1


@pytest.mark.parametrize(("lock", "groups"), [(LOCKS[0], ("build",)), (LOCKS[1], ("build", "dev"))])
def test_the_pins_are_what_pyproject_takes(lock: str, groups: tuple[str, ...]) -> None:
    pinned = pins(lock)
    for name, lowest in wanted(groups).items():
        assert at_least(pinned[name], lowest), name


def test_the_two_lock_files_agree() -> None:
    runtime, development = (pins(lock) for lock in LOCKS)
    assert runtime.items() <= development.items()


def test_pyproject_takes_nothing_below_the_floors() -> None:
    lowest = wanted(())
    for name in ("aiohttp", "aiomysql", "pyvips"):
        assert at_least(lowest[name], FLOORS[name]), name


def test_what_is_audited_are_both_lock_files() -> None:
    target = (ROOT / "Makefile").read_text().partition("\naudit:")[2].partition("\n\n")[0]
    assert all(lock in target for lock in LOCKS)
    assert "pip-audit --strict --require-hashes" in target
