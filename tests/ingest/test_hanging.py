"""A storage that hangs, for real: a frozen ext4, in which each call that writes waits on and on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ingest.conftest import Work, Worker
from tests.ingest.fake_main_api import FakeMainApi
from tests.support.mounts import ext4, frozen
from tests.support.server import CHROME, SAMPLES

PHOTO = (SAMPLES / "kodak-23.jpg").read_bytes()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with ext4(tmp_path / "storage", tmp_path / "image"):
        yield tmp_path / "storage"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - calls come back in threads
            await asyncio.sleep(0.02)


def hanging(worker: Worker) -> float:
    return worker.server.metric("smartserve_ingest_steps_hanging")


async def test_an_upload_is_given_back_and_another_worker_takes_it_once_the_storage_is_back(
    fake: FakeMainApi, work: Work, root: Path
) -> None:
    section = {"storage": {"root": str(root)}}
    worker = await work(section, step_timeout_s=1)
    other = await work(section, step_timeout_s=30)
    image = fake.add(PHOTO)
    with frozen(root):
        assert await worker.ingest.run_once() == 1
        assert hanging(worker) == 1
        assert image.status == "pending"
        assert worker.row("state, lease, final") == ["failed", "None", "0"]
        assert worker.row("reason") == ["retrieve_file: was not done in 1 s"]
        assert worker.server.metric("smartserve_ingest_attempts_total", outcome="overdue") == 1
        assert fake.asked["file"] == 0, "it is not tried again at once"
    await until(lambda: hanging(worker) == 0)
    worker.due()
    assert await other.ingest.run_once() == 0
    assert image.status == "processed"
    assert worker.row("state, heals") == ["done", "1"]
    originals = [path for path in (root / "bulk").rglob("*") if path.is_file()]
    assert len(originals) == 1


async def test_a_worker_with_too_many_begins_nothing_more_and_visitors_do_not_notice(
    fake: FakeMainApi, work: Work, root: Path
) -> None:
    worker = await work({"storage": {"root": str(root)}}, step_timeout_s=2, concurrency=4)
    first = fake.add(PHOTO)
    await worker.ingest.run_once()
    images = [fake.add(PHOTO) for _ in range(10)]
    with frozen(root):
        await worker.ingest.run_once()
        assert 4 <= (before := hanging(worker)) < 4 + 4
        await worker.ingest.run_once()
        assert hanging(worker) == before
        states = worker.sql("SELECT state FROM ingest_items")
        assert states.count("failed") == before
        assert states.count("queued") == 10 - before
        url = f"/serve/{first.media_id}?w=256"
        answer = await worker.server.client.get(url, headers={"Accept": CHROME})
        assert answer.status == 200
        assert "fwd=uri-miss" in answer.headers["Cache-Status"]
    await until(lambda: hanging(worker) == 0)
    worker.due()
    await worker.ingest.run_once()
    assert {one.status for one in images} == {"processed"}
    assert not [path for path in root.rglob(".smartserve-*") if path.is_file()]
