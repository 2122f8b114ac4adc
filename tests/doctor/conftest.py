"""What the doctor's tests share: a live server, a picture of it, and results by their names."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from proxy.doctor import Check, CheckBlocked, Diagnosis, judged
from proxy.doctor.http_client.client import AiohttpProbe
from proxy.domain.media import Media
from proxy.settings import Settings
from proxy.storage.database.media_repository import open_media_repository
from tests.benchmarks.servers import smartserve
from tests.deploy.origin import Origin
from tests.support.server import Library, make_settings

F = TypeVar("F")

Diagnoses = dict[str, Diagnosis]


def diagnoses(checks: Sequence[Check[F]], seen: F | CheckBlocked) -> Diagnoses:
    """What the checks of an area say, by their names."""
    return {result.check: result.diagnosis for result in judged(checks, seen)}


@pytest.fixture(scope="session")
def origin(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    """A server with one stage, for all tests that do it no harm."""
    data_dir = library.copy(tmp_path_factory.mktemp("examined") / "data")
    settings = {"UPGRADES__ENABLED": "false", "WORKERS__COUNT": "1"}
    with smartserve(data_dir, settings=settings) as running:
        yield Origin(running.address[1])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Defaults but for one worker and one stage, in a data directory that is not there yet."""
    return make_settings(tmp_path / "data", workers={"count": 1})


@pytest.fixture
async def direct(origin: Origin) -> AsyncIterator[AiohttpProbe]:
    """Who asks the server itself."""
    async with AiohttpProbe(f"http://127.0.0.1:{origin.port}", timeout_s=20) as visitor:
        yield visitor


@pytest.fixture
async def photo(library: Library) -> Media:
    """A row of the library, with its facts."""
    settings = make_settings(library.directory)
    async with open_media_repository(settings.database_url, settings.database) as database:
        media = await database.find(library.ids["photo"])
    assert media is not None
    return media


@pytest.fixture
def mark() -> str:
    """What makes an address new to every cache."""
    return secrets.token_hex(4)
