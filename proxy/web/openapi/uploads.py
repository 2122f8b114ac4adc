"""The part of the OpenAPI description that is the main side: uploads and the media API."""

from __future__ import annotations

from typing import Any

from proxy.domain.pending_image import UPLOAD_FIELDS, PendingStatus
from proxy.storage.upload_files.names import FOLDERS
from proxy.web.problem_details import MEDIA_TYPE

Json = dict[str, Any]

MEDIA_KEY: Json = {
    "type": "http",
    "scheme": "bearer",
    "description": "main.key of the settings, MEDIA_API_KEY.",
}
USER_TOKEN: Json = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "A token of a user, as [users] has it; `smartserve token` makes one.",
}

_KEYED = {
    "401": "No key, or a wrong one.",
    "429": "Too many wrong keys from this address; see Retry-After.",
    "503": "The main database or the disk is down; see Retry-After.",
}
_BODY = {
    "400": "The body is not what it has to be; the answer says why.",
    "408": "The body did not go on.",
    "413": "The body, or a file in it, is too large.",
    "415": "The body is not of the kind that is taken.",
}
_ENDED = {
    "400": "The id is no number.",
    "404": "There is no such upload.",
    "409": "The upload has come to another end, or two media are named.",
}


def main_paths() -> Json:
    """The addresses of the main side."""
    return {
        "/users/me": {"patch": _upload()},
        "/api/media/pending/all": {"get": _pending()},
        "/api/media/complete/{id}": {"parameters": [_ID], "post": _complete()},
        "/api/media/cleanup/{id}": {"parameters": [_ID], "delete": _cleanup()},
        "/temp_images/{folder}/{name}": {"parameters": _PLACE, "get": _temp_image()},
    }


_ID: Json = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "Of pending_images; 1 to 19 digits.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
}
_PLACE: list[Json] = [
    {"name": "folder", "in": "path", "required": True, "schema": {"enum": list(FOLDERS)}},
    {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9A-Za-z][0-9A-Za-z._-]{0,199}$"},
    },
]
_PATH: Json = {"type": "string", "pattern": "^/temp_images/"}
_TEXT: Json = {"type": ["string", "null"]}
_STATUS: Json = {"enum": [status.value for status in PendingStatus]}
_NUMBER: Json = {"type": "integer"}


def _upload() -> Json:
    fields = {name: {"type": "string", "format": "binary"} for name in UPLOAD_FIELDS}
    image = {
        "id": _NUMBER,
        "field": {"enum": list(UPLOAD_FIELDS)},
        "image_path": _PATH,
        "original_name": _TEXT,
        "mime_type": {"type": "string"},
        "byte_size": _NUMBER,
        "status": _STATUS,
    }
    problems = {
        **_BODY,
        **_KEYED,
        "401": "No token, or none that holds.",
        "507": "There is no room for another upload.",
    }
    return {
        "operationId": "upload",
        "summary": "Upload pictures; answered when they are on the disk and in the queue.",
        "security": [{"user": []}],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {"type": "object", "minProperties": 1, "properties": fields}
                }
            },
        },
        "responses": {
            "200": _json("What was stored.", {"success": _TRUE, "images": _list(image)}),
            **_problems(problems),
        },
    }


def _pending() -> Json:
    image = {
        "id": _NUMBER,
        "user_id": _NUMBER,
        "image_path": {"type": "string"},
        "original_name": _TEXT,
        "mime_type": _TEXT,
        "status": _STATUS,
        "created_at": {"type": "string", "format": "date-time"},
    }
    return {
        "operationId": "pending",
        "summary": "Uploads that wait to be processed, the oldest first; total counts all.",
        "security": [{"media": []}],
        "responses": {
            "200": _json("The queue.", {"images": _list(image), "total": _NUMBER}),
            **_problems(_KEYED),
        },
    }


def _complete() -> Json:
    number = {
        "anyOf": [
            {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"},
            {"type": "integer", "minimum": 1, "maximum": 2**53 - 1},
        ]
    }
    address = {"type": "string", "pattern": "^https?://[a-z0-9.:/-]+/[1-9][0-9]{0,17}$"}
    body = {
        "type": "object",
        "properties": {"media_id": number, "permanent_url": address},
        "anyOf": [{"required": ["media_id"]}, {"required": ["permanent_url"]}],
    }
    answer = {
        "success": _TRUE,
        "imageId": _NUMBER,
        "media_id": {"type": "string"},
        "status": {"const": PendingStatus.PROCESSED.value},
        "smart_url_preview": {"type": "string"},
    }
    return {
        "operationId": "complete",
        "summary": "Tell which medium an upload has become; the same may be told again.",
        "security": [{"media": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": _json("It is noted.", answer),
            **_problems({**_BODY, **_ENDED, **_KEYED, "400": _BODY["400"]}),
        },
    }


def _cleanup() -> Json:
    reason = {
        "name": "reason",
        "in": "query",
        "required": False,
        "description": "A few words for the log.",
        "schema": {"type": "string"},
    }
    return {
        "operationId": "cleanup",
        "summary": "Tell that an upload has failed; its file goes. May be told again.",
        "parameters": [reason],
        "security": [{"media": []}],
        "responses": {
            "200": _json("It is noted.", {"success": _TRUE, "message": {"type": "string"}}),
            **_problems({**_ENDED, **_KEYED}),
        },
    }


def _temp_image() -> Json:
    binary = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "operationId": "tempImage",
        "summary": "The bytes of an upload; Range and If-Range go on with a broken download.",
        "security": [{"media": []}],
        "responses": {
            "200": {"description": "All of it.", "content": binary},
            "206": {"description": "The part that Range asked for.", "content": binary},
            "304": {"description": "The copy that the client has is good."},
            **_problems(
                {
                    "404": "There is no such file.",
                    "416": "The range lies outside the file.",
                    **_KEYED,
                }
            ),
        },
    }


_TRUE: Json = {"const": True}


def _list(properties: Json) -> Json:
    return {"type": "array", "items": _object(properties)}


def _object(properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}


def _json(text: str, properties: Json) -> Json:
    return {
        "description": text,
        "content": {"application/json": {"schema": _object(properties)}},
    }


def _problems(texts: dict[str, str]) -> dict[str, Json]:
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": text, "content": {MEDIA_TYPE: schema}}
        for status, text in texts.items()
    }
