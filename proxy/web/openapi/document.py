"""The OpenAPI description of all routes, for given settings."""

from __future__ import annotations

from collections.abc import Iterator

from proxy import __version__
from proxy.domain.formats import NAMES, TRAITS
from proxy.domain.request import DEFAULT_SIZE, DPRS, WIDTHS
from proxy.domain.upload import UPLOAD_FIELDS
from proxy.domain.urls import API_IMAGES_ROUTE, SERVE_ROUTE
from proxy.settings import Settings, has_local_uploads, has_page
from proxy.storage.upload_files import FOLDERS
from proxy.web.handlers.admin import PurgedMedia, PurgedUser
from proxy.web.handlers.analyses import AnalysisResponse
from proxy.web.handlers.info import MAX_IDS, GalleryPage, ImageDescriptions, InfoQuery
from proxy.web.handlers.info_json import ImageDescription
from proxy.web.handlers.oembed import Photo
from proxy.web.handlers.page import AcceptExplanation
from proxy.web.handlers.page_local import UploadProgress, UploadToken
from proxy.web.handlers.upload_queue import (
    CleanupResponse,
    CompletedUpload,
    CompletionResponse,
    PendingUploads,
)
from proxy.web.handlers.uploads import UploadResponse
from proxy.web.id_params import ID_PATTERN
from proxy.web.openapi.schema import (
    BINARY,
    Json,
    cached,
    choice,
    head_of,
    header,
    operation,
    path,
    query,
    resolve,
    response,
    text,
)

_INFO = (400, 404, 415, 422, 500, 503, 504)
_IMAGE = (*_INFO, 416)
_KEY = (401, 429, 503)
_NO_UPLOAD = {404: "There is no such upload."}
_ENDED = {**_NO_UPLOAD, 409: "The upload has ended differently, or two images are named."}
_NOT_LOCAL = {403: "The client is not a browser on the server's own machine."}
_WIDTH: Json = {"type": "integer", "minimum": 1, "maximum": WIDTHS[-1]}
_ONE = {"plain": {"value": "1"}}

Operations = Iterator[tuple[str, str, Json]]
"""Path, method and operation."""


def describe(settings: Settings) -> Json:
    """Return the document (OpenAPI 3.1) as JSON values. It takes about 50 ms."""
    operations = [*_images(settings), *_info(), *_server()]
    if has_page(settings):
        operations += _page()
    if has_local_uploads(settings):
        operations += _page_local()
    if settings.admin.enabled:
        operations += _admin(settings)
    if settings.main.enabled:
        operations += _uploads()
    paths: Json = {}
    for address, method, one in operations:
        paths.setdefault(address, {})[method] = one
    bearer = {"type": "http", "scheme": "bearer"}
    user = "A user's token as `[users]` defines it; `smartserve token` makes one."
    schemes = {
        "key": {**bearer, "description": "`admin.key` of the settings."},
        "media": {**bearer, "description": "`main.key` of the settings (MEDIA_API_KEY)."},
        "user": {**bearer, "bearerFormat": "JWT", "description": user},
    }
    info = {
        "title": "smartserve",
        "version": __version__,
        "description": "Serves images by media id, in the best format that the client accepts.",
    }
    components = {"securitySchemes": schemes}
    return resolve({"openapi": "3.1.0", "info": info, "paths": paths, "components": components})


def _images(settings: Settings) -> Operations:
    # The patterns repeat the parsers of the handlers; tests compare both.
    names = text(rf"^{ID_PATTERN}(\.({'|'.join(NAMES)}))?$")
    examples = {**_ONE, "webp": {"value": "1.webp"}}
    bg = "`removed` makes a uniform background transparent; not with JPEG."
    parameters = (
        path("name", "Media id; an extension means `format`.", names, examples=examples),
        query("size", "A preset; never enlarges.", choice(settings.sizes, DEFAULT_SIZE)),
        query("w", "Pixels; rounded up to the next step.", {"anyOf": [_WIDTH, {"const": ""}]}),
        query("dpr", "Device pixels per CSS pixel.", choice(DPRS, "1")),
        query("format", "`auto`: by the Accept header.", choice(["auto", *NAMES], "auto")),
        query("bg", bg, choice(["original", "removed"], "original")),
        query("v", "Changes when the image does; makes it immutable.", {"type": "string"}),
    )
    kinds = sorted({traits.media_type for traits in TRAITS.values()})
    content = {kind: {"schema": BINARY} for kind in kinds}
    headers = {
        "ETag": header('^"[0-9a-f]{32}"$'),
        "Cache-Control": header(r"^public, max-age=[0-9]+(, [a-z-]+(=[0-9]+)?)*$"),
        "Cache-Status": header("^smartserve; (hit|fwd=uri-miss)(; [a-z-]+(=[a-z-]+)?)*$"),
        "X-Request-Id": header("^[0-9a-f]+-[0-9a-f]+$"),
    }
    ranged = {**headers, "Content-Range": header(r"^bytes [0-9]+-[0-9]+/[0-9]+$")}
    responses = {
        "200": {"description": "The image.", "headers": headers, "content": content},
        "206": {"description": "The range.", "headers": ranged, "content": content},
        "304": {"description": "The client's copy is still valid.", "headers": headers},
    }
    summary = "Return an image in the best format that Accept names."
    for address, name in ((SERVE_ROUTE, "serve"), (API_IMAGES_ROUTE, "apiImages")):
        get = operation(name, summary, responses, *parameters, problems=_IMAGE)
        yield address, "get", get
        yield address, "head", head_of(get, f"{name}Head", "Return headers without rendering.")


def _info() -> Operations:
    get = operation(
        "info",
        "Return dimensions, placeholders, colours and URLs of an image.",
        cached(ImageDescription),
        path("id", "Media id.", examples=_ONE),
        problems=_INFO,
    )
    yield "/info/{id}", "get", get
    yield "/info/{id}", "head", head_of(get, "infoHead", "Return the description's headers.")
    pattern = text(f"^{ID_PATTERN}(,{ID_PATTERN}){{0,{MAX_IDS - 1}}}$")
    example = {"two": {"value": "1,2"}}
    ids = query("ids", "Separated by commas.", pattern, required=True, examples=example)
    summary = f"Describe up to {MAX_IDS} images; ids that fail are listed as missing."
    yield (
        "/info",
        "get",
        operation("infoMany", summary, cached(ImageDescriptions), ids, problems=[400]),
    )
    yield (
        "/info",
        "post",
        operation(
            "infoPosted",
            "Describe images, with the ids in the body.",
            ImageDescriptions,
            problems=(400, 408, 413, 415),
            body={"application/json": {"schema": InfoQuery, "example": {"ids": [1, 2]}}},
        ),
    )
    allowed = {"204": {"description": "All origins may use GET, HEAD and POST."}}
    yield "/info", "options", operation("infoPreflight", "Answer a CORS preflight.", allowed)
    side = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 99999}, {"const": ""}]}
    absolute = text("^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/")
    url = "http://localhost/serve/1"
    yield (
        "/oembed",
        "get",
        operation(
            "oembed",
            "Return an image as a photo of oEmbed 1.0.",
            cached(Photo),
            query("url", "Of an image of this server.", absolute, required=True, example=url),
            query("maxwidth", "Pixels.", side),
            query("maxheight", "Pixels.", side),
            query("format", "`xml` is a 501.", choice(["json"], "json")),
            problems=_INFO,
            texts={501: "The format is not implemented."},
        ),
    )
    yield (
        "/api/media/analysis/{media_id}",
        "get",
        operation(
            "analysis",
            "Return the analysis of an image. Null: not determined; a reason is given.",
            AnalysisResponse,
            path("media_id", "Media id.", examples=_ONE),
            problems=(400, *_KEY),
            texts={404: "No such image, or no analysis; with Retry-After: not yet."},
            security="media",
        ),
    )


def _page() -> Operations:
    yield (
        "/api/gallery",
        "get",
        operation(
            "gallery",
            "List the newest images.",
            cached(GalleryPage),
            query("before", "Return lower ids only.", text(f"^({ID_PATTERN})?$")),
            query("limit", "Maximum number of images.", text("^(?:[1-9][0-9]?|100)?$")),
            problems=(400, 503),
        ),
    )
    summary = "Explain which format the Accept header of this request gets."
    explained = operation("explainAccept", summary, cached(AcceptExplanation))
    yield "/api/page/accept", "get", explained
    summary = "Return a pixel, and the request's Accept header in Server-Timing."
    pixel = {"200": response(BINARY, "The pixel.", "image/gif")}
    yield "/api/page/accept.gif", "get", operation("showAccept", summary, pixel)


def _page_local() -> Operations:
    summary = "Return a token for uploads, valid for 15 minutes."
    token = operation("trialToken", summary, UploadToken, texts=_NOT_LOCAL)
    yield "/api/page/token", "get", token
    yield (
        "/api/page/uploads/{id}",
        "get",
        operation(
            "trialUpload",
            "Return the state of an upload.",
            UploadProgress,
            path("id", "Id of the upload."),
            problems=(400, 503),
            texts={**_NOT_LOCAL, **_NO_UPLOAD},
        ),
    )


def _admin(settings: Settings) -> Operations:
    only = "Purge only this size, at every dpr and in every format."
    sizes = {"type": "string", "enum": [*settings.sizes]}
    parameters = (
        path("id", "Purging an unknown id succeeds."),
        query("size", only, sizes),
        query("w", only, _WIDTH),
    )
    texts = {
        403: "The server has no key.",
        503: "The database or the storage failed; some renditions may remain.",
    }
    for name, what, model in (
        ("purgeMedia", "media", PurgedMedia),
        ("purgeUser", "users", PurgedUser),
    ):
        yield (
            f"/api/{what}/{{id}}/renditions",
            "delete",
            operation(
                name,
                "Delete renditions on all nodes that share the directory. Idempotent.",
                model,
                *parameters,
                problems=(400, 401, 429),
                texts=texts,
                security="key",
            ),
        )


def _uploads() -> Operations:
    fields = dict.fromkeys(UPLOAD_FIELDS, BINARY)
    form = {"type": "object", "minProperties": 1, "properties": fields}
    yield (
        "/users/me",
        "patch",
        operation(
            "upload",
            "Upload images; the response is sent when they are stored and queued.",
            UploadResponse,
            problems=(400, 408, 413, 415, *_KEY),
            texts={507: "There is no space for another upload."},
            body={"multipart/form-data": {"schema": form}},
            security="user",
        ),
    )
    summary = "List the uploads to process, oldest first."
    pending = operation("pending", summary, PendingUploads, problems=_KEY, security="media")
    yield "/api/media/pending/all", "get", pending
    upload = path("id", "Id in pending_images.")
    yield (
        "/api/media/complete/{id}",
        "post",
        operation(
            "complete",
            "Record which image an upload has become. Idempotent.",
            CompletionResponse,
            upload,
            problems=(400, 408, 413, 415, *_KEY),
            texts=_ENDED,
            body={"application/json": {"schema": CompletedUpload}},
            security="media",
        ),
    )
    yield (
        "/api/media/cleanup/{id}",
        "delete",
        operation(
            "cleanup",
            "Record that an upload has failed, and delete its file. Idempotent.",
            CleanupResponse,
            upload,
            query("reason", "A few words for the log.", {"type": "string"}),
            problems=(400, *_KEY),
            texts=_ENDED,
            security="media",
        ),
    )
    yield (
        "/temp_images/{folder}/{name}",
        "get",
        operation(
            "tempImage",
            "Return the file of an upload; Range and If-Range resume a download.",
            {
                "200": response(BINARY, "The file.", "*/*"),
                "206": response(BINARY, "The range.", "*/*"),
                "304": {"description": "The client's copy is still valid."},
            },
            path("folder", "The upload's folder.", {"enum": [*FOLDERS]}),
            path("name", "The file's name.", text("^[0-9A-Za-z][0-9A-Za-z._-]{0,199}$")),
            problems=(*_KEY, 416),
            texts={404: "There is no such file."},
            security="media",
        ),
    )


def _server() -> Operations:
    live: Json = {"type": "object"}
    good, bad = response(live, "Yes."), response(live, "No; the body names the part that failed.")
    metrics = response({"type": "string"}, "The metrics.", "text/plain")
    summary = "Report whether the server can serve."
    yield "/healthz", "get", operation("health", "Report that it runs.", {"200": good})
    yield "/readyz", "get", operation("readiness", summary, {"200": good, "503": bad})
    yield "/metrics", "get", operation("metrics", "Return Prometheus metrics.", {"200": metrics})
    document = {"200": response(live, "An OpenAPI document.")}
    yield "/openapi.json", "get", operation("openapi", "Return this description.", document)
