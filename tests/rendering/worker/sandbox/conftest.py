from __future__ import annotations

from typing import Any

import pytest

from tests.rendering.worker.sandbox.processes import OPTIONS, inside


@pytest.fixture(scope="session")
def confined() -> Any:
    """The output of a process in the complete sandbox."""
    return inside(OPTIONS)
