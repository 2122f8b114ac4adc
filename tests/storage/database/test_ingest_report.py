"""The report on the ingest queue."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from proxy.domain.upload import ItemState, Step, StepState
from proxy.settings import DatabaseSettings
from proxy.storage.database.ingest_queue import IngestQueue
from proxy.storage.database.ingest_report import queue_report
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import AnalysisRepository
from proxy.storage.database.schema import upgrade
from tests.storage.database.backends import Backend
from tests.storage.database.items import LEASE_S, claimed, offer, run_out, upload


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
    states = {"queued": 1, "done": 1, "incomplete": 0, "failed": 1, "kept": 0}
    assert report.states == states
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


async def settle(queue: IngestQueue, first: int, *, failed: bool = False) -> None:
    """Add one upload and bring it to its end."""
    await offer(queue, first)
    item = await claimed(queue)
    if failed:
        await queue.fail_permanently(item.lease, "corrupt")
        await queue.mark_reported(item.lease)
    else:
        await queue.finish(item.lease)


async def test_finished_items_are_pruned_after_their_time_and_counted_out(
    queue: IngestQueue, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    await settle(queue, 1)
    await settle(queue, 2, failed=True)
    await settle(queue, 3)
    await offer(queue, 4)
    old = "UPDATE ingest_items SET finished_at = 1 WHERE main_api_id IN (1, 2, 4); SELECT 1"
    backend.run(url, old)
    assert (await queue_report(writer)).states["done"] == 2
    assert await queue.prune(older_than_s=3600) == 2
    report = await queue_report(writer)
    assert (report.states["done"], report.failed_for_good) == (1, 0)
    assert backend.run(url, "SELECT main_api_id FROM ingest_items ORDER BY 1") == ["3", "4"]


@pytest.mark.parametrize("kept", ["retry", "report", "incomplete", "leased"])
async def test_an_item_that_is_not_settled_is_never_pruned(
    kept: str, queue: IngestQueue, backend: Backend, url: str
) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    if kept == "retry":
        await queue.fail(item.lease, "down", again_in_s=60)
    elif kept == "report":
        await queue.fail_permanently(item.lease, "corrupt")
        await queue.release(item.lease)
    elif kept == "incomplete":
        await queue.finish(item.lease, analysis_in_s=60)
    backend.run(url, "UPDATE ingest_items SET finished_at = 1, created_at = 1; SELECT 1")
    assert await queue.prune(older_than_s=0) == 0


async def test_a_pruned_upload_that_is_listed_again_keeps_its_medium(queue: IngestQueue) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    await queue.finish(item.lease)
    await queue.prune(older_than_s=-60)
    await offer(queue, 1)
    assert (await claimed(queue)).lease.media_id == item.lease.media_id


async def test_the_total_follows_an_item_that_is_reopened_and_finished_again(
    queue: IngestQueue, writer: LeasedWriter
) -> None:
    await settle(queue, 1)
    await queue.enqueue([upload(1)], settled_before=9e9)
    assert (await queue_report(writer)).states == {
        "queued": 1,
        "done": 0,
        "incomplete": 0,
        "failed": 0,
        "kept": 0,
    }
    await queue.finish((await claimed(queue)).lease, analysis_in_s=0)
    assert (await queue_report(writer)).states["done"] == 0
    revisit = await claimed(queue, state=ItemState.INCOMPLETE)
    await queue.finish_revisit(revisit.lease, again_in_s=None)
    assert (await queue_report(writer)).states["done"] == 1


async def test_takeovers_are_counted_beyond_the_items(
    queue: IngestQueue, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    await offer(queue, 1)
    await claimed(queue)
    await run_out(backend, url)
    await queue.finish((await claimed(queue, "w2")).lease)
    await queue.prune(older_than_s=-60)
    assert (await queue_report(writer)).takeovers == 1


_SCANNED = ("ingest_items", "media_files", "processing_checklist", "media_analysis_details")


async def test_no_query_of_the_report_or_of_a_claim_scans_a_table(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/scans.db"
    await upgrade(url, settings)
    writer = LeasedWriter(url, settings, lease_s=LEASE_S)
    queries: list[tuple[str, Any]] = []

    def record(_c: object, _cursor: object, statement: str, values: Any, *_more: object) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            queries.append((statement, values))

    event.listen(writer.engine.sync_engine, "before_cursor_execute", record)
    queue = IngestQueue(writer)
    await settle(queue, 1)
    await queue.enqueue([upload(1)], settled_before=9e9)
    await queue.due_in_s(retries=True)
    await queue.prune(older_than_s=-60)
    await queue_report(writer)
    await AnalysisRepository(writer).find_brand(1)
    await writer.aclose()
    with closing(sqlite3.connect(tmp_path / "scans.db")) as connection:
        plans = [
            (step[3], statement)
            for statement, values in queries
            for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)
        ]
    scans = [plan for plan in plans if plan[0].startswith("SCAN") and plan[0].endswith(_SCANNED)]
    assert len(plans) > 20
    assert scans == []
