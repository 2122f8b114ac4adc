"""Renditions of premade sizes, made in advance."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.library.adoption.trees import LIBRARY, adopt, adopted, photo, premade
from tests.support.server import Serving


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data directory."""
    return tmp_path / "data"


async def test_each_premade_size_is_rendered_once(server: Serving) -> None:
    root = server.services.settings.storage_root
    premade(photo(), root / LIBRARY / "alone", ("webp",))
    (one,) = adopted(await adopt(server.services, root))
    fallbacks = server.services.fallback_renderer
    assert await fallbacks.fill(one.media_id) == len(one.fallbacks) == 3
    assert await fallbacks.fill(one.media_id) == 0


async def test_a_damaged_size_is_skipped(server: Serving) -> None:
    root = server.services.settings.storage_root
    premade(photo(), root / LIBRARY / "alone", ("webp",))
    (one,) = adopted(await adopt(server.services, root))
    damaged = root / LIBRARY / "alone-small.webp"
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    assert await server.services.fallback_renderer.fill(one.media_id) == 2


async def test_an_unknown_medium_has_none(server: Serving) -> None:
    assert await server.services.fallback_renderer.fill(999) == 0
