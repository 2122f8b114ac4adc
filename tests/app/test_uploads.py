"""The rounds of the main side: address replacement and the sweep of temporary files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
import structlog

from proxy.app.uploads import UploadServices
from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.upload import PendingStatus
from proxy.ingest.uploads.upload_queue import UploadQueue
from proxy.runtime.supervised_task import BackgroundTask
from proxy.settings import Settings
from proxy.storage.database.upload_repository import UploadRepository
from proxy.storage.upload_files import UploadFiles
from proxy.telemetry.metrics import Metrics
from tests.support.restarts import Restarts
from tests.support.waiting import eventually


class Round:
    """A round that fails with ``error`` in its first run."""

    base_url = ""

    def __init__(self, error: Exception | None = None) -> None:
        self.runs = 0
        self._error = error

    async def run(self) -> None:
        self.runs += 1
        if self._error is not None and self.runs == 1:
            raise self._error


class Files:
    """Holds no files."""

    async def count_set_aside(self) -> int:
        return 0


class Database:
    """Holds no uploads."""

    async def count_by_status(self) -> Mapping[PendingStatus, int]:
        return {}


def services(**parts: object) -> UploadServices:
    anything: Any = None
    files = cast("UploadFiles", Files())
    values: dict[str, Any] = {
        "settings": Settings(),
        "results": None,
        "queue": UploadQueue(cast("UploadRepository", Database()), files),
        "quota": anything,
        "replacer": Round(),
        "sweeper": Round(),
        "media_key": "",
        "token_key": anything,
        "on_upload": lambda: None,
        **parts,
    }
    return UploadServices(**values)


@pytest.mark.parametrize(
    ("part", "task"),
    [("replacer", BackgroundTask.URL_REPLACEMENT), ("sweeper", BackgroundTask.UPLOAD_SWEEP)],
)
async def test_an_unforeseen_error_restarts_the_round(part: str, task: BackgroundTask) -> None:
    failing, restarts = Round(LookupError("unforeseen")), Restarts()
    main = services(**{part: failing})
    async with main.running("http://example.org", Metrics(), restarts.supervisor):
        await eventually(lambda: failing.runs > 1)
    assert restarts.tasks == [task]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "localhost"])
async def test_addresses_of_this_machine_only_are_not_written_into_profiles(host: str) -> None:
    replacer, metrics = Round(), Metrics()
    settings = Settings.model_validate({"server": {"host": host}})
    main = services(settings=settings, replacer=replacer)
    with structlog.testing.capture_logs() as logs:
        async with main.running(settings.base_url(8080), metrics):
            await eventually(lambda: main.sweeper.runs)  # type: ignore[attr-defined]
    assert replacer.runs == 0
    assert [one["event"] for one in logs] == ["addresses_not_replaced"]
    assert "set server.public_url" in logs[0]["reason"]


async def test_a_setting_permits_addresses_of_this_machine() -> None:
    replacer = Round()
    settings = Settings.model_validate({"main": {"allow_loopback_url": True}})
    main = services(settings=settings, replacer=replacer)
    async with main.running(settings.base_url(8080), Metrics()):
        await eventually(lambda: replacer.runs)


async def test_a_database_that_is_away_is_no_failure_of_the_task() -> None:
    failing, restarts = Round(DatabaseUnavailable("away")), Restarts()
    main = services(replacer=failing)
    async with main.running("http://example.org", Metrics(), restarts.supervisor):
        await eventually(lambda: failing.runs > 1)
    assert not restarts.tasks
