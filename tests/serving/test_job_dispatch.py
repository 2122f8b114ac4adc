"""The workshop: what a failure in a worker means, and that it is remembered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.errors import UndecodableSource
from proxy.domain.worker_protocol import JobFailure, RenderSetJob, RenderSetResult
from proxy.rendering.pool.admission import Admission
from proxy.rendering.pool.failure_cache import FailureCache
from proxy.serving.job_dispatch import JobDispatcher
from proxy.settings import StorageSettings, WorkerSettings
from proxy.storage.originals.local_store import LocalSources
from tests.web.plans import MEDIA

FAILED = JobFailure("undecodable", "cut off")


class Pool:
    """Workers to which every output of every set is undecodable."""

    def __init__(self, outputs: int) -> None:
        self.jobs = 0
        self.results = (FAILED,) * outputs

    async def run(
        self, _job: object, _source: int, _sink: object, *, begun: Callable[[], None], **_: Any
    ) -> RenderSetResult:
        self.jobs += 1
        begun()
        return RenderSetResult(self.results)


def workshop(root: Path, pool: Pool) -> JobDispatcher:
    (root / "picture").write_bytes(b"not looked at")
    return JobDispatcher(
        sources=LocalSources(root, StorageSettings()),
        pool=pool,  # type: ignore[arg-type]
        admission=Admission(WorkerSettings(count=1)),
        quarantine=FailureCache(failure_s=10, quarantine_s=60),
    )


async def run(shop: JobDispatcher, outputs: int) -> RenderSetResult:
    job: Any = RenderSetJob(None, (None,) * outputs)  # type: ignore[arg-type]
    media = replace(MEDIA, bulk_path="picture")
    return (await shop.run(media, job, lambda _: None, byte_size=13)).result


async def test_a_set_of_one_that_fails_is_an_error_and_not_tried_again(tmp_path: Path) -> None:
    pool = Pool(outputs=1)
    shop = workshop(tmp_path, pool)
    for _ in range(3):
        with pytest.raises(UndecodableSource, match="cut off"):
            await run(shop, 1)
    assert pool.jobs == 1


async def test_failures_among_several_are_the_callers_to_see(tmp_path: Path) -> None:
    pool = Pool(outputs=2)
    assert (await run(workshop(tmp_path, pool), 2)).results == (FAILED, FAILED)
