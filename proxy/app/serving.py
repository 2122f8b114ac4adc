"""Builds the serving subsystem, which finds or renders the rendition for a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from proxy.app.rendering import RenderingServices
from proxy.app.storage import StorageServices
from proxy.app.workers import face_worker
from proxy.domain.render_plan import RenderPlanner
from proxy.domain.signature import MediaAccess, Refusal
from proxy.rendering.pool.on_demand import OnDemandPool
from proxy.runtime.redis import RedisLink
from proxy.runtime.supervised_task import BackgroundTask, TaskSupervisor
from proxy.serving.delivery import Delivery
from proxy.serving.faces import FaceFinder
from proxy.serving.finals.queue import UpgradeQueue
from proxy.serving.finals.renderer import FinalRenderer
from proxy.serving.image_info import ImageInfoService
from proxy.serving.redis_lease import RedisLeases
from proxy.serving.render_lease import DirectoryLeases, RenderLeases
from proxy.serving.renderer import EncodeCostModel, Renderer
from proxy.serving.source_facts import SourceFactsService
from proxy.serving.stored_lookup import StoredLookup
from proxy.serving.warm import RenditionWarmer
from proxy.settings import Settings, url_keys
from proxy.telemetry.metrics import Metrics
from proxy.web.server.load_shedding import LoadShedder

_REVALIDATE_EVERY_S = 30.0
"""Interval at which originals that are due for a check are looked for."""


@dataclass(frozen=True, slots=True)
class ServingServices:
    """The services that plan, find, render and replace renditions."""

    planner: RenderPlanner
    facts: SourceFactsService
    renderer: Renderer
    delivery: Delivery
    finals_queue: UpgradeQueue
    finals: FinalRenderer
    """Renders finals of uploads and of `warm`, with the workers of the main pool."""
    image_info: ImageInfoService
    warmer: RenditionWarmer
    load_shedder: LoadShedder
    stored_lookup: StoredLookup
    faces: FaceFinder | None
    """None if no faces are detected."""
    access: MediaAccess
    leases: RenderLeases | None
    """None if no other process uses the renditions."""


@asynccontextmanager
async def open_serving(
    settings: Settings,
    storage: StorageServices,
    rendering: RenderingServices,
    *,
    metrics: Metrics,
    supervisor: TaskSupervisor,
) -> AsyncIterator[ServingServices]:
    """Build the services, and end the work under way after the block.

    Raises:
        ConfigurationError: a key of signed URLs cannot be read.
    """
    access = MediaAccess(
        # In a thread, because it may read files.
        await asyncio.to_thread(url_keys, settings.access),
        settings.access.visibility_by_type(),
        ttl_s=settings.access.ttl_s,
        on_refusal=metrics.signature_refusals(Refusal),
    )
    faces = _open_faces(settings, storage, rendering, supervisor)
    leases = open_leases(settings, storage.redis)
    services = _build(settings, storage, rendering, metrics, supervisor, faces, access, leases)
    # A purged or replaced image must not be rendered from its old facts.
    forget = (services.finals_queue.forget, services.image_info.forget)
    storage.invalidators.extend(forget if leases is None else (*forget, leases.forget))
    # The queue of finals is closed last: deliveries that end until then may still request finals.
    async with (
        nullcontext() if faces is None else aclosing(faces),
        nullcontext() if leases is None else aclosing(leases),
        services.finals_queue,
        aclosing(services.facts),
        aclosing(services.image_info),
        aclosing(services.renderer),
        aclosing(services.stored_lookup),
        services.load_shedder.measuring_lag(),
        _revalidating(settings, storage, services.facts, supervisor),
    ):
        yield services


def _revalidating(
    settings: Settings,
    storage: StorageServices,
    facts: SourceFactsService,
    supervisor: TaskSupervisor,
) -> AbstractAsyncContextManager[object]:
    """Check the originals of other web servers for changes while the block runs."""
    originals, interval_s = storage.http_originals, settings.http.revalidate_s
    if originals is None or not interval_s:
        return nullcontext()
    # Imported only if a row may have such an original.
    from proxy.serving.source_revalidation import SourceRevalidator  # noqa: PLC0415

    revalidator = SourceRevalidator(
        rows=storage.database,
        originals=originals,
        facts=facts,
        changed=storage.changed,
        interval_s=interval_s,
    )
    every_s = min(interval_s, _REVALIDATE_EVERY_S)
    return supervisor.running(
        BackgroundTask.SOURCE_REVALIDATION,
        revalidator.run,
        every_s=every_s,
        first_after_s=every_s,
    )


def _build(
    settings: Settings,
    storage: StorageServices,
    rendering: RenderingServices,
    metrics: Metrics,
    supervisor: TaskSupervisor,
    faces: FaceFinder | None,
    access: MediaAccess,
    leases: RenderLeases | None,
) -> ServingServices:
    # Renders for clients and finals teach one model what an encode costs.
    rules, costs = rendering.rules, EncodeCostModel()
    planner = RenderPlanner(rules, storage.epochs)
    facts = SourceFactsService(
        database=storage.database, dispatcher=rendering.dispatcher, limits=rules.limits
    )

    async def learn_again(media_id: int) -> None:
        # Not from the row cache: the final failed because the cached facts are outdated.
        storage.database.invalidate(media_id)
        media = await storage.database.find(media_id)
        if media is not None and media.servable:
            await facts.learn(media)

    new_finals = partial(
        FinalRenderer,
        store=storage.renditions,
        limits=rules.limits,
        copyright_notice=rules.copyright_notice,
        deadline_s=settings.upgrades.deadline_s,
        faces=faces,
        leases=leases,
    )
    finals_queue = UpgradeQueue(
        settings=settings.upgrades,
        pool=rendering.background_pool,
        renderer=new_finals(dispatcher=rendering.background_dispatcher),
        planner=planner,
        costs=costs,
        telemetry=metrics,
        learn=learn_again,
        supervisor=supervisor,
    )
    image_info = ImageInfoService(
        dispatcher=rendering.dispatcher,
        facts=facts,
        analyses=storage.analyses,
        alt_texts=storage.alt_texts,
        limits=rules.limits,
    )
    renderer = Renderer(
        store=storage.renditions,
        dispatcher=rendering.dispatcher,
        facts=facts,
        telemetry=metrics,
        costs=costs,
        rules=rules,
        budget_s=settings.upgrades.budget_s,
        leases=leases,
    )
    delivery = Delivery(
        store=storage.renditions,
        facts=facts,
        renderer=renderer,
        planner=planner,
        faces=faces,
        upgrade=finals_queue.request,
    )
    # Uploads and `warm` wait for their finals, so they use the main pool at normal priority.
    finals = new_finals(dispatcher=rendering.upload_dispatcher)
    repository = storage.repository
    return ServingServices(
        planner=planner,
        facts=facts,
        renderer=renderer,
        delivery=delivery,
        finals_queue=finals_queue,
        finals=finals,
        image_info=image_info,
        warmer=RenditionWarmer(
            database=storage.database,
            facts=facts,
            planner=planner,
            renderer=finals,
        ),
        load_shedder=LoadShedder(rendering.admission, metrics.loop_lag),
        stored_lookup=StoredLookup(
            rows=storage.database,
            read_rows=repository.find_blocking if repository.reads_in_threads else None,
            planner=planner,
            store=storage.renditions,
            access=access,
        ),
        access=access,
        faces=faces,
        leases=leases,
    )


def open_leases(settings: Settings, redis: RedisLink | None) -> RenderLeases | None:
    """Return leases on renders, if other processes may render the same images."""
    if not settings.renders_once:
        return None
    # Processes that share the directory still exclude each other while Redis fails.
    locks = DirectoryLeases(str(settings.rendition_directory))
    return RenderLeases(locks) if redis is None else RenderLeases(RedisLeases(redis), locks)


def _open_faces(
    settings: Settings,
    storage: StorageServices,
    rendering: RenderingServices,
    supervisor: TaskSupervisor,
) -> FaceFinder | None:
    """Return what detects faces, if that is possible; its process starts with the first image."""
    if not rendering.rules.detects_faces:
        return None
    processes = OnDemandPool(face_worker(settings, supervisor), idle_s=settings.faces.idle_s)
    return FaceFinder(
        media=storage.repository,
        rows=storage.database,
        dispatcher=rendering.dispatcher_of(processes.pool),
        processes=processes,
        limits=rendering.rules.limits,
        wait_s=settings.faces.wait_s,
    )
