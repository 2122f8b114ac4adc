"""Golden files of other projects; they are beside the checkout, never in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


def golden(name: str) -> Path:
    """Return a file or folder of ``../shared/golden``; skip the test where it is missing."""
    for parent in (_ROOT.parent, _ROOT.parent.parent):
        path = parent / "shared" / "golden" / name
        if path.exists():
            return path
    pytest.skip(f"golden files are missing: ../shared/golden/{name}")
