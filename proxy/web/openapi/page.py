"""The part of the OpenAPI description that the page at ``/`` asks."""

from __future__ import annotations

from typing import Any

from proxy.domain.formats import Format
from proxy.domain.pending_image import PendingStatus
from proxy.web.openapi.info import ID_PATTERN, TEXT, described, found, told

Json = dict[str, Any]

_LISTED: Json = {
    "type": "object",
    "required": ["id", "version", "width", "height", "thumbhash"],
    "properties": {
        "id": {"type": "integer"},
        "name": TEXT,
        "settled": {"type": "boolean"},
        "version": TEXT,
        "width": {"type": ["integer", "null"]},
        "height": {"type": ["integer", "null"]},
        "thumbhash": TEXT,
    },
}
_GALLERY: Json = {
    "type": "object",
    "required": ["pictures", "next"],
    "properties": {
        "pictures": {"type": "array", "items": _LISTED},
        "next": {"type": ["integer", "null"]},
    },
}
_EXPLAINED: Json = {
    "type": "object",
    "required": ["accept", "chosen", "formats", "why"],
    "properties": {
        "accept": {"type": "string"},
        "chosen": {"enum": list(Format)},
        "formats": {"type": "array", "items": {"type": "object"}},
        "why": {"type": "string"},
    },
}
_TOKEN: Json = {
    "type": "object",
    "required": ["token", "expires_in"],
    "properties": {"token": {"type": "string"}, "expires_in": {"type": "integer"}},
}
_UPLOAD: Json = {
    "type": "object",
    "required": ["id", "status", "media_id"],
    "properties": {
        "id": {"type": "integer"},
        "status": {"enum": list(PendingStatus)},
        "media_id": {"type": ["integer", "null"]},
    },
}
_HOME = {"403": "Not a browser on the machine of the server, asking by its own page."}


def page_paths(*, trial: bool) -> Json:
    """The addresses that the page asks, with those for who tries the server where he sits at it."""
    before = {"name": "before", "in": "query", "schema": {"type": "string", "pattern": _ID_OR_NONE}}
    limit = {"name": "limit", "in": "query", "schema": {"type": "string", "pattern": _LIMIT}}
    paths = {
        "/api/gallery": {
            "parameters": [
                {**before, "description": "Only those with lower ids."},
                {**limit, "description": "How many at most."},
            ],
            "get": {
                "operationId": "gallery",
                "summary": "The newest pictures, with what is known of them already.",
                "responses": {**found(_GALLERY), **told("400", "503")},
            },
        },
        "/api/page/accept": {"get": _explained()},
        "/api/page/accept.gif": {"get": _pixel()},
    }
    return paths | (_trial_paths() if trial else {})


_ID_OR_NONE = f"^({ID_PATTERN})?$"
_LIMIT = "^(?:[1-9][0-9]?|100)?$"


def _explained() -> Json:
    return {
        "operationId": "explainAccept",
        "summary": "Which format the Accept header of this request gets, and why.",
        "responses": found(_EXPLAINED),
    }


def _pixel() -> Json:
    content = {"image/gif": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "operationId": "showAccept",
        "summary": "A pixel that tells the Accept header of its request in Server-Timing.",
        "responses": {"200": {"description": "The pixel.", "content": content}},
    }


def _trial_paths() -> Json:
    upload = {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "Of an upload, 1 to 19 digits.",
        "schema": {"type": "string", "pattern": f"^{ID_PATTERN}$"},
    }
    return {
        "/api/page/token": {
            "get": {
                "operationId": "trialToken",
                "summary": "A token to upload with, for a quarter of an hour.",
                "responses": {**_json(_TOKEN), **described(_HOME)},
            }
        },
        "/api/page/uploads/{id}": {
            "parameters": [upload],
            "get": {
                "operationId": "trialUpload",
                "summary": "How far an upload has come.",
                "responses": {
                    **_json(_UPLOAD),
                    **told("400", "503"),
                    **described({**_HOME, "404": "There is no such upload."}),
                },
            },
        },
    }


def _json(schema: Json) -> Json:
    content = {"application/json": {"schema": schema}}
    return {"200": {"description": "What was asked for.", "content": content}}
