"""The routes of the metadata subsystem, as `proxy.web.routes` has those of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

from proxy.ingest.callbacks import MAX_URL
from proxy.metadata.extraction import Tier
from proxy.metadata.progress import SESSION_PATTERN
from proxy.storage.database.metadata_store import MAX_TAGS
from proxy.web.handlers.metadata import MetadataHandler, MetadataHealthHandler
from proxy.web.handlers.metadata_jobs import (
    JOB_ID_PATTERN,
    JOBS_PATH,
    MAX_JOB_IDS,
    AcceptedJob,
    MetadataCacheHandler,
    MetadataJobsHandler,
    NewMetadataJob,
    ShownJob,
    ShownJobs,
)
from proxy.web.handlers.metadata_json import (
    AdvancedAnswer,
    AnalyzeAnswer,
    BatchAnswer,
    ExtractAnswer,
    ExtractHealth,
    ImagesMvpAnswer,
    QuickAnswer,
    TierName,
)
from proxy.web.handlers.metadata_moderation import ModerationAnswer, ModerationHandler
from proxy.web.handlers.metadata_search import (
    GENERATORS,
    LIMIT_PATTERN,
    MAX_VERSION,
    QUALITY_PATTERN,
    MetadataSearchHandler,
)
from proxy.web.handlers.metadata_sockets import MetadataSocketHandler
from proxy.web.metadata_input import MAX_BATCH
from proxy.web.openapi import (
    BINARY,
    Json,
    Operation,
    choice,
    header,
    operation,
    path,
    query,
    response,
    text,
)
from proxy.web.request_input import ID_PATTERN

_ANYONE = ("user", "media", "session", "")
"""Callers of the routes that settings may open to requests without a token."""

# The first image of a library, so that Schemathesis also tests responses other than a 404.
_MEDIA_ID = path("media_id", "Media id.", examples={"plain": {"value": "1"}})

Operations = Iterator[Operation]


def metadata_operations() -> Operations:
    """Yield the operations of the metadata routes."""
    yield from _sockets()
    yield _moderation()
    yield from _jobs()
    yield from _search()
    yield from _extraction()


def _sockets() -> Operations:
    opened = {"101": {"description": "The WebSocket is open; see `deploy/METADATA.md`."}}
    problems = (
        400,
        (403, "A page of another server, or the tier of the token is unknown."),
        (426, "The request is no handshake of a WebSocket."),
        (429, "The user, or the address, has as many WebSockets as allowed."),
        (503, "The server has as many WebSockets as allowed, or it is stopping."),
    )
    yield operation(
        "GET /ws/analysis",
        MetadataSocketHandler.analysis_socket,
        responses=opened,
        problems=problems,
        security=_ANYONE,
    )
    session = path("sessionId", "Chosen by the client.", text(f"^{SESSION_PATTERN}$"))
    yield operation(
        "GET /api/images_mvp/progress/{sessionId}",
        MetadataSocketHandler.progress_socket,
        session,
        responses={**opened, "200": response({"type": "object"}, "The last state.")},
        problems=(401, *problems),
    )


def _moderation() -> Operation:
    media_id = text(f"^{ID_PATTERN}$")
    fields = {"image": BINARY, "media_id": media_id}
    form = {"type": "object", "properties": fields, "minProperties": 1}
    number: Json = {"type": "integer", "minimum": 0}
    chosen = {
        "type": "object",
        "required": ["media_id"],
        "properties": {"media_id": {"anyOf": [media_id, number]}},
    }
    return operation(
        "POST /api/metadata/moderate",
        ModerationHandler.moderate_image,
        responses=ModerationAnswer,
        problems=(
            (400, "There is no image or media_id, or both; or the file has another type."),
            (402, "The user cannot pay for the operation."),
            (403, "The tier is too low for the file; `needs` names the one that suffices."),
            (404, "There is no such image, or it belongs to someone else."),
            408,
            (413, "The file exceeds the limits of all tiers."),
            (422, "The file has more metadata than the limits allow."),
            (429, "Too many files wait, or the address has sent too many requests."),
            (500, "The engines could not read the file, or cannot be started."),
            (503, "The server is stopping, or the disk is full."),
            (504, "The extraction exceeded its time limit."),
        ),
        body={
            "multipart/form-data": {"schema": form},
            "application/json": {"schema": chosen},
        },
        security=_ANYONE,
    )


def _search() -> Operations:
    tag = "[^,]*"
    yield operation(
        "GET /api/metadata/search",
        MetadataSearchHandler.search_metadata,
        query("aiGenerator", "Source of `ai_generation`.", choice(GENERATORS, "")),
        query("hasPrompt", "Whether a prompt was found.", choice(("true", "false"), "")),
        query("mjVersion", "Version of Midjourney.", {"type": "string", "maxLength": MAX_VERSION}),
        query("minQuality", "Lowest quality of Midjourney.", text(f"^({QUALITY_PATTERN})?$")),
        query(
            "tags",
            f"At most {MAX_TAGS}, separated by commas; images with one of them are found. `ai-x`,"
            " `style-x` and `model-x` are accepted for `generator:x`, `style:x` and `model:x`.",
            text(f"^{tag}(,{tag}){{0,{MAX_TAGS - 1}}}$"),
        ),
        query("limit", "Maximum number of images, 50 by default.", text(f"^({LIMIT_PATTERN})?$")),
        query("cursor", "`next` of the page before.", text(f"^({ID_PATTERN})?$")),
        problems=(400, (403, "The tier of the token is unknown.")),
        security=("user", "media", "session"),
    )
    yield operation(
        "GET /api/metadata/{media_id}",
        MetadataSearchHandler.stored_metadata,
        _MEDIA_ID,
        problems=(
            400,
            (403, "The tier of the token is unknown."),
            (404, "No such image, it is someone else's, or its metadata was not extracted."),
        ),
        security=("user", "media", "session"),
    )


def _jobs() -> Operations:
    handler, callers = MetadataJobsHandler, ("user", "media", "session")
    unknown = (404, "The caller has no such job.")
    job_id = path("id", "Id of the job.", text(f"^{JOB_ID_PATTERN}$"))
    form = {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": BINARY,
            "tier": {"enum": [*Tier], "description": "A tier below the caller's."},
            "options": {"type": "string", "contentMediaType": "application/json"},
            "callback": {"type": "string", "maxLength": MAX_URL},
        },
    }
    location = {"Location": header(f"^{JOBS_PATH}/[0-9a-f]{{32}}$")}
    yield operation(
        f"POST {JOBS_PATH}",
        handler.add_job,
        responses={"202": response(AcceptedJob, headers=location)},
        problems=(
            (400, "The file, the options or the callback are not allowed; see `code`."),
            (402, "The user cannot pay for the operation."),
            (403, "The tier is too low for the request or the file."),
            (404, "The caller has no such stored image."),
            (429, "Too many jobs are unfinished; see Retry-After."),
            (500, "The engines cannot be started."),
            (507, "The disk is full."),
        ),
        body={
            "multipart/form-data": {"schema": form},
            "application/json": {"schema": NewMetadataJob},
        },
        security=callers,
    )
    pattern = text(f"^{JOB_ID_PATTERN}(,{JOB_ID_PATTERN}){{0,{MAX_JOB_IDS - 1}}}$")
    about = f"At most {MAX_JOB_IDS}, separated by commas."
    yield operation(
        f"GET {JOBS_PATH}",
        handler.list_jobs,
        query("ids", about, pattern, required=True),
        responses=ShownJobs,
        problems=[400],
        security=callers,
    )
    yield operation(
        f"GET {JOBS_PATH}/{{id}}",
        handler.find_job,
        job_id,
        responses=ShownJob,
        problems=[unknown],
        security=callers,
    )
    yield operation(
        f"DELETE {JOBS_PATH}/{{id}}",
        handler.delete_job,
        job_id,
        responses={"204": {"description": "The job is deleted."}},
        problems=[unknown],
        security=callers,
    )
    yield operation(
        "GET /api/extract/cache/stats",
        MetadataCacheHandler.cache_statistics,
        problems=[(403, "The server has no key.")],
        security="key",
    )


def _extraction() -> Operations:
    problems = (
        (400, "The form has no file, a wrong field, or a file of another type; see `code`."),
        (401, "The token is missing or not valid."),
        (402, "The user cannot pay for the operation."),
        (403, "The tier is too low for the request or the file; `needs` names a sufficient one."),
        408,
        (413, "The file exceeds the limits of all tiers."),
        (422, "The file has more metadata than the limits allow."),
        (429, "Too many files wait, or the address has sent too many requests; see Retry-After."),
        (500, "The engines could not read the file, or cannot be started."),
        (503, "The server is stopping, or the disk is full; see Retry-After."),
        (504, "The extraction exceeded its time limit."),
    )
    tier: Json = {"enum": list(get_args(TierName)), "description": "A tier below the caller's."}
    # Browsers send a field that was left empty.
    session = {**text(f"^({SESSION_PATTERN})?$"), "description": "Reports the progress to sockets."}

    def route(
        method: Callable[..., object],
        address: str,
        answer: type,
        field: str = "file",
        *,
        anonymous: bool = False,
    ) -> Operation:
        file = {"type": "array", "items": BINARY, "maxItems": MAX_BATCH, "minItems": 1}
        properties = {field: file if field == "files" else BINARY, "tier": tier}
        if field != "files":
            properties["sessionId"] = session
        form = {"type": "object", "required": [field], "properties": properties}
        return operation(
            f"POST {address}",
            method,
            responses=answer,
            problems=problems,
            body={"multipart/form-data": {"schema": form}},
            security=_ANYONE if anonymous else _ANYONE[:-1],
        )

    handler = MetadataHandler
    analyze = "/api/standalone-metadata/analyze"
    yield route(handler.analyze, analyze, AnalyzeAnswer, "image", anonymous=True)
    yield route(handler.quick_analyze, "/api/analyze", QuickAnswer, "image", anonymous=True)
    yield route(handler.extract, "/api/extract", ExtractAnswer)
    yield route(handler.extract_batch, "/api/extract/batch", BatchAnswer, "files")
    yield route(handler.extract_advanced, "/api/extract/advanced", AdvancedAnswer)
    yield route(handler.images_mvp_extract, "/api/images_mvp/extract", ImagesMvpAnswer)
    health = {
        "200": response(ExtractHealth),
        "503": response(ExtractHealth, "It does not work; the body names the part that failed."),
    }
    yield operation(
        "GET /api/extract/health", MetadataHealthHandler.extract_health, responses=health
    )
