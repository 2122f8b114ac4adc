"""The HTTP side of the rooms, with the metrics that watch them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from proxy.app.collectors import MetricSources, readings
from proxy.app.services import Services
from proxy.app.uploads import UploadServices
from proxy.domain.media import Media
from proxy.domain.query import parse_request
from proxy.settings import (
    NO_KEY_ADVICE,
    Settings,
    admin_key,
    has_local_uploads,
    media_api_key,
)
from proxy.storage.database.analysis_repository import AnalysisRepository
from proxy.storage.database.row_cache import CachedMediaRepository
from proxy.telemetry.logging import AccessLog
from proxy.web.auth.api_key import AuthFailure, FailureLimit, KeyGuard
from proxy.web.handlers.admin import AdminHandler
from proxy.web.handlers.analyses import AnalysisHandler
from proxy.web.handlers.health import HealthHandler
from proxy.web.handlers.images import ImageHandler
from proxy.web.handlers.info import InfoHandler
from proxy.web.handlers.oembed import OembedHandler
from proxy.web.handlers.page import PageHandler
from proxy.web.handlers.page_local import LocalPageHandler
from proxy.web.routes import Handlers, create_app
from proxy.web.server.request_pipeline import RequestPipeline
from proxy.web.server.response_cache import ResponseCache
from proxy.web.server.runner import ServerRunner
from proxy.web.static_files import read_files


@dataclass(frozen=True, slots=True)
class HttpServer:
    """The HTTP side of the rooms."""

    runner: ServerRunner
    health: HealthHandler
    access_log: AccessLog | None


def build_surface(rooms: Services, main: UploadServices | None = None) -> HttpServer:
    """Join the rooms, and the main side where there is one, with the HTTP surface and metrics."""
    settings, storage = rooms.settings, rooms.storage
    # The cache and the handler parse the same query of a miss: once, by way of this small cache.
    parse_query = lru_cache(maxsize=256)(partial(parse_request, sizes=settings.size_specs()))
    response_cache = ResponseCache(
        store=storage.store,
        metrics=rooms.metrics,
        fresh_until=_fresh_until(storage.database),
        parse_query=parse_query,
        order=settings.encoders.order,
        request_final=rooms.delivery.request_final,
    )
    storage.forgetters.append(response_cache.forget)
    health = HealthHandler(
        {
            "database": storage.database.ping,
            "storage": storage.sources.check,
            "renditions": storage.store.check,
            "workers": rooms.pool.check,
        }
    )
    hello = rooms.pool.hello
    rooms.metrics.build(libvips=hello.libvips, codecs={"libvips": hello.libvips, **hello.codecs})
    rooms.metrics.sandbox(hello.sandbox)
    pictures = ImageHandler(
        database=storage.database,
        delivery=rooms.delivery,
        response_cache=response_cache,
        load_shedder=rooms.load_shedder,
        telemetry=rooms.metrics,
        parse_query=parse_query,
        lifetimes=settings.lifetimes,
    )
    access_log = AccessLog(settings.log) if settings.log.access else None
    pipeline = RequestPipeline(
        response_cache=response_cache,
        metrics=rooms.metrics,
        access_log=access_log,
        tracing=rooms.tracing,
    )
    handlers = Handlers(
        images=pictures,
        health=health,
        metrics=rooms.metrics,
        admin=_admin(rooms),
        analyses=_analyses(rooms),
        info=_info(rooms),
        oembed=_oembed(rooms),
        page=PageHandler(read_files(), order=settings.encoders.order),
        page_local=_page_local(settings, main),
        uploads=None if main is None else main.uploads(rooms.metrics),
        media_api=None if main is None else main.media_api(rooms.metrics),
    )
    app = create_app(settings, handlers)
    runner = ServerRunner(
        app, pipeline, settings.server, rooms.loop_lag, supervisor=rooms.supervisor
    )
    rooms.metrics.watch(readings(_statistics(rooms, runner)))
    return HttpServer(runner, health, access_log)


def _admin(rooms: Services) -> AdminHandler | None:
    section = rooms.settings.admin
    if not section.enabled:
        return None
    guard = KeyGuard(
        admin_key(section),
        advice=f"no key is set: {NO_KEY_ADVICE}",
        limit=FailureLimit(max_failures=section.max_failures, window_s=section.failure_window_s),
        on_refusal=rooms.metrics.refusals(AuthFailure),
    )
    sizes = rooms.settings.size_specs()
    return AdminHandler(guard=guard, purger=rooms.storage.purger, sizes=sizes)


def _analyses(rooms: Services) -> AnalysisHandler:
    settings = rooms.settings
    guard = KeyGuard(
        media_api_key(settings.main, settings.key_directory),
        advice=f"no key is set: {NO_KEY_ADVICE}",
        limit=FailureLimit(
            max_failures=settings.admin.max_failures, window_s=settings.admin.failure_window_s
        ),
        on_refusal=rooms.metrics.refusals(AuthFailure),
    )
    return AnalysisHandler(
        guard=guard,
        database=rooms.storage.database,
        analyses=AnalysisRepository(rooms.storage.writer),
        retry_after_s=settings.lifetimes.not_ready_retry_s,
    )


def _info(rooms: Services) -> InfoHandler:
    server = rooms.settings.server
    return InfoHandler(
        database=rooms.storage.database,
        listing=rooms.storage.catalogue,
        delivery=rooms.delivery,
        describer=rooms.describer,
        planner=rooms.planner,
        lifetimes=rooms.settings.lifetimes,
        stall_s=server.header_timeout_s or server.keepalive_s,
    )


def _oembed(rooms: Services) -> OembedHandler:
    return OembedHandler(
        database=rooms.storage.database,
        inspector=rooms.inspector,
        public_url=rooms.settings.server.public_url,
        lifetimes=rooms.settings.lifetimes,
    )


def _page_local(settings: Settings, main: UploadServices | None) -> LocalPageHandler | None:
    """Only where nobody but who sits at this machine is served, and we sign the tokens."""
    if main is None or not has_local_uploads(settings):
        return None
    return LocalPageHandler(key=main.token_key, users=settings.users, database=main.queue.database)


def _fresh_until(database: CachedMediaRepository) -> Callable[[Media], float]:
    def until(media: Media) -> float:
        known = database.peek(media.id)
        if known is None or known[0].updated_at != media.updated_at:
            return 0.0
        return known[1]

    return until


def _statistics(rooms: Services, runner: ServerRunner) -> MetricSources:
    return MetricSources(
        connections=runner.connection_limiter.statistics,
        admission=rooms.admission.statistics,
        pool=rooms.pool.statistics,
        delivery=rooms.delivery.statistics,
        upgrader=rooms.upgrader.statistics,
        originals=rooms.storage.sources.statistics,
        queries=rooms.storage.catalogue.statistics,
        rows=rooms.storage.database.statistics,
        store=rooms.storage.store,
        ingest=rooms.watch.statistics,
        spans=rooms.tracing.statistics,
        uploads=rooms.occupancy.statistics,
        deadlines=rooms.deadlines.statistics,
    )
