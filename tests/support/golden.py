"""Golden files of other projects; they are beside the checkout, never in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


GOLDEN = next(
    (
        folder
        for parent in (_ROOT.parent, _ROOT.parent.parent)
        if (folder := parent / "shared" / "golden").is_dir()
    ),
    None,
)
"""The folder; None where it is missing."""


def golden(name: str) -> Path:
    """Return a file or folder of ``../shared/golden``; skip the test where it is missing."""
    if GOLDEN is not None and (GOLDEN / name).exists():
        return GOLDEN / name
    pytest.skip(f"golden files are missing: ../shared/golden/{name}")
