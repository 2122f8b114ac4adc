"""Uploads with scripted steps: order, failures, retries, time limits and the outcome."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from proxy.domain.errors import (
    DatabaseUnavailable,
    DecoderMissing,
    EngineStartFailed,
    ExtractionQueueFull,
    ExtractionTimeout,
    MainApiForbidden,
    MainApiRefused,
    MainApiUnavailable,
    MediaNotFound,
    MetadataTooLarge,
    QueueFull,
    RenderFault,
    RenderTimeout,
    RowRejected,
    SmartserveError,
    SourceMissing,
    SourceQuarantined,
    SourceTooLarge,
    SourceUnavailable,
    StepOverdue,
    StorageError,
    UndecodableSource,
    UnknownImageFormat,
    UnsupportedSource,
    UploadGone,
    WorkerEnded,
)
from proxy.domain.media import DataType
from proxy.domain.upload import ItemOutcome, ItemState, LeasedItem, Step, StepState, Upload
from proxy.ingest.item_runner import (
    ItemRunner,
    StepFunction,
    StepTimeouts,
    failure_reason,
    retry_wait_s,
)
from proxy.ingest.steps import IngestSteps
from proxy.runtime.thread_pool import in_daemon_thread
from proxy.settings import DatabaseSettings, IngestSettings
from proxy.storage.database.ingest_queue import IngestQueue
from proxy.storage.database.ingest_report import queue_report
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.schema import upgrade
from proxy.storage.database.tables import ingest_items
from proxy.telemetry.metrics import Metrics
from tests.ingest.conftest import PLAIN, Work, Worker
from tests.ingest.fake_main_api import FakeMainApi
from tests.ingest.quiet import QuietApi
from tests.support.server import SAMPLES
from tests.support.waiting import eventually

PHOTO = (SAMPLES / "kodak-23.jpg").read_bytes()

UPLOAD = Upload(1, 4, "/temp_images/profiles/4-logo-1.png", None, None, DataType.LOGO)


class Script:
    """Scripted steps, and a record of what ran."""

    def __init__(self, progress: LeasedWriter) -> None:
        self._progress = progress
        self.errors: dict[Step, list[SmartserveError]] = {}
        self.done: list[Step] = []

    def step(self, step: Step) -> StepFunction:
        async def work(item: LeasedItem) -> None:
            self.done.append(step)
            if errors := self.errors.get(step):
                raise errors.pop(0)
            await self._progress.set_step(item.lease, step, StepState.COMPLETED)

        return work


class FakeAnalyses:
    """A scripted analysis step."""

    def __init__(self) -> None:
        self.pending_providers = False
        self.answers: list[bool | SmartserveError] = []

    async def is_analysis_incomplete(self, _item: LeasedItem) -> bool:
        return self.pending_providers

    async def complete_analysis(self, _item: LeasedItem) -> bool:
        answer = self.answers.pop(0)
        if isinstance(answer, SmartserveError):
            raise answer
        return answer


class Bench:
    """A queue with one upload, and a runner with scripted steps."""

    def __init__(self, writer: LeasedWriter, settings: IngestSettings) -> None:
        self.writer = writer
        self.queue, self.progress = IngestQueue(writer), writer
        self.script = Script(self.progress)
        self.metrics = Metrics()
        self.api = QuietApi()
        self.analyses = FakeAnalyses()
        self.runner = ItemRunner(
            api=self.api,
            queue=self.queue,
            progress=self.progress,
            timeouts=StepTimeouts(settings),
            worker_id="w",
            metrics=self.metrics.ingest,
            steps={step: self.script.step(step) for step in Step},
            analyses=cast("IngestSteps", self.analyses),
            settings=settings,
            changed=lambda _: None,
        )

    async def run(self) -> ItemOutcome:
        await self.queue.enqueue([UPLOAD], settled_before=0)
        item = await self.queue.claim("w")
        assert item is not None
        return await self.runner.run(item)

    async def make_due(self) -> None:
        """Make the upload due without waiting."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(update(ingest_items).values(not_before=1))

        await self.writer.run(work)

    async def set_retries(self, count: int) -> None:
        """Make the upload due, as after this many retries."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(update(ingest_items).values(not_before=1, heals=count))

        await self.writer.run(work)

    async def again(self) -> LeasedItem:
        item = await self.queue.claim("w", ItemState.FAILED)
        assert item is not None
        return item


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    url, database = f"sqlite+aiosqlite:///{tmp_path / 'media.db'}", DatabaseSettings()
    await upgrade(url, database)
    writer = LeasedWriter(url, database, lease_s=60)
    settings = IngestSettings(
        step_backoff_s=0.001,
        max_step_backoff_s=0.01,
        retry_backoff_s=0.001,
        analysis_retry_s=(0.001, 0.001),
    )
    yield Bench(writer, settings)
    await writer.aclose()


class FakeMetadata:
    """A scripted extraction of metadata."""

    def __init__(self, bench: Bench, *errors: Exception) -> None:
        self.errors = list(errors)
        self.after: list[list[Step]] = []
        self._script = bench.script
        bench.runner = replace(bench.runner, extract_metadata=self.extract)

    async def extract(self, _item: LeasedItem) -> None:
        self.after.append([*self._script.done])
        if self.errors:
            raise self.errors.pop(0)


async def test_metadata_is_extracted_after_the_steps(bench: Bench) -> None:
    metadata = FakeMetadata(bench)
    assert await bench.run() is ItemOutcome.DONE
    assert metadata.after == [list(Step)]
    report = await queue_report(bench.writer)
    assert report.states[ItemState.DONE] == 1
    assert "extract_metadata" not in report.steps


@pytest.mark.parametrize(
    "error",
    [
        UnknownImageFormat("no image"),
        MetadataTooLarge("a bomb"),
        SourceMissing("gone"),
        KeyError("a fault of this program"),
    ],
)
async def test_a_failed_extraction_of_metadata_does_not_fail_the_upload(
    bench: Bench, error: Exception
) -> None:
    metadata = FakeMetadata(bench, error)
    assert await bench.run() is ItemOutcome.DONE
    assert len(metadata.after) == 1
    report = await queue_report(bench.writer)
    assert (report.states[ItemState.DONE], report.failures) == (1, ())
    assert bench.api.cleaned == []


async def test_a_row_that_the_database_rejects_fails_the_step(bench: Bench) -> None:
    bench.script.errors[Step.RESIZE_OPTIMIZE] = [RowRejected("rejected", reason="too long")]
    with capture_logs() as logs:
        assert await bench.run() is ItemOutcome.RETRY
    (failed,) = (one for one in logs if one["event"] == "upload_failed")
    assert (failed["reason"], failed["cause"]) == ("resize_optimize: rejected", "too long")


async def test_rejected_metadata_is_not_extracted_again(bench: Bench) -> None:
    FakeMetadata(bench, RowRejected("rejected"))
    assert await bench.run() is ItemOutcome.DONE
    states = (await queue_report(bench.writer)).states
    assert (states[ItemState.DONE], states.get(ItemState.INCOMPLETE, 0)) == (1, 0)


async def test_a_rejected_analysis_does_not_lease_its_upload_for_ever(bench: Bench) -> None:
    bench.analyses.pending_providers = True
    assert await bench.run() is ItemOutcome.DONE
    retries = len(bench.runner.settings.analysis_retry_s)
    bench.analyses.answers = [RowRejected("rejected")] * retries
    for _ in range(retries):
        await bench.make_due()
        item = await bench.queue.claim("w", ItemState.INCOMPLETE)
        assert item is not None
        assert await bench.runner.run(item) is ItemOutcome.ANALYSIS_MISSING
    await bench.make_due()
    assert await bench.queue.claim("w", ItemState.INCOMPLETE) is None


@pytest.mark.parametrize("analysing", [True, False])
@pytest.mark.parametrize(
    "error",
    [
        ExtractionQueueFull("full"),
        ExtractionTimeout("late"),
        EngineStartFailed("no"),
        SourceUnavailable("not mounted"),
        DatabaseUnavailable("slow"),
    ],
)
async def test_metadata_is_extracted_later_if_that_may_help(
    bench: Bench, error: SmartserveError, *, analysing: bool
) -> None:
    metadata = FakeMetadata(bench, error, error)
    if not analysing:
        steps = {one: work for one, work in bench.runner.steps.items() if "analysis" not in one}
        bench.runner = replace(bench.runner, steps=steps)
    bench.analyses.answers = [True, True]
    assert await bench.run() is ItemOutcome.DONE
    done = [*bench.script.done]
    for outcome in (ItemOutcome.ANALYSIS_MISSING, ItemOutcome.ANALYSED):
        await bench.make_due()
        item = await bench.queue.claim("w", ItemState.INCOMPLETE)
        assert item is not None
        assert await bench.runner.run(item) is outcome
    assert len(metadata.after) == 3
    assert bench.script.done == done, "no step runs again"
    assert (await queue_report(bench.writer)).states[ItemState.DONE] == 1


async def test_an_extraction_that_hangs_ends_with_the_time_limit_of_a_step(bench: Bench) -> None:
    FakeMetadata(bench)
    timeouts = StepTimeouts(bench.runner.settings.model_copy(update={"step_timeout_s": 0.01}))
    hangs = asyncio.Event()

    async def hang(_item: LeasedItem) -> None:
        await hangs.wait()

    bench.runner = replace(bench.runner, extract_metadata=hang, timeouts=timeouts, steps={})
    assert await bench.run() is ItemOutcome.DONE
    assert (await queue_report(bench.writer)).states[ItemState.INCOMPLETE] == 1


async def test_steps_run_in_order(bench: Bench) -> None:
    assert await bench.run() is ItemOutcome.DONE
    assert bench.script.done == list(Step)


async def test_a_transient_error_is_retried_at_once(bench: Bench) -> None:
    bench.script.errors[Step.RESIZE_OPTIMIZE] = [QueueFull("full"), RenderFault("ours")]
    assert await bench.run() is ItemOutcome.DONE
    assert bench.script.done.count(Step.RESIZE_OPTIMIZE) == 3


async def test_a_permanent_error_is_not_retried(bench: Bench) -> None:
    bench.script.errors[Step.RETRIEVE_FILE] = [UndecodableSource("corrupt")] * 3
    assert await bench.run() is ItemOutcome.FAILED
    assert bench.script.done == [Step.RETRIEVE_FILE]
    assert bench.api.cleaned == [1]


async def test_a_failed_analysis_does_not_fail_the_upload(
    bench: Bench,
) -> None:
    bench.script.errors[Step.AI_VISUAL_ANALYSIS] = [UndecodableSource("no"), QueueFull("full")]
    assert await bench.run() is ItemOutcome.DONE
    assert bench.script.done == list(Step)
    assert bench.api.cleaned == []


@pytest.mark.parametrize(
    ("error", "state"),
    [(QueueFull("full"), ItemState.INCOMPLETE), (UndecodableSource("no"), ItemState.DONE)],
)
async def test_a_missing_analysis_is_retried_later_if_that_may_help(
    bench: Bench, error: SmartserveError, state: ItemState
) -> None:
    bench.script.errors[Step.AI_VISUAL_ANALYSIS] = [error] * 3
    assert await bench.run() is ItemOutcome.DONE
    assert (await queue_report(bench.writer)).states[state] == 1


async def test_analyses_are_retried_as_often_as_configured(bench: Bench) -> None:
    """Whether no provider answers or the step fails: the upload stays done."""
    bench.analyses.pending_providers = True
    bench.analyses.answers = [False, SourceUnavailable("away")]
    assert await bench.run() is ItemOutcome.DONE
    for _ in range(2):
        await bench.make_due()
        item = await bench.queue.claim("w", ItemState.INCOMPLETE)
        assert item is not None
        assert await bench.runner.run(item) is ItemOutcome.ANALYSIS_MISSING
    assert (await queue_report(bench.writer)).states[ItemState.DONE] == 1
    assert bench.script.done == list(Step)
    assert bench.api.cleaned == []


async def test_a_retried_upload_continues_at_the_failed_step(bench: Bench) -> None:
    bench.script.errors[Step.RESIZE_OPTIMIZE] = [SourceUnavailable("full")] * 3
    assert await bench.run() is ItemOutcome.RETRY
    bench.script.done.clear()
    await bench.make_due()
    assert await bench.runner.run(await bench.again()) is ItemOutcome.DONE
    assert bench.script.done == [Step.RESIZE_OPTIMIZE, Step.UPDATE_CALLBACK]


async def test_a_long_retry_after_ends_the_attempts(bench: Bench) -> None:
    bench.script.errors[Step.UPDATE_CALLBACK] = [QueueFull("busy", retry_after_s=3600)] * 3
    assert await bench.run() is ItemOutcome.RETRY
    assert bench.script.done.count(Step.UPDATE_CALLBACK) == 1


def test_waits_double_up_to_a_maximum() -> None:
    settings = IngestSettings()
    assert [retry_wait_s(settings, n) for n in (0, 1, 2, 6, 4000)] == [60, 120, 240, 3600, 3600]


async def test_a_permanent_failure_is_reported_until_the_main_api_accepts_it(
    fake: FakeMainApi, plain: Worker
) -> None:
    image = fake.add(b"no picture")
    fake.status["cleanup"] = 500
    for _ in range(5):
        await plain.ingest.run_once()
        plain.due()
    assert image.status == "pending"
    asked = fake.asked["file"]
    del fake.status["cleanup"]
    await plain.ingest.run_once()
    assert image.status == "failed"
    assert fake.asked["file"] == asked
    assert plain.row("not_before") == ["None"]


async def test_after_the_last_retry_an_upload_is_kept(fake: FakeMainApi, work: Work) -> None:
    plain = await work(**PLAIN, max_retries=1)
    image = fake.add(PHOTO)
    fake.status["file"] = 500
    await plain.ingest.run_once()
    plain.due()
    await plain.ingest.run_once()
    assert (image.status, fake.asked["cleanup"]) == ("pending", 0)
    assert plain.row("state, not_before, finished_at") == ["kept", "None", "None"]
    await plain.server.services.queue_metrics.refresh()
    assert plain.server.metric("smartserve_ingest_items", state="kept") == 1


FILE, RENDER = Step.RETRIEVE_FILE, Step.RESIZE_OPTIMIZE


def timeouts(*, step_s: float = 0.05, render_s: float = 30) -> StepTimeouts:
    settings = IngestSettings(step_timeout_s=step_s, render_timeout_s=render_s)
    return StepTimeouts(settings, grace_s=0.05)


class Hang:
    """Steps that hang as in a dead file system until `release`."""

    def __init__(self, fifo: Path) -> None:
        os.mkfifo(fifo)
        self._fifo = fifo
        self.started = asyncio.Event()

    async def step(self) -> None:
        """Open a FIFO, which blocks its thread even after a cancellation."""
        self.started.set()
        await in_daemon_thread(self._fifo.read_bytes)

    async def release(self, until: Callable[[], bool]) -> None:
        """Let the blocked calls return."""

        def released() -> bool:
            with suppress(OSError):
                os.close(os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK))
            return until()

        await eventually(released)


@pytest.fixture
def hang(tmp_path: Path) -> Hang:
    return Hang(tmp_path / "fifo")


async def nothing() -> None:
    """Do nothing."""


async def test_a_step_within_its_limit_passes() -> None:
    await timeouts().run(FILE, nothing())


async def test_an_error_of_a_step_is_raised() -> None:
    async def fail() -> None:
        raise SourceUnavailable("no storage")

    with pytest.raises(SourceUnavailable, match="no storage"):
        await timeouts().run(FILE, fail())


async def test_an_overdue_step_is_cancelled_and_cleans_up() -> None:
    tidied = asyncio.Event()

    async def late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            tidied.set()

    late_steps = timeouts()
    with pytest.raises(StepOverdue, match=r"did not finish within 0\.05 s"):
        await late_steps.run(FILE, late())
    assert tidied.is_set()
    assert late_steps.statistics() == {"hanging": 0}


async def test_renders_have_their_own_limit() -> None:
    done, steps = asyncio.Event(), timeouts(step_s=0.01)
    render = asyncio.create_task(steps.run(RENDER, done.wait()))
    with pytest.raises(StepOverdue):
        await steps.run(FILE, asyncio.Event().wait())
    assert not render.done()
    done.set()
    await render
    with pytest.raises(StepOverdue):
        await timeouts(step_s=30, render_s=0.01).run(RENDER, asyncio.Event().wait())


async def test_a_hanging_step_is_counted_until_it_returns(hang: Hang) -> None:
    steps = timeouts()
    with pytest.raises(StepOverdue):
        await steps.run(FILE, hang.step())
    assert steps.statistics() == {"hanging": 1}
    assert not steps.too_many_hanging
    await hang.release(lambda: steps.statistics() == {"hanging": 0})


async def test_with_four_hanging_steps_no_other_may_start(hang: Hang) -> None:
    steps = timeouts()
    asked = [steps.run(FILE, hang.step()) for _ in range(4)]
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(one) for one in told} == {StepOverdue}
    assert steps.too_many_hanging
    await hang.release(lambda: not steps.too_many_hanging)
    await hang.release(lambda: steps.statistics() == {"hanging": 0})


async def test_a_cancelled_caller_cancels_the_step_first(hang: Hang) -> None:
    steps = timeouts(step_s=30)
    running = asyncio.create_task(steps.run(FILE, hang.step()))
    await hang.started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert steps.statistics() == {"hanging": 1}
    await steps.aclose()
    assert steps.statistics() == {"hanging": 0}
    await hang.release(lambda: True)


async def test_closing_abandons_hanging_steps(hang: Hang) -> None:
    steps = timeouts()
    with pytest.raises(StepOverdue):
        await steps.run(FILE, hang.step())
    await steps.aclose()
    assert steps.statistics() == {"hanging": 0}


EVERY_STEP = [one for one in Step if one is not Step.AI_VISUAL_ANALYSIS]


@pytest.mark.parametrize("step", EVERY_STEP)
@pytest.mark.parametrize(
    "error",
    [
        MainApiRefused("302"),
        MainApiForbidden("401"),
        MainApiUnavailable("500"),
        SourceQuarantined("crashes"),
        RenderTimeout("late"),
        RenderFault("ours"),
        DecoderMissing("no fonts"),
        SourceUnavailable("disk"),
        SourceMissing("lost"),
        MediaNotFound("deleted"),
        StepOverdue("hangs"),
        WorkerEnded("killed"),
        StorageError("full"),
        SmartserveError("unforeseen"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else str(one),
)
async def test_an_upload_whose_file_is_not_proved_bad_is_retried_for_days_and_kept(
    bench: Bench, step: Step, error: SmartserveError
) -> None:
    bench.script.errors[step] = [error] * 99
    bench.api.confirmations = 3
    assert await bench.run() is ItemOutcome.RETRY
    retries = bench.runner.settings.max_retries
    assert sum(retry_wait_s(IngestSettings(), one) for one in range(retries)) > 5 * 86_400
    await bench.set_retries(retries - 1)
    assert await bench.runner.run(await bench.again()) is ItemOutcome.KEPT
    assert bench.api.cleaned == []
    report = await queue_report(bench.writer)
    assert (report.states[ItemState.KEPT], report.stuck) == (1, 0)
    assert error.detail in report.failures[0].reason
    assert await bench.queue.due_in_s(retries=True) is None, "it waits for the operator"


@pytest.mark.parametrize("step", [Step.RESIZE_OPTIMIZE, Step.UPDATE_CALLBACK])
async def test_only_the_download_can_prove_a_file_bad(bench: Bench, step: Step) -> None:
    bench.script.errors[step] = [UndecodableSource("our copy")]
    assert await bench.run() is ItemOutcome.RETRY
    assert bench.api.cleaned == []


@pytest.mark.parametrize(
    "error", [UndecodableSource("x"), UnsupportedSource("x"), SourceTooLarge("x")]
)
async def test_over_http_a_bad_file_is_cleaned_up_after_four_equal_downloads(
    bench: Bench, error: SmartserveError
) -> None:
    bench.script.errors[Step.RETRIEVE_FILE] = [error] * 9
    bench.api.confirmations = 3
    outcomes = [await bench.run()]
    for _ in range(3):
        await bench.make_due()
        outcomes.append(await bench.runner.run(await bench.again()))
    assert outcomes == [ItemOutcome.RETRY] * 3 + [ItemOutcome.FAILED]
    assert bench.api.cleaned == [1]


async def test_a_bad_download_after_an_outage_is_no_proof(bench: Bench) -> None:
    outage, cut = [MainApiRefused("302")] * 5, [UndecodableSource("truncated")]
    bench.script.errors[Step.RETRIEVE_FILE] = [*outage, *cut]
    bench.api.confirmations = 3
    outcomes = [await bench.run()]
    for _ in range(6):
        await bench.make_due()
        outcomes.append(await bench.runner.run(await bench.again()))
    assert outcomes == [ItemOutcome.RETRY] * 6 + [ItemOutcome.DONE]
    assert bench.api.cleaned == []


@pytest.mark.parametrize("step", [Step.RETRIEVE_FILE, Step.UPDATE_CALLBACK])
async def test_an_upload_that_is_gone_is_given_up_without_a_report(
    bench: Bench, step: Step
) -> None:
    bench.script.errors[step] = [UploadGone("404")] * 9
    outcomes = [await bench.run()]
    for _ in range(3):
        await bench.make_due()
        outcomes.append(await bench.runner.run(await bench.again()))
    assert outcomes == [ItemOutcome.RETRY] * 3 + [ItemOutcome.FAILED]
    assert bench.api.cleaned == []
    # The main API was only being redeployed.
    settled_before = await bench.queue.now() + 0.1
    assert await bench.queue.enqueue([UPLOAD], settled_before=settled_before) == 1
    bench.script.errors.clear()
    item = await bench.queue.claim("w", ItemState.FAILED)
    assert item is not None
    assert await bench.runner.run(item) is ItemOutcome.DONE


async def test_a_kept_upload_runs_again_when_the_operator_says_so(bench: Bench) -> None:
    bench.script.errors[Step.RETRIEVE_FILE] = [MainApiRefused("451")]
    await bench.queue.enqueue([UPLOAD], settled_before=0)
    await bench.set_retries(bench.runner.settings.max_retries)
    item = await bench.queue.claim("w")
    assert item is not None
    assert await bench.runner.run(item) is ItemOutcome.KEPT
    listed = await bench.queue.enqueue([UPLOAD], settled_before=await bench.queue.now() + 9)
    assert listed == 0, "the main API still lists it"
    assert await bench.queue.retry_kept() == 1
    assert await bench.runner.run(await bench.again()) is ItemOutcome.DONE


def test_a_reason_contains_the_message_of_the_system() -> None:
    error = SourceUnavailable("cannot be written")
    error.__cause__ = OSError(28, "No space left on device")
    told = failure_reason(Step.RETRIEVE_FILE, error)
    assert told == "retrieve_file: cannot be written (No space left on device)"
