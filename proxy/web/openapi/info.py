"""The part of the OpenAPI description that tells of pictures: ``/info`` and ``/oembed``."""

from __future__ import annotations

from typing import Any

from proxy.domain.formats import Format
from proxy.serving.image_info import MAX_DATA_URI
from proxy.web.handlers.info import MAX_IDS
from proxy.web.id_params import DIGITS
from proxy.web.problem_details import MEDIA_TYPE

Json = dict[str, Any]

_PROBLEMS = {
    "400": "A parameter has a value that is not allowed; the answer names it.",
    "404": "There is no such picture, or it is still being processed (Retry-After).",
    "415": "The original is of a kind that is not served.",
    "422": "The original is corrupt or past a limit.",
    "500": "The server is at fault.",
    "503": "Too busy, or the database or the storage is down; see Retry-After.",
    "504": "Looking at the picture or the storage took too long.",
}
_BODY = {
    "400": "The body is not what it has to be; the answer says what.",
    "408": "The body did not come.",
    "413": "The body is too large.",
    "415": "The body is not application/json, or it is packed.",
}
ID_PATTERN = "[0-9]{1,19}"
TEXT: Json = {"type": ["string", "null"]}
_ADDRESS: Json = {"type": "string", "pattern": "^/"}
_BOX: Json = {
    "type": "object",
    "required": ["width", "height"],
    "properties": {key: {"type": "integer", "minimum": 1} for key in ("width", "height")},
}
_STAGES: Json = {"type": "object", "additionalProperties": {"enum": ["draft", "final"]}}

PICTURE: Json = {
    "type": "object",
    "required": ["id", "version", "width", "height", "ratio", "placeholders", "srcset", "urls"],
    "properties": {
        "id": {"type": "integer", "minimum": 0},
        "version": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
        "width": {"type": "integer", "minimum": 1},
        "height": {"type": "integer", "minimum": 1},
        "ratio": {"type": "number", "exclusiveMinimum": 0},
        "animated": {"type": "boolean"},
        "transparent": {"type": "boolean"},
        "placeholders": {
            "type": "object",
            "required": ["thumbhash", "blurhash", "data_uri"],
            "properties": {
                "thumbhash": {"type": "string", "contentEncoding": "base64"},
                "blurhash": {"type": "string", "minLength": 6},
                "data_uri": {
                    "type": "string",
                    "pattern": "^data:image/webp;base64,",
                    "maxLength": MAX_DATA_URI,
                },
            },
        },
        "dominant_colors": {"type": "array", "items": {"type": "object"}},
        "alt": TEXT,
        "analysis": {
            "type": "object",
            "properties": {
                "kind": {"type": "string"},
                "style": TEXT,
                "medium": TEXT,
                "quality_score": {"type": "integer", "minimum": 0, "maximum": 100},
                "mood_keywords": {"type": "array", "items": {"type": "string"}},
            },
        },
        "urls": {"type": "object", "additionalProperties": _ADDRESS},
        "dimensions": {"type": "object", "additionalProperties": _BOX},
        "srcset": {"type": "object", "additionalProperties": _ADDRESS},
        "sizes": {"type": "string"},
        "formats": {
            "type": "object",
            "properties": {
                "served": {"type": "array", "items": {"enum": list(Format)}},
                "ready": {"type": "object", "additionalProperties": _STAGES},
            },
        },
        "links": {"type": "object", "additionalProperties": _ADDRESS},
    },
}

_SIDE: Json = {"type": "integer", "minimum": 1}
_PHOTO: Json = {
    "type": "object",
    "required": ["version", "type", "url", "width", "height"],
    "properties": {
        "version": {"const": "1.0"},
        "type": {"const": "photo"},
        "url": {"type": "string", "pattern": "^https?://"},
        "width": _SIDE,
        "height": _SIDE,
        "thumbnail_url": {"type": "string", "pattern": "^https?://"},
        "thumbnail_width": _SIDE,
        "thumbnail_height": _SIDE,
        "provider_name": {"type": "string"},
        "provider_url": {"type": "string"},
        "cache_age": {"type": "integer"},
    },
}
_MISSING: Json = {
    "type": "object",
    "required": ["id", "status", "detail"],
    "properties": {
        "id": {"type": "integer"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
    },
}
_MANY: Json = {
    "type": "object",
    "required": ["pictures", "missing"],
    "properties": {
        "pictures": {"type": "array", "items": PICTURE},
        "missing": {"type": "array", "items": _MISSING},
    },
}


def info_paths() -> Json:
    """The addresses of what is known of pictures."""
    one = {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "Media id of 1 to 19 digits.",
        "schema": {"type": "string", "pattern": f"^{ID_PATTERN}$"},
        "examples": {"plain": {"value": "1"}},
    }
    ids = {
        "name": "ids",
        "in": "query",
        "required": True,
        "description": "1 to 100 media ids with commas between them.",
        "schema": {"type": "string", "pattern": f"^{ID_PATTERN}(,{ID_PATTERN}){{0,99}}$"},
        "examples": {"two": {"value": "1,2"}},
    }
    summary = "Dimensions, placeholders, colours and addresses of a picture."
    many = {
        "operationId": "infoMany",
        "summary": "The same of up to 100 pictures; what cannot be told is listed as missing.",
        "parameters": [ids],
        "responses": {**found(_MANY), **told("400")},
    }
    return {
        "/info/{id}": {
            "parameters": [one],
            "get": {
                "operationId": "info",
                "summary": summary,
                "responses": {**found(PICTURE), **told(*_PROBLEMS)},
            },
            "head": {
                "operationId": "infoHead",
                "summary": "The headers of that.",
                "responses": _bodiless({**found(PICTURE), **told(*_PROBLEMS)}),
            },
        },
        "/info": {"get": many, "post": _posted(), "options": _preflight()},
        "/oembed": _oembed(),
    }


def _posted() -> Json:
    number = {"type": "integer", "minimum": 0, "maximum": 10**DIGITS - 1}
    ids = {"type": "array", "items": number, "minItems": 1, "maxItems": MAX_IDS}
    body = {"type": "object", "required": ["ids"], "properties": {"ids": ids}}
    told_of = {"description": "What is known.", "content": {"application/json": {"schema": _MANY}}}
    return {
        "operationId": "infoPosted",
        "summary": "The same, with the ids in the body; other members of it are passed over.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body, "example": {"ids": [1, 2]}}},
        },
        "responses": {"200": told_of, **described(_BODY)},
    }


def _preflight() -> Json:
    return {
        "operationId": "infoPreflight",
        "summary": "What a browser asks before it sends JSON from a page of another origin.",
        "responses": {"204": {"description": "Any origin may, with GET, HEAD and POST."}},
    }


def _oembed() -> Json:
    url = {
        "name": "url",
        "in": "query",
        "required": True,
        "description": "The address of a picture of this server.",
        "schema": {"type": "string", "pattern": "^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/"},
        "example": "http://localhost/serve/1",
    }
    side = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 99999}, {"const": ""}]}
    form = {"type": "string", "enum": ["json", ""], "default": "json"}
    sides = [
        {"name": name, "in": "query", "schema": side, "description": "In pixels, at most."}
        for name in ("maxwidth", "maxheight")
    ]
    kind = {
        "name": "format",
        "in": "query",
        "schema": form,
        "description": "xml, which is not spoken, is a 501.",
    }
    return {
        "parameters": [url, *sides, kind],
        "get": {
            "operationId": "oembed",
            "summary": "A picture as a photo of oEmbed 1.0.",
            "responses": {
                **found(_PHOTO),
                **told(*_PROBLEMS),
                **described({"501": "The format is not spoken."}),
            },
        },
    }


def found(schema: Json) -> Json:
    """The answers of what was found: with an ETag, and a 304 to who has it."""
    tag = {"required": True, "schema": {"type": "string", "pattern": '^"[0-9a-f]{32}"$'}}
    content = {"application/json": {"schema": schema}}
    return {
        "200": {"description": "What is known.", "headers": {"ETag": tag}, "content": content},
        "304": {"description": "The copy that the client has is good.", "headers": {"ETag": tag}},
    }


def told(*statuses: str) -> Json:
    """Problems by their statuses."""
    return described({status: _PROBLEMS[status] for status in statuses})


def described(problems: Json) -> Json:
    """Problems by their statuses, in these words."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": text, "content": {MEDIA_TYPE: schema}}
        for status, text in problems.items()
    }


def _bodiless(responses: Json) -> Json:
    return {
        status: {name: part for name, part in response.items() if name != "content"}
        for status, response in responses.items()
    }
