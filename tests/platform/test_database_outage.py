"""A database that ends during ingest: the worker waits for it, and no upload is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.app.ingest import IngestUrls, open_ingest
from proxy.app.services import open_services
from proxy.ingest.worker_loop import running_worker
from tests.ingest.conftest import BACKEND, QUICK
from tests.ingest.fake_main_api import FakeMainApi
from tests.platform.test_ingest_processes import image_of
from tests.support.mariadb import MariaDB
from tests.support.server import make_settings
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
async def test_ingest_continues_after_a_restart_of_the_database(
    fake: FakeMainApi, mariadb: MariaDB, tmp_path: Path
) -> None:
    database = {"url": mariadb.url(mariadb.create_database()), "query_timeout_s": 2}
    ingest = {
        **QUICK,
        "lease_s": 2,
        "poll_interval_s": 0.5,
        "retry_backoff_s": 0.5,
        "max_step_backoff_s": 0.3,
    }
    settings = make_settings(tmp_path / "data", database=database, ingest=ingest)
    for number in range(8):
        fake.add(image_of(number))
    async with (
        open_services(settings) as services,
        open_ingest(services, IngestUrls(fake.base, BACKEND)) as worker,
        running_worker(worker, drain_s=5),
    ):
        await eventually(lambda: fake.count("processed") >= 2, timeout_s=120)
        await asyncio.to_thread(mariadb.kill)
        try:
            # The worker has noticed the outage: a claim, a renewal or a write has failed.
            await eventually(lambda: worker.failures)
        finally:
            await asyncio.to_thread(mariadb.start)
        await eventually(lambda: fake.count("processed") == 8, timeout_s=240)
    media = [one.media_id for one in fake.images.values()]
    assert len(set(media)) == 8
