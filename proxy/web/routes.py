"""The aiohttp application: which address leads where."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from proxy.domain.outcome import Outcome
from proxy.settings import Settings
from proxy.telemetry.metrics import Metrics
from proxy.web.cache_headers import ImageRoute
from proxy.web.handlers.admin import AdminHandler
from proxy.web.handlers.analyses import AnalysisHandler
from proxy.web.handlers.health import HealthHandler
from proxy.web.handlers.images import ImageHandler
from proxy.web.handlers.info import InfoHandler
from proxy.web.handlers.oembed import OembedHandler
from proxy.web.handlers.page import COMPONENT, ComponentHandler, PageHandler
from proxy.web.handlers.page_local import LocalPageHandler
from proxy.web.handlers.upload_queue import MediaApiHandler
from proxy.web.handlers.uploads import UploadHandler
from proxy.web.headers import Header
from proxy.web.openapi.document import describe
from proxy.web.responses import BufferedResponse, whole


def create_app(  # noqa: PLR0913 - it is given the handlers of all addresses
    settings: Settings,
    *,
    pictures: ImageHandler,
    health: HealthHandler,
    metrics: Metrics,
    admin: AdminHandler | None,
    analyses: AnalysisHandler,
    info: InfoHandler,
    component: ComponentHandler,
    oembed: OembedHandler,
    page: PageHandler | None = None,
    trial: LocalPageHandler | None = None,
    uploads: UploadHandler | None = None,
    media_api: MediaApiHandler | None = None,
) -> web.Application:
    """Put the handlers under their addresses; what is None has no routes."""
    app = web.Application()
    app.router.add_get(ImageRoute.SERVE.path, pictures.serve, name=ImageRoute.SERVE)
    app.router.add_get(ImageRoute.API_IMAGES.path, pictures.api_images, name=ImageRoute.API_IMAGES)
    app.router.add_get("/healthz", health.alive)
    app.router.add_get("/readyz", health.ready)
    app.router.add_get("/metrics", _metrics(metrics))
    app.router.add_get("/openapi.json", _openapi(settings))
    app.router.add_get("/api/media/analysis/{media_id}", analyses.get)
    app.router.add_get("/info", info.many)
    app.router.add_post("/info", info.posted)
    app.router.add_options("/info", info.preflight)
    app.router.add_get("/info/{id}", info.one)
    app.router.add_get("/oembed", oembed.get)
    app.router.add_get(f"/static/{COMPONENT}", component.get)
    if page is not None:
        app.router.add_get("/", page.index)
        app.router.add_get("/static/{name}", page.static)
        app.router.add_get("/api/gallery", info.gallery)
        app.router.add_get("/api/page/accept", page.accept)
        app.router.add_get("/api/page/accept.gif", page.pixel)
    if trial is not None:
        app.router.add_get("/api/page/token", trial.token)
        app.router.add_get("/api/page/uploads/{id}", trial.upload)
    if admin is not None:
        app.router.add_delete("/api/media/{id}/renditions", admin.purge_media)
        app.router.add_delete("/api/users/{id}/renditions", admin.purge_user)
    if uploads is not None:
        app.router.add_patch("/users/me", uploads.upload)
    if media_api is not None:
        app.router.add_get("/api/media/pending/all", media_api.pending)
        app.router.add_post("/api/media/complete/{id}", media_api.complete)
        app.router.add_delete("/api/media/cleanup/{id}", media_api.cleanup)
        app.router.add_get("/temp_images/{folder}/{name}", media_api.temp_image)
    return app


Handler = Callable[[web.Request], Awaitable[BufferedResponse]]


def _metrics(metrics: Metrics) -> Handler:
    async def page(request: web.Request) -> BufferedResponse:
        body, media_type = metrics.exposition(", ".join(request.headers.getall("Accept", ())))
        return _answer("metrics", media_type, body)

    return page


def _openapi(settings: Settings) -> Handler:
    body = orjson.dumps(describe(settings), option=orjson.OPT_INDENT_2)

    async def page(_request: web.Request) -> BufferedResponse:
        return _answer("openapi", "application/json", body)

    return page


def _answer(route: str, media_type: str, body: bytes) -> BufferedResponse:
    headers: list[Header] = [("Content-Type", media_type), ("Cache-Control", "no-store")]
    return whole(200, headers, body, outcome=Outcome(route))
