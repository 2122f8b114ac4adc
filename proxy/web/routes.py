"""The routes: which URL is handled by which method, and how OpenAPI describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from inspect import isfunction

from aiohttp import web

from proxy.domain.formats import NAMES, TRAITS
from proxy.domain.language import TAG_PATTERN
from proxy.domain.media import MAX_LANGUAGE, Background
from proxy.domain.request import DEFAULT_SIZE, DPRS, WIDTHS
from proxy.domain.signature import EXPIRY_PATTERN, KEY_ID_PATTERN, SIGNATURE_PATTERN
from proxy.domain.upload import UPLOAD_FIELDS
from proxy.domain.urls import API_IMAGES_ROUTE, COMPONENT_PATH, OEMBED_PATH, SERVE_ROUTE
from proxy.settings import Settings, has_local_uploads, has_page
from proxy.storage.database.choices import MAX_TEXTS
from proxy.storage.upload_files import FOLDERS
from proxy.web.handlers.admin import AdminHandler
from proxy.web.handlers.choices import (
    MAX_ALT,
    BackgroundDefault,
    ChoicesHandler,
    CropRegion,
    FocalPoint,
    NewVisibility,
    cropping_sizes,
)
from proxy.web.handlers.health import ApiHealthHandler, HealthHandler, ServerInfoHandler
from proxy.web.handlers.images import ImageHandler
from proxy.web.handlers.info import (
    MAX_IDS,
    GalleryPage,
    ImageDescriptions,
    InfoHandler,
    InfoQuery,
)
from proxy.web.handlers.info_json import ImageDescription
from proxy.web.handlers.media_api import (
    MAX_LISTED,
    AnalysisHandler,
    AnalysisResponse,
    CompletedUpload,
    MediaApiHandler,
)
from proxy.web.handlers.metadata_json import (
    ApiHealth,
)
from proxy.web.handlers.oembed import OembedHandler, Photo
from proxy.web.handlers.original import METADATA, OriginalHandler
from proxy.web.handlers.page import COMPONENT, AcceptExplanation, LocalPageHandler, PageHandler
from proxy.web.handlers.uploads import UploadHandler
from proxy.web.metadata_routes import metadata_operations
from proxy.web.openapi import (
    BINARY,
    Json,
    Operation,
    cached,
    choice,
    document,
    header,
    operation,
    path,
    query,
    response,
    text,
)
from proxy.web.request_input import ID_PATTERN
from proxy.web.responses import preflight

_INFO = (400, 404, 415, 422, 500, 503, 504)
_FORWARDED = (502, 508)
_IMAGE = (*_INFO, 416, *_FORWARDED)
_NO_UPLOAD = (404, "There is no such upload.")
_ENDED = (_NO_UPLOAD, (409, "The upload has ended differently, or two images are named."))
_NOT_LOCAL = (403, "The client is not a browser on the server's own machine.")
_WIDTH: Json = {"type": "integer", "minimum": 1, "maximum": WIDTHS[-1]}
# The first image of a library, so that Schemathesis also tests responses other than a 404.
_ONE = {"plain": {"value": "1"}}
_MEDIA_ID = path("id", "Media id.", examples=_ONE)
_OBJECT: Json = {"type": "object"}
_LANGUAGE: Json = {**text(TAG_PATTERN), "maxLength": MAX_LANGUAGE}
_ALT_SCHEMA: Json = {
    "type": "object",
    "propertyNames": _LANGUAGE,
    "additionalProperties": {"type": "string", "maxLength": MAX_ALT},
    "minProperties": 1,
    "maxProperties": MAX_TEXTS,
    "example": {"en": "A red kite above a beach", "de": "Ein roter Drachen über einem Strand"},
}
_ALT_TEXTS: Json = {"application/json": {"schema": _ALT_SCHEMA}}
_VALID: Json = {"description": "The client's copy is still valid."}

_CROSS_ORIGIN = frozenset(
    (
        *(SERVE_ROUTE, API_IMAGES_ROUTE, "/info", "/info/{id}", OEMBED_PATH),
        *(COMPONENT_PATH, "/temp_images/{folder}/{name}"),
    )
)
"""Addresses whose responses pages of any origin may read, and for which browsers send a preflight
if a script sets a header. The OpenAPI document omits OPTIONS: browsers alone send it."""

Operations = Iterator[Operation]


def create_app(settings: Settings, handlers: Iterable[object]) -> web.Application:
    """Return the application with the routes that the settings enable and a handler answers."""
    # The table names methods of classes; requests are answered by those of the instances.
    methods = {
        function: getattr(one, name)
        for one in handlers
        for name, function in vars(type(one)).items()
        if isfunction(function)
    }
    app = web.Application()
    for one in (*_files(settings), *_operations(settings)):
        if one.handler in methods:
            method, address = one.route.split()
            # `web.get` and not `web.route` for GET: it adds HEAD.
            add = web.get if method == "GET" else partial(web.route, method)
            app.add_routes([add(address, methods[one.handler])])
            if method == "GET" and address in _CROSS_ORIGIN:
                app.add_routes([web.options(address, preflight)])
    return app


def describe(settings: Settings) -> Json:
    """Return the OpenAPI document of the routes that the settings enable."""
    return document(_operations(settings))


def _files(settings: Settings) -> Operations:
    """Yield the files for browsers, which are not part of the API."""
    # Before /static/{name}, which would match its URL too, and also if the page is disabled: pages
    # of other origins load it.
    yield Operation(f"GET /static/{COMPONENT}", PageHandler.component, {})
    if has_page(settings):
        yield Operation("GET /", PageHandler.index, {})
        yield Operation("GET /static/{name}", PageHandler.static, {})


def _operations(settings: Settings) -> Operations:
    yield from _images(settings)
    yield from _original()
    yield from _info()
    yield from _server()
    if has_page(settings):
        yield from _page()
    if has_local_uploads(settings):
        yield from _page_local()
    if settings.admin.enabled:
        yield from _admin(settings)
        yield from _choices(settings)
    if settings.main.enabled:
        yield from _uploads()
    if settings.metadata.enabled:
        yield from metadata_operations()


def _images(settings: Settings) -> Operations:
    # The patterns repeat the parsers of the handlers; tests compare both.
    names = text(rf"^{ID_PATTERN}(\.({'|'.join(NAMES)}))?$")
    examples = {**_ONE, "webp": {"value": "1.webp"}}
    bg = (
        "`removed` makes a uniform background transparent; not with JPEG. Default: what an editor"
        " has set for the image, else `original`."
    )
    parameters = (
        path("name", "Media id; an extension means `format`.", names, examples=examples),
        query("size", "A preset; never enlarges.", choice(settings.sizes, DEFAULT_SIZE)),
        query("w", "Pixels; rounded up to the next step.", {"anyOf": [_WIDTH, {"const": ""}]}),
        query("dpr", "Device pixels per CSS pixel.", choice(DPRS, "1")),
        query("format", "`auto`: by the Accept header.", choice(["auto", *NAMES], "auto")),
        query("bg", bg, {"type": "string", "enum": [*Background, ""]}),
        query("v", "Changes when the image does; makes it immutable.", {"type": "string"}),
        *_signature(),
    )
    kinds = sorted({traits.media_type for traits in TRAITS.values()})
    content = {kind: {"schema": BINARY} for kind in kinds}
    headers = {
        "ETag": header('^"[0-9a-f]{32}"$'),
        "Cache-Control": header(r"^(public|private), max-age=[0-9]+(, [a-z-]+(=[0-9]+)?)*$"),
        "Cache-Status": header("^smartserve; (hit|fwd=uri-miss)(; [a-z-]+(=[a-z-]+)?)*$"),
        "X-Request-Id": header("^[0-9a-f]+-[0-9a-f]+$"),
    }
    ranged = {**headers, "Content-Range": header(r"^bytes [0-9]+-[0-9]+/[0-9]+$")}
    responses = {
        "200": {"description": "The image.", "headers": headers, "content": content},
        "206": {"description": "The range.", "headers": ranged, "content": content},
        "304": {**_VALID, "headers": headers},
    }
    head = "Return headers without rendering."
    for handler, address in (
        (ImageHandler.serve, SERVE_ROUTE),
        (ImageHandler.api_images, API_IMAGES_ROUTE),
    ):
        yield operation(
            f"GET {address}", handler, *parameters, responses=responses, problems=_IMAGE, head=head
        )


def _signature() -> Iterator[Json]:
    """Yield the parameters that sign a URL. A value that is not valid counts as not signed."""
    for name, about, pattern in (
        ("sig", "Signature; required for a private image.", SIGNATURE_PATTERN),
        ("exp", "When it expires, in seconds since 1970.", EXPIRY_PATTERN),
        ("kid", "Id of the key.", KEY_ID_PATTERN),
    ):
        yield query(name, about, {"anyOf": [text(f"^{pattern}$"), {"type": "string"}]})


def _original() -> Operations:
    headers = {"ETag": header('^"[0-9a-z-]+"$'), "Content-Disposition": header("^attachment; ")}
    ranged = {**headers, "Content-Range": header(r"^bytes [0-9]+-[0-9]+/[0-9]+$")}
    yield operation(
        "GET /api/media/{id}/original",
        OriginalHandler.original,
        _MEDIA_ID,
        query("metadata", "`stripped`: without metadata.", choice(METADATA, METADATA[0])),
        *_signature(),
        responses={
            "200": response(BINARY, "The file.", "*/*", headers=headers),
            "206": response(BINARY, "The range.", "*/*", headers=ranged),
            "304": _VALID,
        },
        problems=(
            *_INFO,
            416,
            (404, "No such image, or the signature is not valid."),
            (415, "Metadata cannot be removed from this type without encoding it again."),
        ),
        security=("media", "key", ""),
        head="Return the headers of the original.",
    )


def _info() -> Operations:
    lang = query(
        "lang", "Preferred language of `alt` (BCP 47).", {"anyOf": [_LANGUAGE, {"const": ""}]}
    )
    yield operation(
        "GET /info/{id}",
        InfoHandler.info,
        _MEDIA_ID,
        lang,
        responses=cached(ImageDescription),
        problems=_INFO,
        head="Return the description's headers.",
    )
    # Duplicates do not count for the limit, which a pattern cannot express.
    pattern = text(f"^{ID_PATTERN}(,{ID_PATTERN}){{0,{MAX_IDS - 1}}}$")
    about = f"At most {MAX_IDS}, separated by commas."
    ids = query("ids", about, pattern, required=True, examples={"two": {"value": "1,2"}})
    answer = cached(ImageDescriptions)
    yield operation("GET /info", InfoHandler.info_many, ids, lang, responses=answer, problems=[400])
    yield operation(
        "POST /info", InfoHandler.info_posted, lang, responses=ImageDescriptions, body=InfoQuery
    )
    # An empty value counts as not given.
    side = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 99999}, {"const": ""}]}
    absolute = text("^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/")
    url = "http://localhost/serve/1"
    yield operation(
        "GET /oembed",
        OembedHandler.oembed,
        query("url", "Of an image of this server.", absolute, required=True, example=url),
        query("maxwidth", "Pixels.", side),
        query("maxheight", "Pixels.", side),
        lang,
        query("format", "`xml` is a 501.", choice(["json"], "json")),
        responses=cached(Photo),
        problems=(*_INFO, (501, "The format is not implemented.")),
    )
    yield operation(
        "GET /api/media/analysis/{media_id}",
        AnalysisHandler.analysis,
        _MEDIA_ID | {"name": "media_id"},
        responses=AnalysisResponse,
        problems=(
            *(400, 504, *_FORWARDED),
            (404, "No such image, or no analysis; with Retry-After: not yet."),
        ),
        security="media",
    )
    yield operation(
        "GET /api/media/similar/{media_id}",
        AnalysisHandler.similar,
        _MEDIA_ID | {"name": "media_id"},
        query("limit", "Maximum number of images.", text("^(?:[1-9][0-9]?|100)$")),
        problems=(400, (404, "No such image, or it has no embedding.")),
        security="media",
    )


def _page() -> Operations:
    yield operation(
        "GET /api/gallery",
        InfoHandler.gallery,
        query("before", "Return lower ids only.", text(f"^({ID_PATTERN})?$")),
        query("limit", "Maximum number of images.", text("^(?:[1-9][0-9]?|100)?$")),
        responses=cached(GalleryPage),
        problems=(400, 503, _NOT_LOCAL),
    )
    explained = cached(AcceptExplanation)
    yield operation(
        "GET /api/page/accept",
        PageHandler.explain_accept,
        query("transparent", "Whether the image has transparency.", choice("01", "0")),
        query("animated", "Whether the image is an animation.", choice("01", "0")),
        responses=explained,
        problems=[400],
    )
    pixel = {"200": response(BINARY, "The pixel.", "image/gif")}
    yield operation("GET /api/page/accept.gif", PageHandler.show_accept, responses=pixel)


def _page_local() -> Operations:
    yield operation("GET /api/page/token", LocalPageHandler.trial_token, problems=[_NOT_LOCAL])
    yield operation(
        "GET /api/page/known",
        LocalPageHandler.known_file,
        query("sha256", "Of the file.", text("^[0-9a-f]{64}$"), required=True, example="0" * 64),
        problems=(400, 503, _NOT_LOCAL),
    )
    yield operation(
        "GET /api/page/uploads/{id}",
        LocalPageHandler.trial_upload,
        path("id", "Id of the upload."),
        problems=(400, 503, _NOT_LOCAL, _NO_UPLOAD),
    )


def _admin(settings: Settings) -> Operations:
    # Unlike for an image, an empty value is not allowed: it could purge more than intended.
    only = "Purge only this size, at every dpr and in every format."
    parameters = (
        path("id", "Purging an unknown id succeeds."),
        query("size", only, {"type": "string", "enum": [*settings.sizes]}),
        query("w", only, _WIDTH),
    )
    problems: tuple[int | tuple[int, str], ...] = (
        400,
        (403, "The server has no key."),
        (503, "The database or the storage failed; some renditions may remain."),
    )
    for handler, what in ((AdminHandler.purge_media, "media"), (AdminHandler.purge_user, "users")):
        route = f"DELETE /api/{what}/{{id}}/renditions"
        yield operation(route, handler, *parameters, problems=problems, security="key")
    yield operation(
        "DELETE /api/renditions", AdminHandler.purge_all, problems=problems, security="key"
    )
    yield operation(
        "GET /api/media/{id}/near-duplicates",
        AdminHandler.near_duplicates,
        _MEDIA_ID,
        query("before", "Compare only lower ids.", text(f"^{ID_PATTERN}$")),
        problems=(*_INFO, (403, "The server has no key.")),
        security="key",
    )


def _choices(settings: Settings) -> Operations:
    media = "/api/media/{id}"
    crops = cropping_sizes(settings.size_specs())
    # A crop can be deleted after its size was removed from the settings.
    size = path("size", 'A size with fit = "cover".', {"type": "string", "enum": crops})
    lang = query("lang", "Delete only this one (BCP 47).", _LANGUAGE)
    tables: tuple[tuple[str, Callable[..., object], tuple[Json, ...], Json | type | None], ...] = (
        (f"GET {media}/choices", ChoicesHandler.get_choices, (), None),
        (f"GET {media}/focus", ChoicesHandler.get_focus, (), None),
        (f"PUT {media}/focus", ChoicesHandler.set_focus, (), FocalPoint),
        (f"DELETE {media}/focus", ChoicesHandler.delete_focus, (), None),
        (f"GET {media}/crops/{{size}}", ChoicesHandler.get_crop, (size,), None),
        (f"PUT {media}/crops/{{size}}", ChoicesHandler.set_crop, (size,), CropRegion),
        (f"DELETE {media}/crops/{{size}}", ChoicesHandler.delete_crop, (size,), None),
        (f"GET {media}/background", ChoicesHandler.get_background, (), None),
        (f"PUT {media}/background", ChoicesHandler.set_background, (), BackgroundDefault),
        (f"DELETE {media}/background", ChoicesHandler.delete_background, (), None),
        (f"GET {media}/visibility", ChoicesHandler.get_visibility, (), None),
        (f"PUT {media}/visibility", ChoicesHandler.set_visibility, (), NewVisibility),
        (f"DELETE {media}/visibility", ChoicesHandler.delete_visibility, (), None),
        (f"GET {media}/alt", ChoicesHandler.get_alt, (), None),
        (f"PUT {media}/alt", ChoicesHandler.set_alt, (), _ALT_TEXTS),
        (f"DELETE {media}/alt", ChoicesHandler.delete_alt, (lang,), None),
    )
    problems = (400, 404, 503, (403, "The server has no key."))
    for route, handler, parameters, body in tables:
        yield operation(
            route, handler, _MEDIA_ID, *parameters, problems=problems, body=body, security="key"
        )


def _uploads() -> Operations:
    # Text fields may be sent too; the response lists them.
    fields = dict.fromkeys(UPLOAD_FIELDS, BINARY)
    form = {"type": "object", "minProperties": 1, "properties": fields}
    yield operation(
        "PATCH /users/me",
        UploadHandler.upload,
        problems=[
            (429, "The user has uploaded enough today, or too many wrong keys came from here."),
            (507, "There is no space for another upload."),
        ],
        body={"multipart/form-data": {"schema": form}},
        security="user",
    )
    yield operation("GET /users/me", UploadHandler.profile, security="user")
    limits = {"type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": MAX_LISTED}
    yield operation(
        "GET /api/media/pending/all",
        MediaApiHandler.pending,
        query("after", "List only uploads with larger ids.", {"type": "integer", "minimum": 0}),
        query("limit", "Maximum number of uploads to list.", limits),
        problems=(400,),
        security="media",
    )
    upload = path("id", "Id in pending_images.")
    yield operation(
        "POST /api/media/complete/{id}",
        MediaApiHandler.complete,
        upload,
        problems=_ENDED,
        body=CompletedUpload,
        security="media",
    )
    yield operation(
        "DELETE /api/media/cleanup/{id}",
        MediaApiHandler.cleanup,
        upload,
        query("reason", "A few words for the log.", {"type": "string"}),
        problems=(400, *_ENDED),
        security="media",
    )
    file = {
        "200": response(BINARY, "The file; without the key an image.", "*/*"),
        "206": response(BINARY, "The range.", "*/*"),
        "304": _VALID,
    }
    yield operation(
        "GET /temp_images/{folder}/{name}",
        MediaApiHandler.temp_image,
        path("folder", "The upload's folder.", {"enum": [*FOLDERS]}),
        path("name", "The file's name.", text("^[0-9A-Za-z][0-9A-Za-z._-]{0,199}$")),
        responses=file,
        problems=(416, (404, "There is no such file.")),
        security="media",
    )


def _server() -> Operations:
    good = {"200": response(_OBJECT, "Yes.")}
    bad = {"503": response(_OBJECT, "No; the body names the part that failed.")}
    metrics = {"200": response({"type": "string"}, "The metrics.", "text/plain")}
    document = {"200": response(_OBJECT, "An OpenAPI document.")}
    yield operation("GET /healthz", HealthHandler.health, responses=good)
    yield operation("GET /readyz", HealthHandler.readiness, responses=good | bad)
    api_good = {"200": response(ApiHealth)}
    api_bad = {"503": response(ApiHealth, "Images cannot be served.")}
    yield operation("GET /api/health", ApiHealthHandler.api_health, responses=api_good | api_bad)
    yield operation("GET /metrics", ServerInfoHandler.metrics, responses=metrics)
    yield operation("GET /openapi.json", ServerInfoHandler.openapi, responses=document)
