"""Builds the HTTP server: handlers, request pipeline and the metrics of all subsystems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

from proxy.app.metadata import MetadataServices, metadata_statistics
from proxy.app.services import Services
from proxy.app.uploads import UploadServices, failure_limit, new_guard
from proxy.domain.render_plan import PurgeEpochs, RenderPlan
from proxy.domain.request import parse_request
from proxy.ingest.uploads.preview import UploadPreviews
from proxy.runtime.redis import UNUSED
from proxy.serving.faces import NO_DETECTIONS
from proxy.serving.near_duplicates import NearDuplicateSearch
from proxy.serving.render_lease import NO_WAITS
from proxy.settings import (
    Settings,
    admin_key,
    forward_target,
    has_local_uploads,
    media_api_key,
    token_key,
)
from proxy.storage.database.row_cache import CachedMediaRepository
from proxy.telemetry.logging import OUTPUT, AccessLog
from proxy.telemetry.metrics import Statistics
from proxy.telemetry.service_metrics import ServiceCollector
from proxy.web.auth import AuthFailure, KeyGuard, KeyHolders, TokenVerifier
from proxy.web.forward import MediaForwarder
from proxy.web.handlers.admin import AdminHandler
from proxy.web.handlers.choices import ChoicesHandler
from proxy.web.handlers.forwarding import ForwardedImages
from proxy.web.handlers.health import (
    ApiHealthHandler,
    Exposition,
    HealthHandler,
    ServerInfoHandler,
)
from proxy.web.handlers.images import ImageHandler
from proxy.web.handlers.info import InfoHandler
from proxy.web.handlers.media_api import AnalysisHandler
from proxy.web.handlers.metadata import MetadataHandler, MetadataHealthHandler
from proxy.web.handlers.metadata_jobs import MetadataCacheHandler, MetadataJobsHandler
from proxy.web.handlers.metadata_moderation import ModerationHandler
from proxy.web.handlers.metadata_search import MetadataSearchHandler
from proxy.web.handlers.metadata_sockets import MetadataSocketHandler, OpenSockets
from proxy.web.handlers.oembed import OembedHandler
from proxy.web.handlers.original import OriginalHandler
from proxy.web.handlers.page import LocalPageHandler, PageHandler
from proxy.web.media_server import MediaServer
from proxy.web.metadata_files import StoredFiles
from proxy.web.metadata_input import CallerGuard, FormReceiver
from proxy.web.routes import create_app, describe
from proxy.web.server.request_pipeline import RequestPipeline
from proxy.web.server.response_cache import ResponseCache, StoredImages
from proxy.web.server.runner import ServerRunner


@dataclass(frozen=True, slots=True)
class HttpServer:
    """The HTTP server, not listening yet."""

    runner: ServerRunner
    health: HealthHandler
    access_log: AccessLog | None
    forwarder: MediaForwarder | None
    """Forwards to the media server, if there is one."""


def build_http_server(
    services: Services,
    uploads: UploadServices | None = None,
    *,
    exposition: Exposition | None = None,
) -> HttpServer:
    """Build the server; with ``uploads`` it also has the routes for uploads and their queue.

    ``exposition`` returns the metrics of several processes; by default those of this one.
    """
    settings, storage = services.settings, services.storage
    # On a miss, the response cache and the handler parse the same query: this cache parses it once.
    parse_query = lru_cache(maxsize=256)(partial(parse_request, sizes=settings.size_specs()))
    forwarder = None if uploads is None else _forwarder(services, uploads)
    # A media server answers for images that are stored here as well: its handler decides.
    stored = None
    if forwarder is None:
        serving = services.serving
        stored = StoredImages(serving.stored_lookup, settings.lifetimes, serving.load_shedder)
    response_cache = ResponseCache(
        store=storage.renditions,
        metrics=services.metrics,
        fresh_until=_fresh_until(storage.database, storage.epochs),
        parse_query=parse_query,
        order=settings.encoders.order,
        client_hints=settings.client_hints.enabled,
        request_final=services.serving.delivery.request_final,
        stored=stored,
    )
    # A purged or changed image must not be served from the response cache.
    storage.invalidators.append(response_cache.forget)
    storage.purger.resets.append(response_cache.clear)
    # Nor from a response that is being made, which has the old key.
    storage.purger.resets.append(storage.database.purged_many)
    health = HealthHandler(
        {
            "database": storage.repository.ping,
            "storage": storage.originals.check,
            "renditions": storage.renditions.check,
            "purges": storage.purge_feed.check,
            "workers": services.rendering.pool.check,
        }
    )
    # Only workers report versions of libvips: the server process never loads it.
    services.metrics.worker(services.rendering.pool.hello)
    images_handler = ImageHandler(
        database=storage.database,
        delivery=services.serving.delivery,
        response_cache=response_cache,
        load_shedder=services.serving.load_shedder,
        telemetry=services.metrics,
        parse_query=parse_query,
        lifetimes=settings.lifetimes,
        access=services.serving.access,
        forwarded=None if forwarder is None else ForwardedImages(forwarder, settings.lifetimes),
    )
    access_log = AccessLog(settings.log) if settings.log.access else None
    pipeline = RequestPipeline(
        response_cache=response_cache,
        metrics=services.metrics,
        access_log=access_log,
        tracing=services.tracing,
    )
    handlers: list[object] = [
        images_handler,
        health,
        ServerInfoHandler(exposition or services.metrics.expose, partial(describe, settings)),
        _admin(services),
        _choices(services),
        _original(services),
        _analyses(services, forwarder),
        _info(services),
        _oembed(services),
        PageHandler(settings.encoders.order, client_hints=settings.client_hints.enabled),
        _page_local(services, uploads),
    ]
    previews: UploadPreviews | None = None
    if uploads is not None:
        previews = UploadPreviews(
            queue=uploads.queue,
            dispatcher=services.rendering.dispatcher,
            planner=services.serving.planner,
        )
        handlers += [
            # Not those of the settings: a worker would reject and delete what it cannot decode.
            uploads.uploads(services.metrics, services.rendering.rules.limits.source_types),
            uploads.media_api(services.metrics, previews, parse_query),
        ]
    metadata = services.metadata
    sockets = OpenSockets(
        max_sockets=settings.metadata.sockets, max_per_user=settings.metadata.sockets_per_user
    )
    extraction_health: MetadataHealthHandler | None = None
    if metadata is not None:
        callers = _callers(services)
        extraction_health = MetadataHealthHandler(metadata.extractor)
        handlers += _metadata_files(services, metadata, uploads, callers, sockets)
        handlers += _metadata_jobs(services, metadata, callers)
        handlers.append(MetadataSearchHandler(callers=callers, store=storage.metadata))
        handlers.append(extraction_health)
    handlers.append(ApiHealthHandler(health, _state_of(extraction_health)))
    app = create_app(settings, handlers)
    app.on_shutdown.append(sockets.close)
    if previews is not None:
        app.on_cleanup.append(lambda _: previews.aclose())
    if forwarder is not None:
        storage.invalidators.append(forwarder.forget)
        app.on_cleanup.append(lambda _: forwarder.aclose())
    runner = ServerRunner(app, pipeline, settings.server, supervisor=services.supervisor)
    runner.on_drain.append(sockets.drain)
    if metadata is not None:
        runner.on_last_requests.append(metadata.extractor.drain)
    # Last, because the figures of the runner are among them.
    services.metrics.registry.register(ServiceCollector(_statistics(services, runner, sockets)))
    return HttpServer(runner, health, access_log, forwarder)


def _admin(services: Services) -> AdminHandler | None:
    settings = services.settings
    if not settings.admin.enabled:
        return None
    return AdminHandler(
        guard=new_guard(settings, services.metrics, admin_key(settings.admin)),
        purger=services.storage.purger,
        sizes=settings.size_specs(),
        database=services.storage.database,
        duplicates=NearDuplicateSearch(services.storage.analyses, services.serving.image_info),
    )


def _choices(services: Services) -> ChoicesHandler | None:
    settings, storage = services.settings, services.storage
    if not settings.admin.enabled:
        return None
    return ChoicesHandler(
        guard=new_guard(settings, services.metrics, admin_key(settings.admin)),
        database=storage.database,
        choices=storage.choices,
        alts=storage.alt_texts,
        purger=storage.purger,
        access=services.serving.access,
        sizes=settings.size_specs(),
        stall_s=settings.server.header_timeout_s or settings.server.keepalive_s,
    )


def _original(services: Services) -> OriginalHandler:
    settings, storage = services.settings, services.storage
    key = media_api_key(settings.main, settings.key_directory)
    return OriginalHandler(
        guard=new_guard(settings, services.metrics, key),
        viewers=_viewers(services),
        access=services.serving.access,
        database=storage.database,
        originals=storage.originals,
        dispatcher=services.rendering.dispatcher,
        lifetimes=settings.lifetimes,
    )


def _forwarder(services: Services, uploads: UploadServices) -> MediaForwarder | None:
    settings = services.settings
    target, derived = forward_target(settings)
    if not target:
        return None
    server = MediaServer(
        target,
        key=uploads.media_key,
        timeout_s=settings.main.forward_timeout_s,
        max_bytes=settings.storage.max_original_bytes,
    )
    return MediaForwarder(
        server,
        derived=derived,
        store=services.storage.renditions,
        results=uploads.results,
        fresh_s=settings.lifetimes.api_s,
        epochs=services.storage.epochs,
    )


def _analyses(services: Services, forwarder: MediaForwarder | None) -> AnalysisHandler:
    settings = services.settings
    key = media_api_key(settings.main, settings.key_directory)
    return AnalysisHandler(
        guard=new_guard(settings, services.metrics, key),
        database=services.storage.database,
        analyses=services.storage.analyses,
        describer=services.serving.image_info,
        embeddings=services.storage.embeddings,
        metadata=services.storage.metadata,
        access=services.serving.access,
        retry_after_s=settings.lifetimes.not_ready_retry_s,
        forwarder=forwarder,
    )


def _callers(services: Services) -> CallerGuard:
    settings, metrics = services.settings, services.metrics
    limit, refused = failure_limit(settings), metrics.refusals(AuthFailure)
    key = media_api_key(settings.main, settings.key_directory)
    return CallerGuard(
        settings.metadata,
        users=TokenVerifier(
            key=token_key(settings.users, settings.key_directory),
            section=settings.users,
            limit=limit,
            on_refusal=refused,
        ),
        media_key=KeyGuard(key=key, advice="", limit=limit, on_refusal=refused),
        public_url=settings.server.public_url,
    )


def _state_of(extraction: MetadataHealthHandler | None) -> Callable[[], str]:
    return (lambda: "disabled") if extraction is None else extraction.state


def _forms(settings: Settings, metadata: MetadataServices) -> FormReceiver:
    return FormReceiver(
        extractor=metadata.extractor,
        stall_s=settings.main.upload_stall_s,
        timeout_s=settings.metadata.upload_timeout_s,
    )


def _metadata_files(
    services: Services,
    metadata: MetadataServices,
    uploads: UploadServices | None,
    callers: CallerGuard,
    sockets: OpenSockets,
) -> list[object]:
    settings = services.settings
    forms = _forms(settings, metadata)
    files = StoredFiles(
        extractor=metadata.extractor,
        media=services.storage.database,
        media_extractor=metadata.media,
        uploads=None if uploads is None else uploads.queue,
    )
    return [
        MetadataHandler(
            callers=callers,
            forms=forms,
            extractor=metadata.extractor,
            progress=metadata.progress,
        ),
        MetadataSocketHandler(callers=callers, sockets=sockets, hub=metadata.progress, files=files),
        ModerationHandler(
            callers=callers,
            forms=forms,
            extractor=metadata.extractor,
            files=files,
            terms=settings.metadata.moderation_terms,
        ),
    ]


def _metadata_jobs(
    services: Services, metadata: MetadataServices, callers: CallerGuard
) -> list[object]:
    settings = services.settings
    jobs = MetadataJobsHandler(
        callers=callers,
        forms=_forms(settings, metadata),
        jobs=metadata.jobs,
        media=services.storage.database,
        stall_s=settings.main.upload_stall_s,
    )
    key = admin_key(settings.admin) if settings.admin.enabled else ""
    guard = new_guard(settings, services.metrics, key)
    return [jobs, MetadataCacheHandler(guard, metadata.cache)]


def _info(services: Services) -> InfoHandler:
    server = services.settings.server
    return InfoHandler(
        database=services.storage.database,
        listing=services.storage.repository,
        delivery=services.serving.delivery,
        describer=services.serving.image_info,
        planner=services.serving.planner,
        lifetimes=services.settings.lifetimes,
        language=server.language,
        # A body needs a deadline, even if 0 disables that of the head.
        stall_s=server.header_timeout_s or server.keepalive_s,
        access=services.serving.access,
        viewers=_viewers(services),
        local=services.settings.page.enabled == "auto",
    )


def _oembed(services: Services) -> OembedHandler:
    return OembedHandler(
        database=services.storage.database,
        describer=services.serving.image_info,
        language=services.settings.server.language,
        public_url=services.settings.server.public_url,
        lifetimes=services.settings.lifetimes,
        access=services.serving.access,
    )


def _viewers(services: Services) -> KeyHolders:
    """Return who may see private images: holders of the admin key or the media key."""
    settings = services.settings
    keys = [media_api_key(settings.main, settings.key_directory)]
    if settings.admin.enabled:
        keys.append(admin_key(settings.admin))
    return KeyHolders(tuple(new_guard(settings, services.metrics, key) for key in keys))


def _page_local(services: Services, uploads: UploadServices | None) -> LocalPageHandler | None:
    """Return the page for local uploads, if only this machine is served and signs the tokens."""
    settings = services.settings
    # The tokens that the page issues are valid for real uploads.
    if uploads is None or not has_local_uploads(settings):
        return None
    return LocalPageHandler(
        key=uploads.token_key,
        users=settings.users,
        database=uploads.queue.database,
        catalogue=services.storage.repository,
        access=services.serving.access,
    )


def _fresh_until(
    database: CachedMediaRepository, epochs: PurgeEpochs
) -> Callable[[RenderPlan], float]:
    def until(plan: RenderPlan) -> float:
        # Everything, or all images of a user, were purged after the plan was made.
        if plan.epochs != epochs.changes:
            return 0.0
        media = plan.media
        known = database.peek(media.id)
        # A cached response of an older row is never fresh, even if the row cache is. What people
        # decide, for example who may see it, does not change the date of the row.
        if known is None or known[0].updated_at != media.updated_at:
            return 0.0
        # A change of the choices does not change the row.
        if known[0].choices != media.choices:
            return 0.0
        return known[1]

    return until


def _statistics(
    services: Services, runner: ServerRunner, sockets: OpenSockets
) -> Mapping[str, Statistics]:
    storage, rendering, serving = services.storage, services.rendering, services.serving

    def by_tier() -> Mapping[str, float]:
        tiers = storage.renditions.statistics().items()
        return {f"{key}_{tier}": value for tier, found in tiers for key, value in found.items()}

    def waiting() -> Mapping[str, float]:
        # Jobs wait in admission first, then in the pool.
        counts = (rendering.admission.statistics(), rendering.pool.statistics())
        return {"depth": sum(count["waiting"] for count in counts)}

    return {
        "connections": runner.statistics,
        "admission": rendering.admission.statistics,
        "pool": rendering.pool.statistics,
        "queue": waiting,
        "upload_usage": rendering.upload_dispatcher.statistics,
        "delivery": serving.renderer.statistics,
        "leases": lambda: serving.leases.statistics() if serving.leases else NO_WAITS,
        "finals": serving.finals_queue.statistics,
        "faces": lambda: serving.faces.statistics() if serving.faces else NO_DETECTIONS,
        "originals": storage.originals.statistics,
        # A Counter has 0 for every name.
        "http_originals": lambda: (
            storage.http_originals.statistics() if storage.http_originals else Counter()
        ),
        "queries": storage.repository.statistics,
        "rows": storage.database.statistics,
        "purges": storage.purge_feed.statistics,
        "redis": lambda: storage.redis.statistics() if storage.redis else UNUSED,
        "tiers": by_tier,
        "disk": lambda: storage.renditions.statistics()["disk"],
        "objects": storage.renditions.object_statistics,
        "ingest": services.queue_metrics.statistics,
        "step_timeouts": services.step_timeouts.statistics,
        "metadata": partial(metadata_statistics, services.metadata),
        "sockets": sockets.statistics,
        "spans": services.tracing.statistics,
        "log": OUTPUT.statistics,
    }
