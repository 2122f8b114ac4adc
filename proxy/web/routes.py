"""The aiohttp application: which URL is handled by which method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aiohttp import web

from proxy.settings import Settings, has_page
from proxy.web.handlers.admin import AdminHandler
from proxy.web.handlers.health import HealthHandler, ServerInfoHandler
from proxy.web.handlers.images import ImageHandler
from proxy.web.handlers.info import InfoHandler
from proxy.web.handlers.media_api import AnalysisHandler, MediaApiHandler
from proxy.web.handlers.oembed import OembedHandler
from proxy.web.handlers.page import COMPONENT, LocalPageHandler, PageHandler
from proxy.web.handlers.uploads import UploadHandler
from proxy.web.headers import ImageRoute


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """The handlers of all routes. A handler that is None has no routes."""

    images: ImageHandler
    health: HealthHandler
    server_info: ServerInfoHandler
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
    yield web.get("/healthz", handlers.health.health)
    yield web.get("/readyz", handlers.health.readiness)
    yield web.get("/metrics", handlers.server_info.metrics)
    yield web.get("/openapi.json", handlers.server_info.openapi)
    yield web.get("/api/media/analysis/{media_id}", handlers.analyses.analysis)
    yield web.get("/info", info.info_many)
    yield web.post("/info", info.info_posted)
    yield web.options("/info", info.info_preflight)
    yield web.get("/info/{id}", info.info)
    yield web.get("/oembed", handlers.oembed.oembed)
    yield web.get(f"/static/{COMPONENT}", page.component)
    if has_page(settings):
        yield web.get("/", page.index)
        yield web.get("/static/{name}", page.static)
        yield web.get("/api/gallery", info.gallery)
        yield web.get("/api/page/accept", page.explain_accept)
        yield web.get("/api/page/accept.gif", page.show_accept)
    if (local := handlers.page_local) is not None:
        yield web.get("/api/page/token", local.trial_token)
        yield web.get("/api/page/uploads/{id}", local.trial_upload)
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
