"""The report on the ingest queue."""

from __future__ import annotations

import time

import pytest

from proxy.domain.upload import Step, StepState
from proxy.storage.database.ingest_queue import IngestQueue
from proxy.storage.database.ingest_report import queue_report
from proxy.storage.database.leased_writer import LeasedWriter
from tests.storage.database.backends import Backend
from tests.storage.database.items import claimed, offer


async def test_the_report_counts_by_state_and_step(
    queue: IngestQueue, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    await offer(queue, 1, 2, 3)
    done = await claimed(queue)
    await writer.start_attempt(done.lease, Step.RETRIEVE_FILE, worker_id="w1")
    await writer.set_step(done.lease, Step.RETRIEVE_FILE, StepState.COMPLETED)
    await queue.finish(done.lease)
    await queue.fail((await claimed(queue)).lease, "down", again_in_s=60)
    backend.run(url, "UPDATE ingest_items SET created_at = 1; SELECT 1")
    report = await queue_report(writer)
    assert report.states == {"queued": 1, "done": 1, "incomplete": 0, "failed": 1}
    assert report.steps[Step.RETRIEVE_FILE] == {"pending": 1, "completed": 1, "failed": 0}
    assert report.attempts[Step.RETRIEVE_FILE] == 1
    assert (report.stuck, report.failed_for_good, report.finished_last_hour) == (2, 0, 1)
    assert report.oldest_s == pytest.approx(time.time(), abs=600)


async def test_a_report_on_nothing_has_no_oldest(queue: IngestQueue, writer: LeasedWriter) -> None:
    assert (await queue_report(writer)).oldest_s == 0
    await offer(queue, 1)
    assert 0 <= (await queue_report(writer)).oldest_s < 60
    await queue.finish((await claimed(queue)).lease)
    assert (await queue_report(writer)).oldest_s == 0
