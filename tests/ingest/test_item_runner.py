"""Steps and their order, with steps of the tests' own: what fails, and what goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from proxy.domain.analysis import Analysis, merge
from proxy.domain.errors import (
    MainApiRefused,
    QueueFull,
    RenderFault,
    RenderTimeout,
    SmartserveError,
    SourceQuarantined,
    SourceUnavailable,
    UndecodableSource,
    UploadGone,
)
from proxy.domain.image_analysis import DetectedObject, Kind, ProviderGap, Quality
from proxy.domain.ingest_item import ItemOutcome, ItemState, LeasedItem, StepState, Upload
from proxy.domain.media import DataType, Focus
from proxy.domain.pending_image import Step
from proxy.domain.worker_protocol import AnalysisResult
from proxy.ingest.item_runner import ItemRunner, retry_wait_s
from proxy.ingest.step_retry import (
    StepFunction,
    StepRetrier,
    StepTimeouts,
    failure_reason,
    is_retried_later,
)
from proxy.ingest.steps.analyse import AnalyseStep, focus_of
from proxy.settings import DatabaseSettings, IngestSettings
from proxy.storage.database.ingest_progress import IngestProgress
from proxy.storage.database.ingest_queue import IngestQueue
from proxy.storage.database.ingest_report import queue_report
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.schema import upgrade
from proxy.telemetry.metrics import Metrics
from tests.ingest.quiet import QuietApi

UPLOAD = Upload(1, 4, "/temp_images/profiles/4-logo-1.png", None, None, DataType.LOGO)


class Script:
    """Steps that do what they are told, and what was done."""

    def __init__(self, progress: IngestProgress) -> None:
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


class Looks:
    """Who is asked again, and what comes of it."""

    def __init__(self) -> None:
        self.pending_providers = False
        self.answers: list[bool | SmartserveError] = []

    async def is_incomplete(self, _item: LeasedItem) -> bool:
        return self.pending_providers

    async def complete(self, _item: LeasedItem) -> bool:
        answer = self.answers.pop(0)
        if isinstance(answer, SmartserveError):
            raise answer
        return answer


class Bench:
    """A queue with one upload, and a taker over scripted steps."""

    def __init__(self, writer: LeasedWriter, settings: IngestSettings) -> None:
        self.writer = writer
        self.queue, self.progress = IngestQueue(writer), IngestProgress(writer)
        self.script = Script(self.progress)
        self.metrics = Metrics()
        self.api = QuietApi()
        self.looks = Looks()
        self.taker = ItemRunner(
            api=self.api,
            queue=self.queue,
            retrier=StepRetrier(
                progress=self.progress,
                timeouts=StepTimeouts(settings),
                settings=settings,
                worker_id="w",
                metrics=self.metrics.ingest,
            ),
            steps={step: self.script.step(step) for step in Step},
            analyses=cast("AnalyseStep", self.looks),
            settings=settings,
            changed=lambda _: None,
        )

    async def take(self) -> ItemOutcome:
        await self.queue.enqueue([UPLOAD], settled_before=0)
        item = await self.queue.claim("w")
        assert item is not None
        return await self.taker.run(item)

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


async def test_steps_are_done_in_their_order(bench: Bench) -> None:
    assert await bench.take() is ItemOutcome.DONE
    assert bench.script.done == list(Step)


async def test_what_passes_is_tried_again_at_once(bench: Bench) -> None:
    bench.script.errors[Step.RESIZE_OPTIMIZE] = [QueueFull("full"), RenderFault("ours")]
    assert await bench.take() is ItemOutcome.DONE
    assert bench.script.done.count(Step.RESIZE_OPTIMIZE) == 3


async def test_what_does_not_pass_is_not_tried_again(bench: Bench) -> None:
    bench.script.errors[Step.RETRIEVE_FILE] = [UndecodableSource("corrupt")] * 3
    assert await bench.take() is ItemOutcome.FAILED
    assert bench.script.done == [Step.RETRIEVE_FILE]
    assert bench.api.cleaned == [1]


async def test_an_analysis_that_fails_for_good_fails_that_step_and_not_the_picture(
    bench: Bench,
) -> None:
    bench.script.errors[Step.AI_VISUAL_ANALYSIS] = [UndecodableSource("no"), QueueFull("full")]
    assert await bench.take() is ItemOutcome.DONE
    assert bench.script.done == list(Step)
    assert bench.api.cleaned == []


@pytest.mark.parametrize(
    ("error", "state"),
    [(QueueFull("full"), ItemState.INCOMPLETE), (UndecodableSource("no"), ItemState.DONE)],
)
async def test_an_analysis_that_is_missing_is_made_later_where_that_may_help(
    bench: Bench, error: SmartserveError, state: ItemState
) -> None:
    bench.script.errors[Step.AI_VISUAL_ANALYSIS] = [error] * 3
    assert await bench.take() is ItemOutcome.DONE
    assert (await queue_report(bench.writer)).states[state] == 1


async def test_looks_go_on_for_as_long_as_the_settings_say(bench: Bench) -> None:
    """Whether nobody answers or something fails, the picture stays as it is."""
    bench.looks.pending_providers = True
    bench.looks.answers = [False, SourceUnavailable("away")]
    assert await bench.take() is ItemOutcome.DONE
    for _ in range(2):
        await asyncio.sleep(0.01)
        item = await bench.queue.claim("w", ItemState.INCOMPLETE)
        assert item is not None
        assert await bench.taker.run(item) is ItemOutcome.ANALYSIS_MISSING
    assert (await queue_report(bench.writer)).states[ItemState.DONE] == 1
    assert bench.script.done == list(Step)
    assert bench.api.cleaned == []


async def test_what_is_healed_begins_at_the_step_that_failed(bench: Bench) -> None:
    bench.script.errors[Step.RESIZE_OPTIMIZE] = [SourceUnavailable("full")] * 3
    assert await bench.take() is ItemOutcome.RETRY
    bench.script.done.clear()
    await asyncio.sleep(0.01)
    assert await bench.taker.run(await bench.again()) is ItemOutcome.DONE
    assert bench.script.done == [Step.RESIZE_OPTIMIZE, Step.UPDATE_CALLBACK]


async def test_who_asks_for_a_long_rest_is_left_alone_until_it_is_healed(bench: Bench) -> None:
    bench.script.errors[Step.UPDATE_CALLBACK] = [QueueFull("busy", retry_after_s=3600)] * 3
    assert await bench.take() is ItemOutcome.RETRY
    assert bench.script.done.count(Step.UPDATE_CALLBACK) == 1


def test_waits_between_heals_double_up_to_a_limit() -> None:
    settings = IngestSettings()
    assert [retry_wait_s(settings, n) for n in (0, 1, 2, 6, 4000)] == [60, 120, 240, 3600, 3600]


def test_a_refused_callback_heals_and_a_refused_download_does_not() -> None:
    refused = MainApiRefused("400")
    assert is_retried_later(Step.UPDATE_CALLBACK, refused)
    assert not is_retried_later(Step.RETRIEVE_FILE, refused)


@pytest.mark.parametrize("step", [Step.RETRIEVE_FILE, Step.UPDATE_CALLBACK])
@pytest.mark.parametrize(
    "error",
    [SourceQuarantined("q"), RenderTimeout("t"), RenderFault("f"), UploadGone("404")],
)
def test_what_may_be_a_passing_fault_has_the_benefit_of_the_doubt_three_times(
    step: Step, error: SmartserveError
) -> None:
    tried = [is_retried_later(step, error, retries=times) for times in range(5)]
    assert tried == [True, True, True, False, False]


def test_a_reason_says_what_the_system_said() -> None:
    error = SourceUnavailable("cannot be written")
    error.__cause__ = OSError(28, "No space left on device")
    told = failure_reason(Step.RETRIEVE_FILE, error)
    assert told == "retrieve_file: cannot be written (No space left on device)"


def _analysis(*objects: DetectedObject) -> Analysis:
    quality = Quality(1, 1, 1, 1, 1, 1, 1)
    local = AnalysisResult(
        1, 1, (), (), quality, (), Kind("photo", ""), "", "", "0" * 16, Focus(0.1, 0.1)
    )
    found = merge(local, [], ProviderGap("tesseract", "no"), data_type="profile")
    return replace(found, objects=objects)


def test_the_focus_is_the_middle_of_the_surest_and_largest_object() -> None:
    small = DetectedObject("cup", 0.9, (0, 0, 0.1, 0.1))
    large = DetectedObject("person", 0.8, (0.4, 0.2, 0.8, 1.0))
    nowhere = DetectedObject("sky", 1.0)
    focus = focus_of(_analysis(small, large, nowhere))
    assert focus is not None
    assert (focus.x, focus.y) == pytest.approx((0.6, 0.6))


def test_without_a_place_there_is_no_focus() -> None:
    assert focus_of(_analysis(DetectedObject("sky", 1.0))) is None
