"""A database that goes away while uploads are taken in: it is waited for, and nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

from proxy.app.ingest import IngestUrls, open_ingest
from proxy.app.services import open_services
from proxy.ingest.worker_loop import running_worker
from tests.ingest.conftest import BACKEND, QUICK
from tests.ingest.fake_main_api import FakeMainApi
from tests.ingest.test_processes import picture, until
from tests.support.mariadb import MariaDB
from tests.support.server import make_settings


async def test_a_database_that_is_killed_and_comes_back_is_gone_on_with(
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
        fake.add(picture(number))
    async with (
        open_services(settings) as services,
        open_ingest(services, IngestUrls(fake.base, BACKEND)) as worker,
        running_worker(worker, drain_s=5),
    ):
        await until(lambda: fake.count("processed") >= 2)
        await asyncio.to_thread(mariadb.kill)
        try:
            await asyncio.sleep(1.5)
        finally:
            await asyncio.to_thread(mariadb.start)
        await until(lambda: fake.count("processed") == 8)
    media = [one.media_id for one in fake.images.values()]
    assert len(set(media)) == 8
