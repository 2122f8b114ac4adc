"""The doctor's view of an installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.app.doctor import open_installation
from proxy.domain.errors import DatabaseUnavailable
from tests.support.server import make_settings


async def test_looking_at_an_installation_creates_nothing(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "data")
    async with open_installation(
        settings, None, url="http://127.0.0.1:9", public=""
    ) as installation:
        with pytest.raises(DatabaseUnavailable):
            installation.rows()
    assert not (tmp_path / "data").exists()


async def test_a_proxy_and_a_queue_are_optional(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "data", main={"enabled": False})
    async with open_installation(
        settings, None, url="http://127.0.0.1:9", public=""
    ) as installation:
        assert installation.public is None
        assert installation.queue is None
    async with open_installation(
        settings, None, url="http://127.0.0.1:9", public="http://cdn.example.org"
    ) as installation:
        assert installation.public is not None
