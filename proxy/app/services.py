"""Everything that works, joined: workers and use cases over the storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from proxy.analysis.analyst import Analyst
from proxy.analysis.providers.factory import open_providers
from proxy.analysis.providers.tesseract import TextReader
from proxy.app.startup_checks import check_worker
from proxy.app.storage import StorageServices, open_storage
from proxy.domain.render_plan import RenderPlanner, RenderRules
from proxy.domain.variant import recipe
from proxy.domain.worker_protocol import Limits, WorkerInfo
from proxy.ingest.queue_metrics import QueueMetrics
from proxy.ingest.step_retry import StepTimeouts
from proxy.library.adoption.fallback_renditions import FallbackRenderer
from proxy.library.import_files import FileImporter
from proxy.rendering.pool.admission import Admission, WorkerUsage
from proxy.rendering.pool.failure_cache import FailureCache
from proxy.rendering.pool.pool import WorkerPool
from proxy.runtime.min_versions import FLOORS
from proxy.runtime.supervised_task import UNCOUNTED, TaskSupervisor
from proxy.serving.delivery import Delivery
from proxy.serving.finals.queue import UpgradeQueue
from proxy.serving.finals.renderer import FinalRenderer
from proxy.serving.image_info import ImageInfoService
from proxy.serving.job_dispatch import JobDispatcher
from proxy.serving.renderer import EncodeCostModel, Renderer
from proxy.serving.source_check import SourceChecker
from proxy.serving.source_facts import SourceFactsService
from proxy.serving.warm import RenditionWarmer
from proxy.settings import Settings
from proxy.storage.database.analysis_repository import AnalysisRepository
from proxy.storage.database.ingest_report import queue_report
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.tracing import OFF, Tracing
from proxy.web.server.load_shedding import LoadShedder, LoopLagMonitor


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that works, joined."""

    settings: Settings
    storage: StorageServices
    pool: WorkerPool
    admission: Admission
    inspector: SourceFactsService
    delivery: Delivery
    importer: FileImporter
    checker: SourceChecker
    reserve: FallbackRenderer
    warmer: RenditionWarmer
    metrics: Metrics
    tracing: Tracing
    supervisor: TaskSupervisor
    upgrader: UpgradeQueue
    background: WorkerPool
    workshop: JobDispatcher
    """For pictures that come in, not for those that visitors ask for."""
    occupancy: WorkerUsage
    """Of the workers, by pictures that come in."""
    limits: Limits
    loop_lag: LoopLagMonitor
    """Of the loop; beats while the server listens."""
    load_shedder: LoadShedder
    planner: RenderPlanner
    finisher: FinalRenderer
    """For pictures that come in, by the workers of visitors and not those of the background."""
    describer: ImageInfoService
    watch: QueueMetrics
    """Of the ingest queue."""
    deadlines: StepTimeouts
    """Of a worker in this process."""
    woken: asyncio.Event
    """Set where an upload has come in here: it ends the rest of a worker in this process."""


async def ask_worker(settings: Settings) -> WorkerInfo:
    """What a worker says of itself; it is started for that and ended again.

    Raises:
        ConfigurationError: none comes up.
    """
    async with one_worker(settings) as pool:
        return pool.hello


def one_worker(settings: Settings) -> WorkerPool:
    """A pool of a single worker, like those that render; to be entered and left."""
    workers = settings.workers.model_copy(update={"count": 1})
    return _pool(settings.model_copy(update={"workers": workers}))


@asynccontextmanager
async def open_rooms(
    settings: Settings, *, tracing: Tracing = OFF, floors: Mapping[str, str] = FLOORS
) -> AsyncIterator[Services]:
    """Open everything and start the workers; end what is under way and close it in the end.

    ``tracing`` is the caller's, and lasts longer.

    Raises:
        ConfigurationError: the settings or the machine are not fit, or libvips is below its floor.
    """
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        supervisor = TaskSupervisor(metrics.background_restarted)
        storage = await stack.enter_async_context(open_storage(settings, supervisor))
        pool = await stack.enter_async_context(_pool(settings, supervisor))
        check_worker(pool.hello, floors)
        rooms = _join(settings, storage, pool, tracing, metrics, supervisor)
        await stack.enter_async_context(rooms.upgrader)
        stack.push_async_callback(rooms.inspector.aclose)
        stack.push_async_callback(rooms.describer.aclose)
        stack.push_async_callback(rooms.deadlines.aclose)
        stack.push_async_callback(rooms.delivery.aclose)
        stack.callback(rooms.admission.close)
        yield rooms


def _join(
    settings: Settings,
    storage: StorageServices,
    pool: WorkerPool,
    tracing: Tracing,
    metrics: Metrics,
    supervisor: TaskSupervisor,
) -> Services:
    admission = Admission(settings.workers)
    workshop = _workshop(settings, storage, pool, admission)
    costs = EncodeCostModel()
    loop_lag = LoopLagMonitor(metrics.loop_lag)
    load_shedder = LoadShedder(admission, loop_lag)
    rules = _rules(settings, pool.hello)
    occupancy = WorkerUsage()
    uploads = workshop.counted_by(occupancy)
    checker = _checker(settings, rules, uploads)
    planner = RenderPlanner(rules)
    inspector = SourceFactsService(
        database=storage.database, workshop=workshop, limits=rules.limits
    )
    background = _background(settings, supervisor)
    idle = _workshop(settings, storage, background, Admission(settings.workers))
    finals = _finisher(settings, rules, storage, idle)
    upgrader = UpgradeQueue(
        settings=settings.upgrades,
        pool=background,
        finisher=finals,
        planner=planner,
        costs=costs,
        telemetry=metrics,
        learn=_learner(storage, inspector),
        supervisor=supervisor,
    )
    storage.forgetters.append(upgrader.forget)
    finisher = _finisher(settings, rules, storage, uploads)
    describer = ImageInfoService(
        workshop=workshop,
        inspector=inspector,
        known=AnalysisRepository(storage.writer),
        limits=rules.limits,
    )
    storage.forgetters.append(describer.forget)
    renderer = Renderer(
        dispatcher=workshop,
        facts=inspector,
        telemetry=metrics,
        costs=costs,
        rules=rules,
    )
    delivery = Delivery(
        store=storage.store,
        inspector=inspector,
        renderer=renderer,
        telemetry=metrics,
        planner=planner,
        budget_s=settings.upgrades.budget_s,
        upgrade=upgrader.ask,
        pressure=load_shedder.reject,
    )
    return Services(
        settings=settings,
        storage=storage,
        pool=pool,
        admission=admission,
        inspector=inspector,
        delivery=delivery,
        importer=FileImporter(
            catalogue=storage.catalogue, originals=storage.sources, checker=checker
        ),
        checker=checker,
        reserve=FallbackRenderer(
            database=storage.catalogue,
            planner=planner,
            finals=finisher,
        ),
        warmer=RenditionWarmer(
            database=storage.database,
            inspector=inspector,
            planner=planner,
            finisher=finisher,
        ),
        metrics=metrics,
        tracing=tracing,
        supervisor=supervisor,
        upgrader=upgrader,
        background=background,
        workshop=uploads,
        occupancy=occupancy,
        limits=rules.limits,
        loop_lag=loop_lag,
        load_shedder=load_shedder,
        planner=planner,
        finisher=finisher,
        describer=describer,
        watch=QueueMetrics(partial(queue_report, storage.writer)),
        deadlines=StepTimeouts(settings.ingest),
        woken=asyncio.Event(),
    )


@asynccontextmanager
async def open_analyst(rooms: Services) -> AsyncIterator[Analyst]:
    """Who tells what is known of a picture, with the providers that have a key.

    Raises:
        ConfigurationError: a key file cannot be read.
    """
    section = rooms.settings.vision
    async with open_providers(section) as providers:
        yield Analyst(
            dispatcher=rooms.workshop,
            limits=rooms.limits,
            providers=providers,
            reader=TextReader(section.text),
            image_side=section.image_side,
        )


def _checker(
    settings: Settings,
    rules: RenderRules,
    dispatcher: JobDispatcher,
) -> SourceChecker:
    return SourceChecker(
        dispatcher=dispatcher,
        limits=rules.limits,
        max_bytes=settings.storage.max_original_bytes,
    )


def _learner(
    storage: StorageServices, inspector: SourceFactsService
) -> Callable[[int], Awaitable[None]]:
    async def learn(media_id: int) -> None:
        media = await storage.current(media_id)
        if media is not None and media.servable:
            await inspector.learn(media)

    return learn


def _workshop(
    settings: Settings,
    storage: StorageServices,
    pool: WorkerPool,
    admission: Admission,
) -> JobDispatcher:
    """A way from pictures to the workers of a pool, with a quarantine of its own."""
    failures = FailureCache(
        failure_s=settings.lifetimes.failure_s, quarantine_s=settings.workers.quarantine_s
    )
    return JobDispatcher(sources=storage.sources, pool=pool, admission=admission, failures=failures)


def _finisher(
    settings: Settings,
    rules: RenderRules,
    storage: StorageServices,
    workshop: JobDispatcher,
) -> FinalRenderer:
    return FinalRenderer(
        store=storage.store,
        dispatcher=workshop,
        limits=rules.limits,
        copyright_notice=rules.copyright_notice,
        deadline_s=settings.upgrades.deadline_s,
    )


def _pool(settings: Settings, supervisor: TaskSupervisor = UNCOUNTED) -> WorkerPool:
    return WorkerPool(
        settings.workers,
        source_types=settings.limits.source_types,
        max_output_bytes=settings.renditions.max_rendition_bytes,
        max_cpu_s=_max_cpu_s(settings),
        supervisor=supervisor,
    )


def _background(settings: Settings, supervisor: TaskSupervisor) -> WorkerPool:
    """One worker at idle priority."""
    return WorkerPool(
        settings.workers.model_copy(update={"count": 1}),
        source_types=settings.limits.source_types,
        max_output_bytes=settings.renditions.max_rendition_bytes,
        max_cpu_s=_max_cpu_s(settings),
        idle=True,
        supervisor=supervisor,
    )


def _max_cpu_s(settings: Settings) -> float:
    """Beyond every deadline: it is for a server that is not there to see to them."""
    return 2 * max(settings.workers.deadline_s, settings.upgrades.deadline_s)


def _rules(settings: Settings, hello: WorkerInfo) -> RenderRules:
    """What decides a variant; of the types that the settings allow, those that libvips opens."""
    limits = settings.limits.to_limits()
    loadable = tuple(kind for kind in limits.source_types if kind in hello.source_types)
    notice = settings.encoders.copyright or None
    encoders = settings.encoders
    return RenderRules(
        stages=encoders.stages(finals=settings.upgrades.enabled),
        order=settings.encoders.order,
        sizes=settings.size_specs(),
        limits=replace(limits, source_types=loadable),
        recipe=recipe(hello.libvips, copyright_notice=notice),
        copyright_notice=notice,
        prefer_smallest=encoders.prefer_smallest,
    )
