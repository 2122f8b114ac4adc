"""A storage that hangs: a frozen ext4 file system, in which every write blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ingest.conftest import PLAIN, Work, Worker
from tests.ingest.fake_main_api import FakeMainApi
from tests.support.mounts import ext4, frozen
from tests.support.server import CHROME, SAMPLES
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

PHOTO = (SAMPLES / "kodak-23.jpg").read_bytes()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with ext4(tmp_path / "storage", tmp_path / "image"):
        yield tmp_path / "storage"


def hanging(worker: Worker) -> float:
    return worker.server.metric("smartserve_ingest_steps_hanging")


async def test_another_worker_finishes_the_upload_once_the_storage_responds(
    fake: FakeMainApi, work: Work, root: Path
) -> None:
    section = {"storage": {"root": str(root)}}
    worker = await work(section, **PLAIN, step_timeout_s=1)
    other = await work(section, **PLAIN)
    image = fake.add(PHOTO)
    with frozen(root):
        assert await worker.ingest.run_once() == 1
        assert hanging(worker) == 1
        assert image.status == "pending"
        assert worker.row("state, lease, final") == ["failed", "None", "0"]
        assert worker.row("reason") == ["retrieve_file: did not finish within 1 s"]
        assert worker.server.metric("smartserve_ingest_attempts_total", outcome="overdue") == 1
        assert fake.asked["file"] == 0, "not retried at once"
    await eventually(lambda: hanging(worker) == 0, timeout_s=60)
    worker.due()
    assert await other.ingest.run_once() == 0
    assert image.status == "processed"
    assert worker.row("state, heals") == ["done", "1"]
    originals = [path for path in (root / "bulk").rglob("*") if path.is_file()]
    assert len(originals) == 1


async def test_with_too_many_hanging_steps_no_upload_begins_and_delivery_continues(
    fake: FakeMainApi, work: Work, root: Path
) -> None:
    section = {"storage": {"root": str(root)}}
    # Only steps on the frozen file system meet the short limit: on a busy machine others are slow.
    patient = await work(section, **PLAIN, concurrency=4)
    hasty = await work(section, **PLAIN, concurrency=4, step_timeout_s=0.5)
    first = fake.add(PHOTO)
    await patient.ingest.run_once()
    images = [fake.add(PHOTO) for _ in range(10)]
    with frozen(root):
        await hasty.ingest.run_once()
        # Four tasks, each of which may begin another upload before the fourth step hangs.
        assert 4 <= (before := hanging(hasty)) < 4 + 4
        await hasty.ingest.run_once()
        assert hanging(hasty) == before
        states = hasty.sql("SELECT state FROM ingest_items")
        assert states.count("failed") == before
        assert states.count("queued") == 10 - before
        url = f"/serve/{first.media_id}?w=256"
        answer = await hasty.server.client.get(url, headers={"Accept": CHROME})
        assert answer.status == 200
        assert "fwd=uri-miss" in answer.headers["Cache-Status"]
    await eventually(lambda: hanging(hasty) == 0, timeout_s=60)
    hasty.due()
    await patient.ingest.run_once()
    assert {one.status for one in images} == {"processed"}
    assert not [path for path in root.rglob(".smartserve-*") if path.is_file()]
