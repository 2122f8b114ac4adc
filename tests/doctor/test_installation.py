"""The installation: opening it connects to nothing and creates nothing."""

from __future__ import annotations

import pytest

from proxy.app.doctor import open_installation
from proxy.domain.errors import DatabaseUnavailable
from proxy.settings import Settings


async def test_opening_an_installation_creates_nothing(settings: Settings) -> None:
    async with open_installation(settings, None, url="http://127.0.0.1:1", public="") as one:
        assert one.public is None
    assert not settings.data_path.exists()


async def test_a_missing_sqlite_file_is_not_created_by_reading_rows(settings: Settings) -> None:
    async with open_installation(settings, None, url="http://127.0.0.1:1", public="") as one:
        with pytest.raises(DatabaseUnavailable, match="there is no file"):
            one.rows()
    assert not settings.data_path.exists()
