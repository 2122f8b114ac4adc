"""The confined process that detects faces."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.app.workers import face_worker
from proxy.domain.errors import ConfigurationError, SmartserveError
from proxy.domain.worker_protocol import FaceJob, FacesFound
from proxy.rendering.face_model import FILE_NAME
from proxy.rendering.pool.pool import WorkerPool
from proxy.rendering.worker.face_worker import FaceWorker
from proxy.runtime.supervised_task import UNCOUNTED
from proxy.settings import Settings
from tests.fuzz.mutants import mutant
from tests.rendering.worker.imaging import studio
from tests.support.faces import GIRL, models
from tests.support.memory_files import memory_file
from tests.support.photos import photo
from tests.support.server import make_settings

MUTANTS = 150

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path, faces={"directory": str(models())})


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[WorkerPool]:
    async with face_worker(settings, UNCOUNTED) as running:
        yield running


async def detect(pool: WorkerPool, source: studio.Source) -> FacesFound:
    with memory_file(source) as opened:
        return await pool.run(FaceJob(studio.LIMITS), opened)


async def test_the_process_is_confined_and_detects(pool: WorkerPool) -> None:
    assert pool.gaps == {}
    assert len((await detect(pool, GIRL)).faces) == 1


async def test_hostile_images_cost_at_most_their_own_detection(pool: WorkerPool) -> None:
    photo("kodak-23.png")
    for number in range(MUTANTS):
        with suppress(SmartserveError):
            await detect(pool, mutant(16, number).body)
    assert len((await detect(pool, GIRL)).faces) == 1


async def test_a_process_that_is_killed_is_replaced(pool: WorkerPool) -> None:
    (pid,) = pool.pids
    os.kill(pid, 9)
    assert len((await detect(pool, GIRL)).faces) == 1
    assert pool.pids != (pid,)


async def test_a_damaged_model_is_the_reason_why_no_process_starts(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"damaged")
    damaged = make_settings(tmp_path, faces={"directory": str(tmp_path)})
    with pytest.raises(ConfigurationError, match=r"is damaged.*smartserve models install"):
        await face_worker(damaged, UNCOUNTED).__aenter__()


def test_another_job_is_not_accepted() -> None:
    with pytest.raises(TypeError):
        FaceWorker().run(object(), 0, 0)
