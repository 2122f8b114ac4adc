"""The routes and their OpenAPI description: both follow the settings and are complete."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
import schemathesis
from aiohttp import web
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.definitions import OPENAPI_31

from proxy import __version__
from proxy.app.web import HttpServer
from proxy.domain import errors
from proxy.domain.errors import AccessError, SmartserveError
from proxy.domain.formats import NAMES, TRAITS
from proxy.domain.request import DPRS, WIDTHS, parse_boxes, parse_request
from proxy.domain.signature import PARAMETERS as SIGNED
from proxy.settings import LogSettings, Settings
from proxy.telemetry.logging import AccessLog, LogWriter
from proxy.web.json_response import PROBLEM_TYPE
from proxy.web.routes import describe
from tests.support.commands import KEY as ADMIN_KEY
from tests.support.server import ACCESS, Serve, Serving
from tests.support.uploads import KEY, USERS, token
from tests.web.wire import exchange

_NOT_DESCRIBED = {"/", "/static/{name}", "/static/smart-image.js"}
"""Files for browsers, not part of the API."""


def routes(surface: HttpServer) -> set[tuple[str, str]]:
    """Return method and path template of each route."""
    app = surface.runner.app
    assert isinstance(app, web.Application)
    return {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
    }


def documented(settings: Settings) -> set[tuple[str, str]]:
    return {(method, path) for path, item in describe(settings)["paths"].items() for method in item}


async def test_every_route_is_described_and_every_description_has_a_route(server: Serving) -> None:
    found = routes(server.surface)
    told = documented(server.services.settings)
    assert told <= found
    # aiohttp adds HEAD to each GET; it is described only where it does something else.
    # Browsers send OPTIONS on their own.
    undocumented = {one for one in found - told if one[0] not in ("head", "options")}
    assert {path for _, path in undocumented} == _NOT_DESCRIBED


_HEADERS = (
    "Accept Accept-Language Content-Type Cookie Forwarded If-Match If-Modified-Since If-None-Match"
    " If-Range Origin Range Referer Sec-WebSocket-Protocol Traceparent User-Agent X-Forwarded-For"
    " X-Request-Id"
)


@pytest.mark.slow
async def test_no_route_fails_because_of_bytes_that_are_not_utf_8(serve: Serve) -> None:
    server = await serve(admin={"key": ADMIN_KEY}, main={"key": KEY}, users=USERS, access=ACCESS)
    stream = io.BytesIO()
    log = AccessLog(LogSettings(), LogWriter(stream))
    server.surface.runner.pipeline._access_log = log
    host, port = server.client.host, server.client.port or 0
    bad, quoted = b"caf\xe9\xff\xed\xa0\x80", "caf%E9%FF%ED%A0%80"
    bad_headers = b"".join(b"%b: %b\r\n" % (one.encode(), bad) for one in _HEADERS.split())
    keys = [f"Authorization: Bearer {key}\r\n".encode() for key in (ADMIN_KEY, KEY, token())]
    document = describe(server.services.settings)["paths"]
    sent = []
    for method, path in sorted(one for one in routes(server.surface) if one[0] != "head"):
        valid = re.sub(r"\{.*?\}", "1", path)
        described = document.get(path, {}).get(method, {}).get("parameters", [])
        names = [one["name"] for one in described if one["in"] == "query"]
        targets = [re.sub(r"\{.*?\}", quoted, path), valid + quoted]
        targets += [f"{valid}?{name}={quoted}" for name in (*names, quoted)]
        if path == "/oembed":
            targets.append(f"/oembed?url=http://{host}:{port}/{quoted}/serve/1")
        end = f" HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
        for key in keys:
            lines = [f"{method.upper()} {target}{end}".encode() + key for target in targets]
            lines.append(f"{method.upper()} {valid}{end}".encode() + key + bad_headers)
            sent += [line + b"\r\n" for line in lines]
    failed = []
    for request in sent:
        answer = await exchange(host, port, request, pause_s=0)
        if not answer or answer.startswith(b"HTTP/1.1 500"):
            failed.append((request, answer))
    assert not failed
    log.flush()
    assert len(stream.getvalue().splitlines()) == len(sent)


async def test_the_document_is_served_as_json_that_nobody_stores(shared: Serving) -> None:
    async with shared.client.get("/openapi.json") as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        assert await answer.json() == describe(shared.services.settings)


async def test_metrics_are_served_in_the_text_format(shared: Serving) -> None:
    async with shared.client.get("/metrics") as answer:
        assert answer.content_type == "text/plain"
        assert re.search(r"^smartserve_build_info\{", await answer.text(), re.MULTILINE)


async def test_disabled_parts_have_neither_routes_nor_a_description(serve: Serve) -> None:
    disabled = {"enabled": False}
    server = await serve(page=disabled, admin=disabled, main=disabled)
    paths = {path for _, path in routes(server.surface)}
    assert paths - {path for _, path in documented(server.services.settings)} == {
        "/static/smart-image.js"
    }
    for path in ("/api/gallery", "/users/me", "/api/media/{id}/renditions"):
        assert path not in paths


SETTINGS = Settings.model_validate(
    {"sizes": {"detail": {"width": 900}, "hero": {"width": 1900, "height": 400, "fit": "cover"}}}
)
PICTURES = ("/serve/{name}", "/api/images/{name}")
ADMIN = ("/api/media/{id}/renditions", "/api/users/{id}/renditions")


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return describe(Settings())


def _parameters(description: dict[str, Any], path: str) -> dict[str, dict[str, Any]]:
    first = next(iter(description["paths"][path].values()))
    return {one["name"]: one["schema"] for one in first["parameters"]}


def _operations(description: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in description["paths"].values() for operation in path.values()]


def test_the_document_is_valid_openapi_3_1(description: dict[str, Any]) -> None:
    assert description["openapi"].startswith("3.1.")
    faults = Draft202012Validator(OPENAPI_31).iter_errors(description)
    assert [fault.message for fault in faults] == []


def test_the_openapi_schema_rejects_an_invalid_document(description: dict[str, Any]) -> None:
    spoilt = {**description, "info": {"title": "smartserve"}, "paths": {"serve": {}}}
    assert not Draft202012Validator(OPENAPI_31).is_valid(spoilt)


def test_every_schema_is_a_valid_json_schema(description: dict[str, Any]) -> None:
    for path in PICTURES:
        for schema in _parameters(description, path).values():
            Draft202012Validator.check_schema(schema)
    Draft202012Validator.check_schema(description["components"]["schemas"]["Problem"])


MAIN = {
    "/users/me": "PATCH",
    "/api/media/pending/all": "GET",
    "/api/media/complete/{id}": "POST",
    "/api/media/cleanup/{id}": "DELETE",
    "/temp_images/{folder}/{name}": "GET",
}
PAGE = (
    *("/api/gallery", "/api/page/accept", "/api/page/accept.gif"),
    *("/api/page/known", "/api/page/token", "/api/page/uploads/{id}"),
)
METADATA = (
    *("standalone-metadata/analyze", "analyze", "images_mvp/extract"),
    *("extract", "extract/batch", "extract/advanced"),
)
UPLOADS = (
    errors.BodyTooSlow,
    errors.BodyTooLarge,
    errors.UnsupportedBody,
    errors.PendingNotFound,
    errors.PendingConflict,
    errors.UploadStorageError,
    errors.QuotaExceeded,
    errors.TooManyRequests,
    errors.ExtractionQueueFull,
    errors.JobQueueFull,
    errors.TooManySockets,
    errors.UpgradeRequired,
)
"""Errors that no image route has."""


def test_schemathesis_reads_every_operation(description: dict[str, Any]) -> None:
    found = schemathesis.openapi.from_dict(description).get_all_operations()
    labels = sorted(one.ok().label for one in found if isinstance(one, Ok))
    assert labels == sorted(
        [f"{method} {path}" for path in PICTURES for method in ("GET", "HEAD")]
        + [f"GET /{page}" for page in ("healthz", "readyz", "metrics", "openapi.json")]
        + [f"DELETE {path}" for path in (*ADMIN, "/api/renditions")]
        + [f"GET /api/media/{one}/{{media_id}}" for one in ("analysis", "similar")]
        + ["GET /api/media/{id}/near-duplicates", "GET /api/media/{id}/choices"]
        + [f"{method} /api/media/{{id}}/original" for method in ("GET", "HEAD")]
        + [
            f"{method} /api/media/{{id}}/{choice}"
            for choice in ("focus", "crops/{size}", "background", "visibility", "alt")
            for method in ("GET", "PUT", "DELETE")
        ]
        + ["GET /info/{id}", "HEAD /info/{id}", "GET /oembed"]
        + [f"{method} /info" for method in ("GET", "POST")]
        + [f"GET {path}" for path in PAGE]
        + ["GET /users/me"]
        + ["GET /ws/analysis", "GET /api/images_mvp/progress/{sessionId}"]
        + ["POST /api/metadata/moderate", "GET /api/extract/cache/stats"]
        + ["GET /api/metadata/search", "GET /api/metadata/{media_id}"]
        + [f"{method} /api/extract/jobs" for method in ("GET", "POST")]
        + [f"{method} /api/extract/jobs/{{id}}" for method in ("GET", "DELETE")]
        + ["GET /api/health", "GET /api/extract/health"]
        + [f"POST /api/{path}" for path in METADATA]
        + [f"{method} {path}" for path, method in MAIN.items()]
    )


def test_the_document_consists_of_json_values(description: dict[str, Any]) -> None:
    assert json.loads(json.dumps(description)) == description


def test_the_document_has_the_version(description: dict[str, Any]) -> None:
    assert description["info"]["version"] == __version__


def test_crops_are_described_for_the_sizes_that_crop() -> None:
    sizes = {"detail": {"width": 900}, "wide": {"width": 900, "height": 100, "fit": "cover"}}
    described = describe(Settings.model_validate({"sizes": sizes}))
    parameters = _parameters(described, "/api/media/{id}/crops/{size}")
    assert parameters["size"]["enum"] == ["wide"]


def test_operation_ids_are_unique(description: dict[str, Any]) -> None:
    names = [operation["operationId"] for operation in _operations(description)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", PICTURES)
def test_parameters_and_their_values_are_those_of_the_parser(
    path: str, description: dict[str, Any]
) -> None:
    parameters = _parameters(description, path)
    assert set(parameters) == {"name", "size", "w", "dpr", "format", "bg", "v", *SIGNED}
    assert set(parameters["size"]["enum"]) == {*Settings().sizes, ""}
    assert set(parameters["format"]["enum"]) == {"auto", *NAMES, ""}
    assert set(parameters["dpr"]["enum"]) == {*DPRS, ""}
    assert set(parameters["bg"]["enum"]) == {"original", "removed", ""}


@pytest.mark.parametrize("path", PICTURES)
def test_the_parser_accepts_every_described_value(path: str, description: dict[str, Any]) -> None:
    sizes = Settings().size_specs()
    for name, schema in _parameters(description, path).items():
        for value in schema.get("enum", ()):
            parse_request(f"{name}={value}", sizes=sizes)


@pytest.mark.parametrize("path", PICTURES)
@pytest.mark.parametrize(
    ("width", "allowed"),
    [(1, True), (640, True), (WIDTHS[-1], True), ("", True), (0, False), (WIDTHS[-1] + 1, False)],
)
def test_widths_are_limited_as_by_the_parser(
    path: str, width: int | str, *, allowed: bool, description: dict[str, Any]
) -> None:
    schema = _parameters(description, path)["w"]
    assert Draft202012Validator(schema).is_valid(width) == allowed


@pytest.mark.parametrize("path", PICTURES)
def test_sizes_are_those_of_the_settings(path: str) -> None:
    assert set(_parameters(describe(SETTINGS), path)["size"]["enum"]) == {"detail", "hero", ""}


@pytest.mark.parametrize("path", PICTURES)
def test_a_default_is_an_allowed_value(path: str, description: dict[str, Any]) -> None:
    for schema in _parameters(description, path).values():
        assert schema.get("default", "") in schema.get("enum", [""])


@pytest.mark.parametrize("path", PICTURES)
def test_a_name_is_an_id_with_an_optional_extension(path: str, description: dict[str, Any]) -> None:
    pattern = _parameters(description, path)["name"]["pattern"]
    good = ["1", "7" * 19, *(f"789.{name}" for name in NAMES)]
    bad = ["", "8" * 20, "a", "1.bmp", "01", "1.", "1.webp.png", "-1", "1/2", "1.WEBP"]
    assert [name for name in good if re.search(pattern, name) is None] == []
    assert [name for name in bad if re.search(pattern, name)] == []


@pytest.mark.parametrize("path", PICTURES)
@pytest.mark.parametrize("status", ["200", "206"])
def test_every_output_format_is_described(
    path: str, status: str, description: dict[str, Any]
) -> None:
    content = description["paths"][path]["get"]["responses"][status]["content"]
    assert set(content) == {traits.media_type for traits in TRAITS.values()}


@pytest.mark.parametrize("path", PICTURES)
@pytest.mark.parametrize("method", ["get", "head"])
def test_every_status_of_the_error_tree_is_described(
    path: str, method: str, description: dict[str, Any]
) -> None:
    statuses = {
        str(kind.status)
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, SmartserveError)
        if not issubclass(kind, (AccessError, *UPLOADS))
    }
    responses = description["paths"][path][method]["responses"]
    assert statuses <= set(responses)
    assert {"200", "304"} <= set(responses)


@pytest.mark.parametrize("path", PICTURES)
def test_errors_are_described_as_problem_details(path: str, description: dict[str, Any]) -> None:
    for status, response in description["paths"][path]["get"]["responses"].items():
        if int(status) >= 400:
            assert list(response["content"]) == [PROBLEM_TYPE]


@pytest.mark.parametrize("path", ADMIN)
def test_admin_routes_require_the_key_and_describe_each_rejection(
    path: str, description: dict[str, Any]
) -> None:
    operation = description["paths"][path]["delete"]
    (scheme,) = operation["security"]
    named = description["components"]["securitySchemes"][next(iter(scheme))]
    assert (named["type"], named["scheme"]) == ("http", "bearer")
    payment = {errors.CreditsInsufficient}
    refusals = {str(kind.status) for kind in {*AccessError.__subclasses__()} - payment}
    assert refusals | {"200", "400", "503"} == set(operation["responses"])


@pytest.mark.parametrize("path", ADMIN)
def test_the_parameters_of_a_purge_are_those_of_the_parser(
    path: str, description: dict[str, Any]
) -> None:
    parameters = _parameters(description, path)
    assert set(parameters) == {"id", "size", "w"}
    assert set(parameters["size"]["enum"]) == set(Settings().sizes)
    for name in parameters["size"]["enum"]:
        assert parse_boxes(f"size={name}", sizes=Settings().size_specs())


def test_disabled_admin_routes_are_not_described() -> None:
    described = describe(Settings.model_validate({"admin": {"enabled": False}}))
    assert not set(ADMIN) & set(described["paths"])


def test_the_routes_of_a_disabled_page_are_not_described() -> None:
    described = describe(Settings.model_validate({"page": {"enabled": False}}))
    assert not set(PAGE) & set(described["paths"])


def test_responses_to_head_have_no_content(description: dict[str, Any]) -> None:
    for path in PICTURES:
        responses = description["paths"][path]["head"]["responses"].values()
        assert not any("content" in response for response in responses)
