"""The OpenAPI description of all routes, for given settings."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from proxy import __version__
from proxy.domain.formats import NAMES, TRAITS
from proxy.domain.pending_image import UPLOAD_FIELDS
from proxy.domain.query import DEFAULT_SIZE, DPRS
from proxy.domain.urls import API_IMAGES_ROUTE, SERVE_ROUTE
from proxy.settings import Settings, has_local_uploads, has_page
from proxy.storage.upload_files.names import FOLDERS
from proxy.web.handlers.admin import PurgedMedia, PurgedUser
from proxy.web.handlers.analyses import AnalysisResponse
from proxy.web.handlers.info import GalleryPage, ImageDescriptions, InfoQuery
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
    ETAG,
    IMAGE_PROBLEMS,
    WIDTH,
    Json,
    cached,
    choice,
    head_of,
    operation,
    path,
    query,
    resolve,
    response,
)

_KEY_PROBLEMS = (401, 429, 503)
_BODY_TEXTS = {400: "The body is not valid; the response says why."}
_INFO_PROBLEMS = tuple(
    status for status in IMAGE_PROBLEMS if status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
)
_UPLOAD_TEXTS = {
    404: "There is no such upload.",
    409: "The upload has ended differently, or two images are named.",
}
_LOCAL_TEXTS = {403: "The client is not a browser on the server's own machine."}


def describe(settings: Settings) -> Json:
    """Return the document (OpenAPI 3.1) as JSON values. It takes about 50 ms."""
    bearer = {"type": "http", "scheme": "bearer"}
    user = "A user's token as `[users]` defines it; `smartserve token` makes one."
    return resolve(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "smartserve",
                "version": __version__,
                "description": "Serves images by media id, in the best format for the client.",
            },
            "paths": {
                SERVE_ROUTE: _image("serve", settings),
                API_IMAGES_ROUTE: _image("apiImages", settings),
                **_info(),
                **(_page() if has_page(settings) else {}),
                **(_page_local() if has_local_uploads(settings) else {}),
                **(_admin(settings) if settings.admin.enabled else {}),
                **(_uploads() if settings.main.enabled else {}),
                **_server(),
            },
            "components": {
                "securitySchemes": {
                    "key": {**bearer, "description": "`admin.key` of the settings."},
                    "media": {**bearer, "description": "`main.key` (MEDIA_API_KEY)."},
                    "user": {**bearer, "bearerFormat": "JWT", "description": user},
                },
            },
        }
    )


def _image(name: str, settings: Settings) -> Json:
    extensions = "|".join(NAMES)
    names = {"type": "string", "pattern": rf"^{ID_PATTERN}(\.({extensions}))?$"}
    examples = {"plain": {"value": "1"}, "webp": {"value": "1.webp"}}
    v = "Any token that changes when the image does; the response is then immutable."
    formats = ["auto", *NAMES]
    content = {
        media_type: {"schema": BINARY}
        for media_type in sorted({traits.media_type for traits in TRAITS.values()})
    }
    headers = ETAG | {
        "Cache-Control": _header(r"^public, max-age=[0-9]+(, [a-z-]+(=[0-9]+)?)*$"),
        "Cache-Status": _header("^smartserve; (hit|fwd=uri-miss)(; [a-z-]+(=[a-z-]+)?)*$"),
        "X-Request-Id": _header("^[0-9a-f]+-[0-9a-f]+$"),
    }
    ranged = {**headers, "Content-Range": _header(r"^bytes [0-9]+-[0-9]+/[0-9]+$")}
    get = operation(
        name,
        "Return an image in the best format that Accept names.",
        {
            "200": {"description": "The image.", "headers": headers, "content": content},
            "206": {"description": "The range.", "headers": ranged, "content": content},
            "304": {"description": "The client's copy is still valid.", "headers": headers},
        },
        problems=IMAGE_PROBLEMS,
    )
    return {
        "parameters": [
            path("name", "Media id; an extension means `format`.", names, examples=examples),
            query("size", "A preset; never enlarges.", choice(settings.sizes, DEFAULT_SIZE)),
            query(
                "w",
                "A width in pixels instead of a preset; rounded up to the next step.",
                {"anyOf": [WIDTH, {"const": ""}]},
            ),
            query("dpr", "Device pixels per CSS pixel.", choice(DPRS, "1")),
            query("format", "`auto` selects by the Accept header.", choice(formats, "auto")),
            query(
                "bg",
                "`removed` makes a uniform background transparent; not with JPEG.",
                choice(["original", "removed"], "original"),
            ),
            query("v", v, {"type": "string"}),
        ],
        "get": get,
        "head": head_of(get, f"{name}Head", "Return the image's headers without rendering it."),
    }


def _header(pattern: str) -> Json:
    return {"required": True, "schema": {"type": "string", "pattern": pattern}}


def _info() -> Json:
    one = path("id", "Media id of 1 to 19 digits.", examples={"plain": {"value": "1"}})
    ids = query(
        "ids",
        "1 to 100 media ids, separated by commas.",
        {"type": "string", "pattern": f"^{ID_PATTERN}(,{ID_PATTERN}){{0,99}}$"},
        required=True,
        examples={"two": {"value": "1,2"}},
    )
    side = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 99999}, {"const": ""}]}
    url = query(
        "url",
        "The URL of an image of this server.",
        {"type": "string", "pattern": "^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/"},
        required=True,
        example="http://localhost/serve/1",
    )
    get = operation(
        "info",
        "Return dimensions, placeholders, colours and URLs of an image.",
        cached(ImageDescription),
        problems=_INFO_PROBLEMS,
    )
    posted = {"application/json": {"schema": InfoQuery, "example": {"ids": [1, 2]}}}
    return {
        "/info/{id}": {
            "parameters": [one],
            "get": get,
            "head": head_of(get, "infoHead", "Return the headers of the description."),
        },
        "/info": {
            "get": operation(
                "infoMany",
                "Describe up to 100 images; ids that fail are listed as missing.",
                cached(ImageDescriptions),
                problems=[400],
                parameters=[ids],
            ),
            "post": operation(
                "infoPosted",
                "Describe up to 100 images, with the ids in the body.",
                {"200": response("The descriptions.", ImageDescriptions)},
                problems=[408, 413],
                texts={**_BODY_TEXTS, 415: "The body is not JSON, or it is compressed."},
                body=posted,
            ),
            "options": operation(
                "infoPreflight",
                "Answer the CORS preflight that a browser sends before it posts JSON.",
                {"204": {"description": "All origins may use GET, HEAD and POST."}},
            ),
        },
        "/oembed": {
            "parameters": [
                url,
                query("maxwidth", "Pixels.", side),
                query("maxheight", "Pixels.", side),
                query("format", "`xml` is a 501.", choice(["json"], "json")),
            ],
            "get": operation(
                "oembed",
                "Return an image as a photo of oEmbed 1.0.",
                cached(Photo),
                problems=_INFO_PROBLEMS,
                texts={501: "The format is not implemented."},
            ),
        },
        "/api/media/analysis/{media_id}": {
            "parameters": [path("media_id", "1 to 19 digits.", examples={"plain": {"value": "1"}})],
            "get": operation(
                "analysis",
                "Return the analysis of an image. Null: not determined; a reason is given.",
                {"200": response("The analysis.", AnalysisResponse)},
                problems=(400, *_KEY_PROBLEMS),
                texts={404: "No such image, or no analysis; with Retry-After: not yet."},
                security="media",
            ),
        },
    }


def _page() -> Json:
    return {
        "/api/gallery": {
            "parameters": [
                query("before", "Return lower ids only.", _text(f"^({ID_PATTERN})?$")),
                query("limit", "Maximum number of images.", _text("^(?:[1-9][0-9]?|100)?$")),
            ],
            "get": operation(
                "gallery",
                "List the newest images.",
                cached(GalleryPage),
                problems=(400, 503),
            ),
        },
        "/api/page/accept": {
            "get": operation(
                "explainAccept",
                "Explain which format the Accept header of this request gets.",
                cached(AcceptExplanation),
            )
        },
        "/api/page/accept.gif": {
            "get": operation(
                "showAccept",
                "Return a pixel, and the request's Accept header in Server-Timing.",
                {"200": response("The pixel.", BINARY, media_type="image/gif")},
            )
        },
    }


def _page_local() -> Json:
    return {
        "/api/page/token": {
            "get": operation(
                "trialToken",
                "Return a token for uploads, valid for 15 minutes.",
                {"200": response("The token.", UploadToken)},
                texts=_LOCAL_TEXTS,
            )
        },
        "/api/page/uploads/{id}": {
            "parameters": [path("id", "Id of an upload, 1 to 19 digits.")],
            "get": operation(
                "trialUpload",
                "Return the state of an upload.",
                {"200": response("The state.", UploadProgress)},
                problems=(400, 503),
                texts={**_LOCAL_TEXTS, 404: "There is no such upload."},
            ),
        },
    }


def _admin(settings: Settings) -> Json:
    only = "Purge only this size, at every dpr and in every format."
    parameters = [
        path("id", "1 to 19 digits; purging an unknown id succeeds."),
        query("size", only, {"type": "string", "enum": [*settings.sizes]}),
        query("w", only, WIDTH),
    ]

    def purge(name: str, what: str, model: type) -> Json:
        return operation(
            name,
            f"Delete the renditions of {what} on all nodes that share the directory. Idempotent.",
            {"200": response("What was deleted.", model)},
            problems=(400, 401, 429),
            texts={
                403: "The server has no key.",
                503: "The database or the storage failed; some renditions may remain.",
            },
            security="key",
        )

    media = purge("purgeMedia", "an image", PurgedMedia)
    user = purge("purgeUser", "all images of a user", PurgedUser)
    return {
        "/api/media/{id}/renditions": {"parameters": parameters, "delete": media},
        "/api/users/{id}/renditions": {"parameters": parameters, "delete": user},
    }


def _uploads() -> Json:
    upload_id = path("id", "Id in pending_images, 1 to 19 digits.")
    form = {
        "type": "object",
        "minProperties": 1,
        "properties": dict.fromkeys(UPLOAD_FIELDS, BINARY),
    }
    file_name = _text("^[0-9A-Za-z][0-9A-Za-z._-]{0,199}$")
    folder = path("folder", "The upload's folder.", {"enum": [*FOLDERS]})
    return {
        "/users/me": {
            "patch": operation(
                "upload",
                "Upload images; the response is sent when they are stored and queued.",
                {"200": response("The stored images.", UploadResponse)},
                problems=(408, 413, 429, 503),
                texts={
                    **_BODY_TEXTS,
                    401: "The token is missing or not valid.",
                    415: "The body is not a form, or a file is of a type that is not served.",
                    507: "There is no space for another upload.",
                },
                body={"multipart/form-data": {"schema": form}},
                security="user",
            )
        },
        "/api/media/pending/all": {
            "get": operation(
                "pending",
                "List the uploads to process, oldest first.",
                {"200": response("The queue.", PendingUploads)},
                problems=_KEY_PROBLEMS,
                security="media",
            )
        },
        "/api/media/complete/{id}": {
            "parameters": [upload_id],
            "post": operation(
                "complete",
                "Record which image an upload has become. Idempotent.",
                {"200": response("It is recorded.", CompletionResponse)},
                problems=(408, 413, *_KEY_PROBLEMS),
                texts={**_UPLOAD_TEXTS, **_BODY_TEXTS, 415: "The body is compressed."},
                body={"application/json": {"schema": CompletedUpload}},
                security="media",
            ),
        },
        "/api/media/cleanup/{id}": {
            "parameters": [upload_id],
            "delete": operation(
                "cleanup",
                "Record that an upload has failed, and delete its file. Idempotent.",
                {"200": response("It is recorded.", CleanupResponse)},
                problems=(400, *_KEY_PROBLEMS),
                texts=_UPLOAD_TEXTS,
                parameters=[query("reason", "A few words for the log.", {"type": "string"})],
                security="media",
            ),
        },
        "/temp_images/{folder}/{name}": {
            "parameters": [folder, path("name", "The file's name.", file_name)],
            "get": operation(
                "tempImage",
                "Return the file of an upload; Range and If-Range resume a download.",
                {
                    "200": response("The file.", BINARY, media_type="*/*"),
                    "206": response("The range.", BINARY, media_type="*/*"),
                    "304": {"description": "The client's copy is still valid."},
                },
                problems=_KEY_PROBLEMS,
                texts={404: "There is no such file.", 416: "The range lies outside the file."},
                security="media",
            ),
        },
    }


def _server() -> Json:
    ready, openapi = "Report whether the server can serve.", "Return this description."
    live: Json = {"type": "object"}
    text = response("The metrics.", {"type": "string"}, media_type="text/plain")

    def get(name: str, summary: str, responses: dict[str, Any]) -> Json:
        return {"get": operation(name, summary, responses)}

    checks = {"200": response("It can.", live), "503": response("It cannot.", live)}
    return {
        "/healthz": get("health", "Report that the process runs.", {"200": response("OK.", live)}),
        "/readyz": get("readiness", ready, checks),
        "/metrics": get("metrics", "Return Prometheus metrics.", {"200": text}),
        "/openapi.json": get("openapi", openapi, {"200": response("The description.", live)}),
    }


def _text(pattern: str) -> Json:
    return {"type": "string", "pattern": pattern}
