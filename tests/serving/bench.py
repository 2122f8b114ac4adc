"""A delivery with its renderer over a memory store; the workers and the facts are replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.domain.errors import SmartserveError
from proxy.domain.media import Media, MediaFacts
from proxy.domain.render_plan import RenderPlan, RenderPlanner, RenderRules
from proxy.domain.request import parse_request
from proxy.domain.variant import Variant
from proxy.domain.worker_protocol import RenderOutput, RenderResult, RenditionSet
from proxy.domain.worker_protocol import RenditionSetResult as SetResult
from proxy.serving.delivery import Delivery, DeliveryResult
from proxy.serving.job_dispatch import JobResult, output_of
from proxy.serving.render_lease import RenderLeases
from proxy.serving.renderer import EncodeCostModel, Renderer
from proxy.settings import Settings
from proxy.storage.renditions.tiered_store import TieredStore
from proxy.telemetry.metrics import Metrics
from tests.support.memory_renditions import memory_renditions
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
BEFORE = RenderPlanner(replace(PLANNER.rules, recipe="r0"))
"""The planner of a server with another recipe."""
BODY = b"rendition"


def a_plan(
    query: str = "size=thumbnail", accept: str = "image/avif", *, planner: RenderPlanner = PLANNER
) -> RenderPlan:
    request = parse_request(query, sizes=PLANNER.rules.sizes)
    return planner.plan(MEDIA, FACTS, request, accept)


class Jobs:
    """Renders when the test lets it, and records what it was given."""

    def __init__(self) -> None:
        self.outputs: list[RenderOutput] = []
        self.body = BODY
        self.go = asyncio.Event()
        self.error: SmartserveError | None = None
        self.rejection: SmartserveError | None = None

    def check(self, _media: Media) -> None:
        if self.rejection is not None:
            raise self.rejection

    async def run_checked(
        self,
        _media: Media,
        job: RenditionSet,
        sink: Callable[[bytes], None],
        *,
        facts: MediaFacts,
        on_start: Callable[[float], None],
    ) -> JobResult[SetResult]:
        assert facts == FACTS
        self.outputs += job.outputs
        on_start(0.5)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        sink(self.body)
        return JobResult(SetResult((RenderResult(8, 8, 1, cpu_s=0.1),)), 0.5, 0.1)


class Facts:
    """Learns the facts of a source, or fails to."""

    def __init__(self) -> None:
        self.error: SmartserveError | None = None

    async def learn(self, _media: Media) -> MediaFacts:
        if self.error is not None:
            raise self.error
        return FACTS


@dataclass
class Bench:
    """The services under test with their replaced collaborators."""

    store: TieredStore = field(default_factory=memory_renditions)
    jobs: Jobs = field(default_factory=Jobs)
    facts: Facts = field(default_factory=Facts)
    costs: EncodeCostModel = field(default_factory=EncodeCostModel)
    finals: list[RenderPlan] = field(default_factory=list)
    leases: RenderLeases | None = None
    renderer: Renderer = field(init=False)
    delivery: Delivery = field(init=False)

    def __post_init__(self) -> None:
        replaced: dict[str, Any] = {"facts": self.facts, "dispatcher": self.jobs}
        store: Any = self.store
        self.renderer = Renderer(
            store=store,
            telemetry=Metrics(),
            costs=self.costs,
            rules=PLANNER.rules,
            budget_s=1.0,
            leases=self.leases,
            **replaced,
        )
        del replaced["dispatcher"]
        self.delivery = Delivery(
            store=store,
            renderer=self.renderer,
            planner=PLANNER,
            upgrade=self.finals.append,
            **replaced,
        )

    def fetch(self, plan: RenderPlan) -> asyncio.Task[DeliveryResult]:
        return asyncio.create_task(self.delivery.fetch(plan))

    async def fetched(self, plan: RenderPlan) -> DeliveryResult:
        self.jobs.go.set()
        return await self.delivery.fetch(plan)

    def rendered(self, *variants: Variant) -> bool:
        """Return whether exactly these variants were rendered, in this order."""
        return self.jobs.outputs == [output_of(one) for one in variants]


async def turns(done: Callable[[], object]) -> None:
    """Let other tasks run until a condition holds."""
    for _ in range(1000):
        if done():
            return
        await asyncio.sleep(0)
    raise TimeoutError
