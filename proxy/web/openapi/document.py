"""The OpenAPI description of the HTTP surface, made from the settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from proxy import __version__
from proxy.domain.formats import NAMES, TRAITS
from proxy.domain.query import DEFAULT_SIZE, DPRS, WIDTHS
from proxy.domain.urls import API_IMAGES_ROUTE, SERVE_ROUTE
from proxy.settings import Settings, has_page, has_trial
from proxy.web.openapi.info import info_paths
from proxy.web.openapi.page import page_paths
from proxy.web.openapi.uploads import MEDIA_KEY, USER_TOKEN, main_paths
from proxy.web.problem_details import MEDIA_TYPE

Json = dict[str, Any]

_PROBLEM: Json = {
    "type": "object",
    "required": ["title", "status", "detail"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "parameter": {"type": "string"},
        "allowed": {"type": "string"},
        "forwarded": {"type": "boolean"},
    },
}

_PROBLEMS = {
    "400": "A parameter has a value that is not allowed; the answer names it.",
    "404": "There is no such picture, or it is still being processed (Retry-After).",
    "415": "The original is of a kind that is not served.",
    "416": "The range lies outside the picture.",
    "422": "The original is corrupt or past a limit.",
    "500": "The server is at fault.",
    "503": "Too busy, or the database or the storage is down; see Retry-After.",
    "504": "Rendering or the storage took too long.",
}


_KEY: Json = {
    "type": "http",
    "scheme": "bearer",
    "description": "admin.key of the settings.",
}


_ANALYSIS_PROBLEMS = {
    "400": _PROBLEMS["400"],
    "401": "No key, or a wrong one.",
    "404": "There is no such picture, or it is not analysed; yet, where there is a Retry-After.",
    "429": "Too many wrong keys from this address; see Retry-After.",
    "503": "The database is down; see Retry-After.",
}

_ADMIN_PROBLEMS = {
    "400": _PROBLEMS["400"],
    "401": "No key, or a wrong one.",
    "403": "The server has no key set.",
    "429": "Too many wrong keys from this address; see Retry-After.",
    "503": "The database or the rendition directory is down: some may still be there.",
}


def describe(settings: Settings) -> Json:
    """The whole description, as JSON values (OpenAPI 3.1)."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "smartserve",
            "version": __version__,
            "description": "Serves pictures by media id in the best format the client accepts.",
        },
        "paths": {
            SERVE_ROUTE: _picture_path("serve", settings),
            API_IMAGES_ROUTE: _picture_path("apiImages", settings),
            **info_paths(),
            **(page_paths(trial=has_trial(settings)) if has_page(settings) else {}),
            "/api/media/analysis/{media_id}": _analysis_path(),
            **(_admin_paths(settings) if settings.admin.enabled else {}),
            **(main_paths() if settings.main.enabled else {}),
            "/healthz": {"get": _plain("health", "Whether the process lives.", ["200"])},
            "/readyz": {"get": _plain("readiness", "Whether it can serve.", ["200", "503"])},
            "/metrics": {"get": _text("metrics", "Prometheus metrics.")},
            "/openapi.json": {"get": _plain("openapi", "This description.", ["200"])},
        },
        "components": {
            "schemas": {"Problem": _PROBLEM},
            "securitySchemes": {"key": _KEY, "media": MEDIA_KEY, "user": USER_TOKEN},
        },
    }


def _picture_path(name: str, settings: Settings) -> Json:
    return {
        "parameters": list(_parameters(settings)),
        "get": {
            "operationId": name,
            "summary": "A picture, in the best format that Accept names.",
            "responses": {**_pictures(), **_problems(_PROBLEMS)},
        },
        "head": {
            "operationId": f"{name}Head",
            "summary": "The headers of the picture; nothing is rendered.",
            "responses": {
                status: {name: part for name, part in response.items() if name != "content"}
                for status, response in {**_pictures(), **_problems(_PROBLEMS)}.items()
            },
        },
    }


def _parameters(settings: Settings) -> Iterable[Json]:
    extensions = "|".join(NAMES)
    yield {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "Media id of 1 to 19 digits; an extension means the same as format.",
        "schema": {"type": "string", "pattern": rf"^[0-9]{{1,19}}(\.({extensions}))?$"},
        "examples": {"plain": {"value": "1"}, "webp": {"value": "1.webp"}},
    }
    yield _query("size", _choice(settings.sizes, DEFAULT_SIZE))
    width = {"type": "integer", "minimum": 1, "maximum": WIDTHS[-1]}
    yield _query("w", {"anyOf": [width, {"const": ""}]})
    yield _query("dpr", _choice(DPRS, "1"))
    yield _query("format", _choice(["auto", *NAMES], "auto"))
    yield _query("bg", _choice(["original", "removed"], "original"))
    yield _query("v", {"type": "string"})


def _choice(values: Iterable[str], default: str) -> Json:
    """One of a closed set; empty counts as not given, as in the query of an unfilled template."""
    return {"type": "string", "enum": [*values, ""], "default": default}


_MEANINGS = {
    "size": "A named size; pictures are never enlarged.",
    "w": "A width in pixels in place of size, snapped up to a ladder.",
    "dpr": "Device pixels to a CSS pixel.",
    "format": "auto picks by the Accept header.",
    "bg": "removed cuts a flat background out; not with JPEG.",
    "v": "Any token that changes when the picture does; the answer is then immutable.",
}


def _query(name: str, schema: Json, meaning: str | None = None) -> Json:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": meaning or _MEANINGS[name],
        "schema": schema,
    }


def _pictures() -> dict[str, Json]:
    types = {traits.media_type for traits in TRAITS.values()}
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in sorted(types)}
    part = {**_HEADERS, "Content-Range": _header(r"^bytes [0-9]+-[0-9]+/[0-9]+$")}
    return {
        "200": {"description": "The picture.", "headers": _HEADERS, "content": content},
        "206": {
            "description": "The part that Range asked for.",
            "headers": part,
            "content": content,
        },
        "304": {"description": "The copy that the client has is good.", "headers": _HEADERS},
    }


def _admin_paths(settings: Settings) -> Json:
    media = _purge("purgeMedia", "Drop the renditions of a picture.", ["dropped"])
    user = _purge(
        "purgeUser", "Drop the renditions of all pictures of a user.", ["media", "dropped"]
    )
    parameters = [
        {
            "name": "id",
            "in": "path",
            "required": True,
            "description": "1 to 19 digits; one that is not known is purged already.",
            "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
        },
        _query("size", {"type": "string", "enum": [*settings.sizes]}, _ONLY),
        _query("w", {"type": "integer", "minimum": 1, "maximum": WIDTHS[-1]}, _ONLY),
    ]
    return {
        "/api/media/{id}/renditions": {"parameters": parameters, "delete": media},
        "/api/users/{id}/renditions": {"parameters": parameters, "delete": user},
    }


_ONLY = "This size in place of all, at every dpr and in every format."


def _purge(name: str, summary: str, counts: list[str]) -> Json:
    count = {"type": "integer", "minimum": 0}
    schema = {
        "type": "object",
        "required": counts,
        "properties": dict.fromkeys(counts, count),
    }
    return {
        "operationId": name,
        "summary": f"{summary} On every node that shares the directory; may be done again.",
        "security": [{"key": []}],
        "responses": {
            "200": {
                "description": "How many were dropped.",
                "content": {"application/json": {"schema": schema}},
            },
            **_problems(_ADMIN_PROBLEMS),
        },
    }


_ANALYSIS: Json = {
    "type": "object",
    "required": ["success", "analysis"],
    "properties": {
        "success": {"const": True},
        "analysis": {
            "type": "object",
            "properties": {
                "style": {"type": ["string", "null"]},
                "medium": {"type": ["string", "null"]},
                "quality_score": {"type": ["integer", "null"], "minimum": 0, "maximum": 100},
                "mood_keywords": {"type": ["array", "null"], "items": {"type": "string"}},
                "brand_colors": {"type": ["array", "null"], "items": {"type": "string"}},
                "site_context": {"type": ["object", "null"]},
                "dominant_colors": {"type": ["array", "null"], "items": {"type": "object"}},
                "detected_objects": {"type": ["array", "null"], "items": {"type": "object"}},
                "confidence_score": {"type": ["number", "null"]},
            },
        },
    },
}


def _analysis_path() -> Json:
    parameter = {
        "name": "media_id",
        "in": "path",
        "required": True,
        "description": "1 to 19 digits.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
        "examples": {"plain": {"value": "1"}},
    }
    operation = {
        "operationId": "analysis",
        "summary": "What is known of a picture; null is what nobody could tell, with the reason.",
        "security": [{"media": []}],
        "responses": {
            "200": {
                "description": "The analysis.",
                "content": {"application/json": {"schema": _ANALYSIS}},
            },
            **_problems(_ANALYSIS_PROBLEMS),
        },
    }
    return {"parameters": [parameter], "get": operation}


def _header(pattern: str) -> Json:
    return {"required": True, "schema": {"type": "string", "pattern": pattern}}


_HEADERS = {
    "ETag": _header('^"[0-9a-f]{32}"$'),
    "Cache-Control": _header(r"^public, max-age=[0-9]+(, [a-z-]+(=[0-9]+)?)*$"),
    "Cache-Status": _header("^smartserve; (hit|fwd=uri-miss)(; [a-z-]+(=[a-z-]+)?)*$"),
    "X-Request-Id": _header("^[0-9a-f]+-[0-9a-f]+$"),
}
"""Headers of an answer that is, or stands for, a picture."""


def _problems(texts: Mapping[str, str]) -> dict[str, Json]:
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": text, "content": {MEDIA_TYPE: schema}}
        for status, text in texts.items()
    }


def _plain(name: str, summary: str, statuses: list[str]) -> Json:
    content = {"application/json": {"schema": {"type": "object"}}}
    responses = {status: {"description": summary, "content": content} for status in statuses}
    return {"operationId": name, "summary": summary, "responses": responses}


def _text(name: str, summary: str) -> Json:
    content = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": summary, "content": content}},
    }
