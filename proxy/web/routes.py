"""The aiohttp application: which URL is handled by which method."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import cache

import orjson
from aiohttp import web

from proxy.domain.request import Outcome
from proxy.settings import Settings, has_page
from proxy.telemetry.metrics import Metrics
from proxy.web.handlers.admin import AdminHandler
from proxy.web.handlers.analyses import AnalysisHandler
from proxy.web.handlers.health import HealthHandler
from proxy.web.handlers.images import ImageHandler
from proxy.web.handlers.info import InfoHandler
from proxy.web.handlers.oembed import OembedHandler
from proxy.web.handlers.page import COMPONENT, PageHandler
from proxy.web.handlers.page_local import LocalPageHandler
from proxy.web.handlers.upload_queue import MediaApiHandler
from proxy.web.handlers.uploads import UploadHandler
from proxy.web.headers import NO_STORE, ImageRoute
from proxy.web.responses import BufferedResponse, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """The handlers of all routes. A handler that is None has no routes."""

    images: ImageHandler
    health: HealthHandler
    metrics: Metrics
    analyses: AnalysisHandler
    info: InfoHandler
    oembed: OembedHandler
    page: PageHandler
    page_local: LocalPageHandler | None = None
    admin: AdminHandler | None = None
    uploads: UploadHandler | None = None
    media_api: MediaApiHandler | None = None


def create_app(settings: Settings, handlers: Handlers) -> web.Application:
    """Return the application with all routes that the settings enable."""
    app = web.Application()
    app.add_routes(_routes(settings, handlers))
    return app


def _routes(settings: Settings, handlers: Handlers) -> Iterator[web.RouteDef]:
    images, info, page = handlers.images, handlers.info, handlers.page
    yield web.get(ImageRoute.SERVE.path, images.serve, name=ImageRoute.SERVE)
    yield web.get(ImageRoute.API_IMAGES.path, images.api_images, name=ImageRoute.API_IMAGES)
    yield web.get("/healthz", handlers.health.alive)
    yield web.get("/readyz", handlers.health.ready)
    yield web.get("/metrics", _metrics(handlers.metrics))
    yield web.get("/openapi.json", _openapi(settings))
    yield web.get("/api/media/analysis/{media_id}", handlers.analyses.get)
    yield web.get("/info", info.many)
    yield web.post("/info", info.posted)
    yield web.options("/info", info.preflight)
    yield web.get("/info/{id}", info.one)
    yield web.get("/oembed", handlers.oembed.get)
    yield web.get(f"/static/{COMPONENT}", page.component)
    if has_page(settings):
        yield web.get("/", page.index)
        yield web.get("/static/{name}", page.static)
        yield web.get("/api/gallery", info.gallery)
        yield web.get("/api/page/accept", page.accept)
        yield web.get("/api/page/accept.gif", page.pixel)
    if (local := handlers.page_local) is not None:
        yield web.get("/api/page/token", local.token)
        yield web.get("/api/page/uploads/{id}", local.upload)
    if (admin := handlers.admin) is not None:
        yield web.delete("/api/media/{id}/renditions", admin.purge_media)
        yield web.delete("/api/users/{id}/renditions", admin.purge_user)
    if handlers.uploads is not None:
        yield web.patch("/users/me", handlers.uploads.upload)
    if (media_api := handlers.media_api) is not None:
        yield web.get("/api/media/pending/all", media_api.pending)
        yield web.post("/api/media/complete/{id}", media_api.complete)
        yield web.delete("/api/media/cleanup/{id}", media_api.cleanup)
        yield web.get("/temp_images/{folder}/{name}", media_api.temp_image)


_Handler = Callable[[web.Request], Awaitable[BufferedResponse]]


def _metrics(metrics: Metrics) -> _Handler:
    async def handle(request: web.Request) -> BufferedResponse:
        body, media_type = metrics.exposition(", ".join(request.headers.getall("Accept", ())))
        return _answer("metrics", media_type, body)

    return handle


def _openapi(settings: Settings) -> _Handler:
    @cache
    def build() -> bytes:
        # Imported and built at the first request, in a thread: making the schemas takes 50
        # ms, which would delay every start, or all other requests.
        from proxy.web.openapi.document import describe  # noqa: PLC0415

        return orjson.dumps(describe(settings), option=orjson.OPT_INDENT_2)

    async def handle(_request: web.Request) -> BufferedResponse:
        return _answer("openapi", "application/json", await asyncio.to_thread(build))

    return handle


def _answer(route: str, media_type: str, body: bytes) -> BufferedResponse:
    headers = [("Content-Type", media_type), ("Cache-Control", NO_STORE)]
    return whole(200, headers, body, outcome=Outcome(route))
