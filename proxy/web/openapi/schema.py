"""Builds parts of an OpenAPI 3.1 document; JSON schemas are generated from the handlers' types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from proxy.web.id_params import ID_PATTERN
from proxy.web.problem_details import MEDIA_TYPE, Problem

Json = dict[str, Any]

BINARY: Json = {"type": "string", "format": "binary"}
PROBLEMS = {
    400: "A parameter or the body is not valid; the response says what is allowed.",
    401: "The key or token is missing or not valid.",
    404: "There is no such image, or it is still being processed (Retry-After).",
    408: "The body stopped arriving.",
    413: "The body, or a file in it, is too large.",
    415: "The original, or the body, is of a type that is not accepted.",
    416: "The range lies outside the file.",
    422: "The original is corrupt or exceeds a limit.",
    429: "Too many wrong keys came from this address; see Retry-After.",
    500: "The server failed.",
    503: "Too busy, or the database or the storage is unavailable; see Retry-After.",
    504: "Rendering or the storage took too long.",
}


def operation(
    name: str,
    summary: str,
    responses: Mapping[str, Json] | type,
    *parameters: Json,
    problems: Iterable[int] = (),
    texts: Mapping[int, str] | None = None,
    body: Json | None = None,
    security: str | None = None,
) -> Json:
    """Return an operation. ``responses`` may be the type of a 200's JSON.

    ``problems`` are described as in `PROBLEMS`; ``texts`` adds others, or replaces descriptions.
    """
    if isinstance(responses, type):
        responses = {"200": response(responses)}
    described = {status: PROBLEMS[status] for status in problems} | dict(texts or {})
    content = {"content": {MEDIA_TYPE: {"schema": Problem}}}
    errors = {str(status): {"description": text, **content} for status, text in described.items()}
    optional: Json = {
        "parameters": parameters,
        "requestBody": body and {"required": True, "content": body},
        "security": security and [{security: []}],
    }
    return {
        "operationId": name,
        "summary": summary,
        **{key: value for key, value in optional.items() if value},
        "responses": {**responses, **errors},
    }


def head_of(get: Json, name: str, summary: str) -> Json:
    """Return the HEAD operation of a GET operation: the same responses without content."""
    responses = {
        status: {key: value for key, value in one.items() if key != "content"}
        for status, one in get["responses"].items()
    }
    return {**get, "operationId": name, "summary": summary, "responses": responses}


def response(
    model: type | Json,
    description: str = "",
    media_type: str = "application/json",
    **extra: Json,
) -> Json:
    """Return a response with a body: ``model`` is a type, whose docstring is used, or a schema."""
    text = description or str(model.__doc__).partition("\n")[0]
    return {"description": text, **extra, "content": {media_type: {"schema": model}}}


def header(pattern: str) -> Json:
    """Return a response header that is always present."""
    return {"required": True, "schema": text(pattern)}


def cached(model: type) -> dict[str, Json]:
    """Return the responses with an ETag: 200 with this body, and 304."""
    etag = {"ETag": header('^"[0-9a-f]{32}"$')}
    valid = {"description": "The client's copy is still valid.", "headers": etag}
    return {"200": response(model, headers=etag), "304": valid}


def query(name: str, description: str, schema: Json, **extra: Any) -> Json:
    """Return an optional query parameter; ``extra`` may make it required or add examples."""
    fixed = {"name": name, "in": "query", "required": False, "description": description}
    return {**fixed, "schema": schema, **extra}


def path(name: str, description: str, schema: Json | None = None, **extra: Any) -> Json:
    """Return a path parameter, by default an id."""
    fixed = {"name": name, "in": "path", "required": True, "description": description}
    return {**fixed, "schema": schema or text(f"^{ID_PATTERN}$"), **extra}


def text(pattern: str) -> Json:
    """Return a schema of strings that match."""
    return {"type": "string", "pattern": pattern}


def choice(values: Iterable[str], default: str) -> Json:
    """Return a schema of fixed values; an empty value counts as not given."""
    return {"type": "string", "enum": [*values, ""], "default": default}


class _Schemas(GenerateJsonSchema):
    def field_title_should_be_set(self, _schema: Any) -> bool:
        """Omit titles: they only repeat the member's name."""
        return False

    def field_is_required(self, field: Any, total: bool) -> bool:  # noqa: FBT001 - pydantic's
        """In a response only members whose default is None can be absent."""
        constant = self.mode == "serialization" and field["schema"].get("default") is not None
        return constant or super().field_is_required(field, total)

    def default_schema(self, schema: Any) -> Json:
        """Omit defaults: clients need none of them."""
        return self.generate_inner(schema["schema"])


def resolve(document: Json) -> Json:
    """Replace each type in the document by a reference to its schema in ``components``."""
    modes: dict[type, Any] = {}

    # A member with a default is optional in a request, but always present in a response.
    def collect(value: Any, mode: str) -> None:
        if isinstance(value, type):
            modes[value] = mode
        elif isinstance(value, dict):
            for key, member in value.items():
                collect(member, "validation" if key == "requestBody" else mode)

    def replaced(value: Any) -> Any:
        if isinstance(value, type):
            return references[value, modes[value]]
        if isinstance(value, dict):
            return {key: replaced(member) for key, member in value.items()}
        return [*value] if isinstance(value, tuple) else value

    # One call for all types: schemas that several of them use are defined once.
    collect(document, "serialization")
    references, definitions = TypeAdapter.json_schemas(
        [(model, mode, TypeAdapter(model)) for model, mode in modes.items()],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Schemas,
    )
    resolved: Json = replaced(document)
    resolved["components"]["schemas"] = definitions["$defs"]
    return resolved
