"""The queue of the upgrades: what comes first, what is forgotten, what is let go of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Any, cast

import pytest

from proxy.domain.errors import ConfigurationError, RenderTimeout, SourceChanged
from proxy.domain.formats import Format
from proxy.domain.media import Media, MediaFacts
from proxy.domain.render_plan import RenderPlan, RenderPlanner, RenderRules
from proxy.domain.request import parse_request
from proxy.domain.worker_protocol import RenderResult
from proxy.runtime.supervised_task import BackgroundTask, TaskSupervisor
from proxy.serving.finals.queue import UpgradeQueue
from proxy.serving.finals.renderer import FinalResult
from proxy.serving.renderer import EncodeCostModel
from proxy.settings import Settings, UpgradeSettings
from tests.support.restarts import Restarts
from tests.web.plans import FACTS, MEDIA

SETTINGS = Settings()
PLANNER = RenderPlanner(
    RenderRules(
        stages=SETTINGS.encoders.stages(),
        order=SETTINGS.encoders.order,
        sizes=SETTINGS.size_specs(),
        limits=SETTINGS.limits.to_limits(),
        recipe="r1",
    )
)


def wish(media_id: int, query: str = "", *, accept: str = "image/avif") -> RenderPlan:
    request = parse_request(query, sizes=PLANNER.rules.sizes)
    return PLANNER.plan(replace(MEDIA, id=media_id), FACTS, request, accept)


def remake(media_id: int) -> RenderPlan:
    """A plan whose draft is a rendition that another recipe made."""
    plan = wish(media_id)
    return replace(plan, draft=replace(plan.variant, stored_as=f"{media_id:032x}"))


class Finals:
    """Makes nothing, and says in what order it was asked to; waits for its leave."""

    def __init__(self) -> None:
        self.asked: list[list[RenderPlan]] = []
        self.leave = asyncio.Semaphore(0)
        self.present: set[str] = set()
        self.retired: list[RenderPlan] = []
        self.result = RenderResult(1, 1, 1, cpu_s=0.5)
        self.failure: Exception | None = None

    async def with_faces(self, _media: Media, facts: MediaFacts) -> MediaFacts:
        return facts

    async def missing(self, plans: Sequence[RenderPlan]) -> list[RenderPlan]:
        return [plan for plan in plans if plan.variant.digest not in self.present]

    @asynccontextmanager
    async def claimed(self, plans: Sequence[RenderPlan]) -> AsyncIterator[list[RenderPlan]]:
        yield await self.missing(plans)

    async def finish(self, plans: Sequence[RenderPlan]) -> list[FinalResult]:
        self.asked.append(list(plans))
        await self.leave.acquire()
        if self.failure is not None:
            raise self.failure
        self.present |= {plan.variant.digest for plan in plans}
        return [FinalResult(plan, self.result, length=40) for plan in plans]

    async def stored(self, media_id: int) -> AbstractSet[str]:
        del media_id
        return frozenset()

    async def retire(self, plan: RenderPlan, stored: AbstractSet[str]) -> int:
        del stored
        self.retired.append(plan)
        return 100

    async def had(self, count: int) -> list[int]:
        """The media of the first ``count`` wishes that came to be done."""
        async with asyncio.timeout(5):
            while len(self.asked) < count:  # noqa: ASYNC110 - a fake has no event for each
                await asyncio.sleep(0)
        return [plans[0].media.id for plans in self.asked[:count]]


class Notes:
    """What telemetry was told."""

    def __init__(self) -> None:
        self.upgrades: list[tuple[Format, float, int]] = []
        self.missed = 0

    def upgraded(self, fmt: Format, *, seconds: float, lag_s: float, saved: int) -> None:
        assert seconds >= 0
        self.upgrades.append((fmt, lag_s, saved))

    def missed_target(self) -> None:
        self.missed += 1


class Desk:
    """An upgrader with all that it works with."""

    def __init__(self, **settings: object) -> None:
        self.now = 100.0
        self.finals = Finals()
        self.notes = Notes()
        self.costs = EncodeCostModel()
        self.learned: list[int] = []
        self.upgrader = UpgradeQueue(
            settings=UpgradeSettings.model_validate({"all_sizes": False, **settings}),
            pool=nullcontext(),
            renderer=cast("Any", self.finals),
            planner=PLANNER,
            costs=self.costs,
            telemetry=cast("Any", self.notes),
            learn=self._learn,
            supervisor=TaskSupervisor(clock=lambda: self.now),
        )

    async def _learn(self, media_id: int) -> None:
        self.learned.append(media_id)

    @property
    def counts(self) -> Mapping[str, float]:
        return self.upgrader.statistics()

    async def until_empty(self) -> None:
        async with asyncio.timeout(5):
            while self.counts["backlog"]:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)


@asynccontextmanager
async def working(desk: Desk) -> AsyncIterator[Desk]:
    async with desk.upgrader:
        yield desk


async def test_what_is_asked_for_most_often_comes_first_and_else_the_oldest() -> None:
    async with working(Desk()) as desk:
        desk.upgrader.request(wish(1))
        await desk.finals.had(1)
        for media_id in (2, 3, 4, 3, 4, 5, 4):
            desk.upgrader.request(wish(media_id))
        for _ in range(5):
            desk.finals.leave.release()
        assert await desk.finals.had(5) == [1, 4, 3, 2, 5]
        await desk.until_empty()


async def test_a_full_queue_forgets_what_is_new() -> None:
    async with working(Desk(max_backlog=2)) as desk:
        desk.upgrader.request(wish(1))
        await desk.finals.had(1)
        for media_id in (2, 3, 4, 2):
            desk.upgrader.request(wish(media_id))
        assert (desk.counts["backlog"], desk.counts["dropped"]) == (3, 1)
        for _ in range(3):
            desk.finals.leave.release()
        assert await desk.finals.had(3) == [1, 2, 3]


async def test_the_draft_goes_and_what_it_saved_is_told() -> None:
    async with working(Desk()) as desk:
        plan = wish(1)
        desk.upgrader.request(plan)
        await desk.finals.had(1)
        desk.now += 7.0
        desk.finals.leave.release()
        await desk.until_empty()
        assert desk.finals.retired == [plan]
        assert desk.notes.upgrades == [(Format.AVIF, 7.0, 60)]
        assert desk.costs.estimate_s(plan.variant) == pytest.approx(0.5)


async def test_what_is_there_already_is_not_made_again() -> None:
    async with working(Desk()) as desk:
        desk.finals.present.add(wish(1).variant.digest)
        desk.upgrader.request(wish(1))
        await desk.until_empty()
        assert desk.finals.asked == []


async def test_a_plan_of_one_stage_is_no_wish() -> None:
    desk = Desk()
    desk.upgrader.request(replace(wish(1), draft=None))
    assert desk.counts["backlog"] == 0


async def test_a_failure_is_counted_and_the_next_is_done() -> None:
    async with working(Desk()) as desk:
        desk.finals.failure = RenderTimeout("too long")
        desk.upgrader.request(wish(1))
        desk.finals.leave.release()
        await desk.finals.had(1)
        await desk.until_empty()
        assert desk.counts["failed"] == 1
        desk.finals.failure = None
        desk.upgrader.request(wish(2))
        desk.finals.leave.release()
        assert await desk.finals.had(2) == [1, 2]
        await desk.until_empty()
        assert desk.counts["failed"] == 1


async def test_a_source_that_has_changed_is_looked_at_again() -> None:
    async with working(Desk()) as desk:
        desk.finals.failure = SourceChanged("another file")
        desk.upgrader.request(wish(1))
        desk.finals.leave.release()
        await desk.finals.had(1)
        await desk.until_empty()
        assert desk.learned == [1]


class Late:
    """A pool of which no process comes up at first."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    async def __aenter__(self) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise ConfigurationError(["workers: no process came up"])

    async def __aexit__(self, *_: object) -> None: ...


async def test_a_worker_that_does_not_come_up_is_tried_again() -> None:
    desk = Desk()
    desk.upgrader._pool, desk.upgrader._retry_s = Late(2), 0.0
    async with working(desk):
        desk.upgrader.request(wish(1))
        assert await desk.finals.had(1) == [1]


async def test_an_unexpected_fault_ends_one_upgrade_and_not_all() -> None:
    async with working(Desk()) as desk:
        desk.finals.failure = OSError(24, "Too many open files")
        desk.upgrader.request(wish(1))
        desk.finals.leave.release()
        await desk.finals.had(1)
        await desk.until_empty()
        desk.finals.failure = None
        desk.upgrader.request(wish(2))
        desk.finals.leave.release()
        assert await desk.finals.had(2) == [1, 2]
        await desk.until_empty()
        assert desk.counts["failed"] == 1


async def test_the_wishes_for_a_medium_that_was_purged_are_forgotten() -> None:
    async with working(Desk(all_sizes=True)) as desk:
        desk.upgrader.request(wish(1))
        await desk.finals.had(1)
        for media_id in (2, 3):
            desk.upgrader.request(wish(media_id))
        desk.upgrader.forget(2)
        for _ in range(4):
            desk.finals.leave.release()
        await desk.until_empty()
        assert {plans[0].media.id for plans in desk.finals.asked} == {1, 3}


async def test_a_purge_reaches_the_request_whose_stored_files_are_being_listed() -> None:
    async with working(Desk(all_sizes=True)) as desk:
        listing, listed = asyncio.Event(), asyncio.Event()

        async def missing(plans: Sequence[RenderPlan]) -> list[RenderPlan]:
            listing.set()
            await listed.wait()
            return list(plans)

        desk.finals.missing = missing  # type: ignore[method-assign]
        desk.upgrader.request(wish(1))
        await asyncio.wait_for(listing.wait(), 5)
        desk.upgrader.forget(1)
        listed.set()
        await desk.until_empty()
        assert desk.finals.asked == []
        # Not remembered as complete: the next draft requests all sizes again.
        desk.finals.leave.release()
        desk.finals.leave.release()
        desk.upgrader.request(wish(1))
        await desk.until_empty()
        assert len(desk.finals.asked) == 2


async def test_an_image_purged_while_all_its_sizes_render_is_not_complete() -> None:
    async with working(Desk(all_sizes=True)) as desk:
        desk.upgrader.request(wish(1))
        desk.finals.leave.release()
        await desk.finals.had(2)
        desk.upgrader.forget(1)
        for _ in range(3):
            desk.finals.leave.release()
        await desk.until_empty()
        desk.finals.present.clear()
        desk.upgrader.request(wish(1, "size=grid"))
        await desk.until_empty()
        assert len(desk.finals.asked[-1]) > 1


async def test_a_target_that_was_missed_is_told() -> None:
    async with working(Desk()) as desk:
        desk.finals.result = RenderResult(1, 1, 1, target_missed=True)
        desk.upgrader.request(wish(1))
        desk.finals.leave.release()
        await desk.finals.had(1)
        await desk.until_empty()
        assert desk.notes.missed == 1


async def test_the_rest_of_a_picture_comes_after_all_that_was_asked_for_and_once() -> None:
    async with working(Desk(all_sizes=True)) as desk:
        for media_id in (1, 2):
            desk.upgrader.request(wish(media_id))
        for _ in range(4):
            desk.finals.leave.release()
        await desk.until_empty()
        assert [len(plans) for plans in desk.finals.asked[:2]] == [1, 1]
        rest = desk.finals.asked[2]
        assert {plan.request.box.name for plan in rest} == set(PLANNER.rules.sizes)
        assert {plan.variant.format for plan in rest} == {Format.AVIF, Format.WEBP, Format.JPEG}
        assert len({plan.variant.digest for plan in rest}) == len(rest)
        desk.upgrader.request(wish(1, "size=grid"))
        await desk.until_empty()
        assert len(desk.finals.asked) == 4


async def test_stopping_forgets_the_queue() -> None:
    desk = Desk()
    async with working(desk):
        for media_id in (1, 2, 3):
            desk.upgrader.request(wish(media_id))
        await desk.finals.had(1)
    assert desk.counts["backlog"] == 0
    assert len(desk.finals.asked) == 1


async def test_an_unforeseen_error_restarts_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, restarts = Desk(), Restarts()
    failures = iter([LookupError("unforeseen")])
    process_next = desk.upgrader._next

    async def fail_once() -> None:
        if error := next(failures, None):
            raise error
        await process_next()

    monkeypatch.setattr(desk.upgrader, "_next", fail_once)
    monkeypatch.setattr(desk.upgrader, "_supervisor", restarts.supervisor)
    async with working(desk):
        desk.upgrader.request(wish(1))
        assert await desk.finals.had(1) == [1]
    assert restarts.tasks == [BackgroundTask.FINALS_QUEUE]


async def test_renditions_of_another_recipe_are_remade_at_the_set_pace() -> None:
    async with working(Desk(remakes_per_minute=30)) as desk:
        for media_id in (1, 2, 3, 3):
            desk.upgrader.request(remake(media_id))
        for _ in range(3):
            desk.finals.leave.release()
        assert await desk.finals.had(1) == [3], "the most requested first"
        await desk.until_empty()
        desk.now += 1.9
        desk.upgrader.request(remake(2))
        await asyncio.sleep(0)
        assert (len(desk.finals.asked), desk.counts["remakes"]) == (1, 2)
        desk.now += 0.1
        # A request wakes the queue, as the timer does.
        desk.upgrader.request(remake(4))
        assert await desk.finals.had(2) == [3, 2]


async def test_finals_of_drafts_come_before_renditions_of_another_recipe() -> None:
    async with working(Desk(max_backlog=2)) as desk:
        desk.upgrader.request(remake(9))
        await desk.finals.had(1)
        desk.now += 3600
        for media_id in (10, 11, 12):
            desk.upgrader.request(remake(media_id))
        for media_id in (1, 2):
            desk.upgrader.request(wish(media_id))
        assert desk.counts["dropped"] == 0, "the one queue takes no place of the other"
        for _ in range(3):
            desk.finals.leave.release()
        assert await desk.finals.had(3) == [9, 1, 2]


async def test_a_rendition_of_another_recipe_is_remade_alone() -> None:
    # All sizes of all images would be rendered again, whether somebody requests them or not.
    async with working(Desk(all_sizes=True)) as desk:
        desk.upgrader.request(remake(1))
        desk.finals.leave.release()
        await desk.finals.had(1)
        await desk.until_empty()
        assert [len(plans) for plans in desk.finals.asked] == [1]
        assert desk.finals.asked[0][0].variant == wish(1).variant


async def test_without_a_pace_nothing_is_remade() -> None:
    async with working(Desk(remakes_per_minute=0)) as desk:
        desk.upgrader.request(remake(1))
        assert desk.counts["remakes"] == 0


async def test_a_purge_drops_requests_to_remake_an_image() -> None:
    desk = Desk()
    for media_id in (1, 2):
        desk.upgrader.request(remake(media_id))
    desk.upgrader.forget(1)
    assert desk.counts["remakes"] == 1
