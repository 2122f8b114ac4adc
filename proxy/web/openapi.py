"""Builds an OpenAPI 3.1 document; JSON schemas are generated from the handlers' types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from proxy import __version__
from proxy.web.auth import SESSION_COOKIE
from proxy.web.json_response import PROBLEM_TYPE, Problem
from proxy.web.request_input import ID_PATTERN

Json = dict[str, Any]

BINARY: Json = {"type": "string", "format": "binary"}
_REFERENCE = "#/components/schemas/{model}"
PROBLEMS = {
    400: "A parameter or the body is not valid; the response says what is allowed.",
    401: "The key or token is missing or not valid.",
    404: "There is no such image, or it is still being processed (Retry-After).",
    408: "The body stopped arriving.",
    412: "If-Match or If-Unmodified-Since excludes the current response.",
    413: "The body, or a file in it, is too large.",
    415: "The original, or the body, is of a type that is not accepted.",
    416: "The range lies outside the file.",
    422: "The original is corrupt or exceeds a limit.",
    429: "Too many wrong keys came from this address; see Retry-After.",
    500: "The server failed.",
    502: "The media server, which has the image, failed.",
    503: "Too busy, or the database or the storage is unavailable; see Retry-After.",
    504: "Rendering or the storage took too long.",
    508: "Forwarding leads back to a server that forwards.",
}
_INFO = {
    "title": "smartserve",
    "version": __version__,
    "description": "Serves images by media id, in the best format that the client accepts.",
}
_BEARER = {"type": "http", "scheme": "bearer"}
_USER = "A user's token as `[users]` defines it; `smartserve token` makes one."
_SESSION = "A user's token, from pages of this server only."
_SCHEMES = {
    "key": {**_BEARER, "description": "`admin.key` of the settings."},
    "media": {**_BEARER, "description": "`main.key` of the settings (MEDIA_API_KEY)."},
    "session": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE, "description": _SESSION},
    "user": {**_BEARER, "bearerFormat": "JWT", "description": _USER},
}
# How reading a body, and checking a key, can fail: added to each operation that does it.
_BODY = (400, 408, 413, 415)
_KEY = (401, 429, 503)


class Operation(NamedTuple):
    """A route of the API."""

    route: str
    """Method and path, as in ``GET /info/{id}``."""
    handler: Callable[..., Any]
    """The method of a handler class that answers it."""
    description: Json
    """The operation object of OpenAPI, in which a class stands for its schema."""
    head: str = ""
    """Summary of HEAD, if it is described too; aiohttp answers it by the handler of GET."""


def operation(
    route: str,
    handler: Callable[..., Any],
    *parameters: Json,
    responses: Mapping[str, Json] | type | None = None,
    problems: Iterable[int | tuple[int, str]] = (),
    body: Json | type | None = None,
    security: str | Sequence[str] | None = None,
    head: str = "",
) -> Operation:
    """Return an operation. The handler's name and docstring become its id and summary.

    ``responses`` may be the type of a 200's JSON, by default the one that the handler returns.
    ``problems`` are described as in `PROBLEMS`, unless a text is given. Those of reading a body,
    of checking a key and of conditions are added. ``security`` names schemes, one of which is
    needed; an empty name allows none.
    """
    # In camelCase: client generators make names of methods from the ids.
    first, *others = handler.__name__.split("_")
    described: Json = {
        "operationId": first + "".join(map(str.capitalize, others)),
        "summary": _first_line(handler),
    }
    if parameters:
        described["parameters"] = [*parameters]
    if security is not None:
        schemes = [security] if isinstance(security, str) else security
        described["security"] = [{one: []} if one else {} for one in schemes]
        problems = (*_KEY, *problems)
    if body is not None:
        content = {"application/json": {"schema": body}} if isinstance(body, type) else body
        described["requestBody"] = {"required": True, "content": content}
        problems = (*_BODY, *problems)
    responses = get_type_hints(handler)["return"] if responses is None else responses
    if isinstance(responses, type):
        responses = {"200": response(responses)}
    # What has an ETag is compared with If-Match, too.
    if "304" in responses:
        problems = (412, *problems)
    # Of two descriptions of one status, the later one replaces the common one.
    texts = dict((one, PROBLEMS[one]) if isinstance(one, int) else one for one in problems)
    errors = {str(status): response(Problem, texts[status], PROBLEM_TYPE) for status in texts}
    return Operation(route, handler, {**described, "responses": {**responses, **errors}}, head)


def _first_line(documented: object) -> str:
    return str(documented.__doc__).partition("\n")[0]


def response(
    model: type | Json,
    description: str = "",
    media_type: str = "application/json",
    **extra: Json,
) -> Json:
    """Return a response with a body: ``model`` is a type, whose docstring is used, or a schema."""
    description = description or _first_line(model)
    return {"description": description, **extra, "content": {media_type: {"schema": model}}}


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
    # A path parameter is always required (OpenAPI 3.1, 4.8.12).
    schema = schema or text(f"^{ID_PATTERN}$")
    return query(name, description, schema, **extra) | {"in": "path", "required": True}


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


def document(operations: Iterable[Operation]) -> Json:
    """Return the document as JSON values. Making the schemas takes about 50 ms."""
    modes: dict[type, Any] = {}

    def resolved(value: Any, mode: str) -> Any:
        """Replace each class by a reference to its schema."""
        if isinstance(value, type):
            modes[value] = mode
            return {"$ref": _REFERENCE.format(model=value.__name__)}
        if isinstance(value, dict):
            # A member with a default is optional in a request, but always present in a response.
            return {
                key: resolved(member, "validation" if key == "requestBody" else mode)
                for key, member in value.items()
            }
        return value

    paths: Json = {}
    for route, _, description, head in operations:
        method, address = route.split()
        one = resolved(description, "serialization")
        methods = paths.setdefault(address, {})
        methods[method.lower()] = one
        if head:
            # The same responses without content.
            responses = {
                status: {key: value for key, value in found.items() if key != "content"}
                for status, found in one["responses"].items()
            }
            name = f"{one['operationId']}Head"
            methods["head"] = one | {"operationId": name, "summary": head, "responses": responses}
    # One call for all types: schemas that several of them use are defined once.
    _, definitions = TypeAdapter.json_schemas(
        [(model, mode, TypeAdapter(model)) for model, mode in modes.items()],
        ref_template=_REFERENCE,
        schema_generator=_Schemas,
    )
    components = {"securitySchemes": _SCHEMES, "schemas": definitions["$defs"]}
    return {"openapi": "3.1.0", "info": _INFO, "paths": paths, "components": components}
