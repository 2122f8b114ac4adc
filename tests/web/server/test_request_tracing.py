"""Request tracing: which requests have a span, its name and attributes, and what is an error."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import HttpVersion11, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict, CIMultiDictProxy
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind
from yarl import URL

from proxy.domain.request import Origin, Outcome
from proxy.telemetry.tracing import STATE
from proxy.web.headers import ImageRoute
from proxy.web.responses import LEFT
from proxy.web.server.request_tracing import (
    AnsweredRequest,
    end_request,
    route_of,
    start_request,
)
from tests.web.plans import plan

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Record all spans of the test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(STATE, "tracer", provider.get_tracer("tests"))
    return exporter


def start(
    target: str = "/serve/1", headers: Mapping[str, str] | None = None, *, honour: bool = True
) -> Any:
    return start_request(
        target, CIMultiDict(headers or {}), time.perf_counter(), honour_parent=honour
    )


def answered(method: str = "GET", **changes: Any) -> AnsweredRequest:
    """Return a sent response to a request that the server answered with a 200."""
    headers = changes.pop("headers", {})
    request = make_mocked_request(method, "/", headers=headers, version=HttpVersion11)
    request._match_info = None
    plain = AnsweredRequest(
        request, "/serve/1", "192.0.2.1", "10.0.0.1", "id-1", 200, 2, Outcome("serve")
    )
    return plain._replace(**changes)


def ended_span(exporter: InMemorySpanExporter, response: AnsweredRequest) -> ReadableSpan:
    """Return the span of a response, started and ended."""
    end_request(start(), response)
    (span,) = exporter.get_finished_spans()
    return span


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/readyz?verbose"])
def test_probes_have_no_span(ended: InMemorySpanExporter, path: str) -> None:
    assert start(path) is None
    assert ended.get_finished_spans() == ()


def test_a_request_that_is_not_sampled_has_no_span(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    monkeypatch.setattr(STATE, "tracer", provider.get_tracer("tests"))
    assert start() is None


def test_the_trace_of_the_client_is_continued(ended: InMemorySpanExporter) -> None:
    start(headers={"traceparent": TRACEPARENT}).end()
    (span,) = ended.get_finished_spans()
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert span.kind is SpanKind.SERVER


def test_a_trace_begins_here_if_parents_are_not_honoured(ended: InMemorySpanExporter) -> None:
    start(headers={"traceparent": TRACEPARENT}, honour=False).end()
    (span,) = ended.get_finished_spans()
    assert span.parent is None


def test_two_parents_are_none(ended: InMemorySpanExporter) -> None:
    headers = CIMultiDict([("traceparent", TRACEPARENT)] * 2)
    span = start_request("/", headers, time.perf_counter(), honour_parent=True)
    assert span is not None
    span.end()
    (recorded,) = ended.get_finished_spans()
    assert recorded.parent is None


def test_a_request_without_parsed_headers_has_a_span(ended: InMemorySpanExporter) -> None:
    headers: Any = {}
    span = start_request("/", headers, time.perf_counter(), honour_parent=True)
    assert span is not None
    span.end()
    assert len(ended.get_finished_spans()) == 1


def test_a_span_has_the_attributes_of_the_semantic_conventions(
    ended: InMemorySpanExporter,
) -> None:
    response = answered(target="/serve/1?size=grid", headers={"User-Agent": "Tests/1.0"})
    span = ended_span(ended, response)
    assert span.name == f"GET {ImageRoute.SERVE.path}"
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/serve/1",
        "url.query": "size=grid",
        "http.route": ImageRoute.SERVE.path,
        "http.response.status_code": 200,
        "http.response.body.size": 2,
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "network.peer.address": "10.0.0.1",
        "client.address": "192.0.2.1",
        "user_agent.original": "Tests/1.0",
        "smartserve.request_id": "id-1",
    }
    assert span.status.is_unset


def test_the_span_of_an_image_names_its_variant(ended: InMemorySpanExporter) -> None:
    variant = plan("size=thumbnail").variant
    outcome = Outcome("serve", "thumbnail", "webp", Origin.DISK, 789, variant, "final")
    attributes = ended_span(ended, answered(outcome=outcome)).attributes or {}
    assert {name: value for name, value in attributes.items() if "smartserve." in name} == {
        "smartserve.request_id": "id-1",
        "smartserve.media.id": 789,
        "smartserve.size": "thumbnail",
        "smartserve.format": "webp",
        "smartserve.source": "disk",
        "smartserve.variant.key": variant.key,
        "smartserve.stage": "final",
    }


def test_an_image_that_was_not_resolved_has_no_variant_in_its_span(
    ended: InMemorySpanExporter,
) -> None:
    attributes = ended_span(ended, answered(outcome=Outcome("serve", media_id=4))).attributes or {}
    assert attributes["smartserve.media.id"] == 4
    assert not {"smartserve.variant.key", "smartserve.stage"} & set(attributes)


def test_text_of_the_client_is_cut(ended: InMemorySpanExporter) -> None:
    long = "y" * 1000
    response = answered(target=f"/{long}?{long}", headers={"User-Agent": long})
    attributes = ended_span(ended, response).attributes or {}
    names = ("url.path", "url.query", "user_agent.original")
    assert [len(str(attributes[name])) for name in names] == [256] * 3


def test_text_of_the_client_that_is_no_utf8_can_be_exported(ended: InMemorySpanExporter) -> None:
    headers = CIMultiDictProxy(CIMultiDict({"User-Agent": "c\udcff"}))
    message = RawRequestMessage(
        *("GET", "/", HttpVersion11, headers, ()), *(False, None, False, False), URL("/")
    )
    response = answered(target="/a\udcff?b\udcff", request=message)
    attributes = ended_span(ended, response).attributes or {}
    names = ("url.path", "url.query", "user_agent.original")
    assert [attributes[name] for name in names] == ["/a\ufffd", "b\ufffd", "c\ufffd"]


def test_an_unknown_method_is_not_repeated(ended: InMemorySpanExporter) -> None:
    span = ended_span(ended, answered("BREW", outcome=Outcome("malformed")))
    assert span.name == "HTTP"
    assert (span.attributes or {})["http.request.method"] == "_OTHER"
    assert "http.route" not in (span.attributes or {})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": 404, "outcome": Outcome("serve", error="MediaNotFound")}, None),
        ({"status": 503, "outcome": Outcome("serve", error="QueueFull")}, "QueueFull"),
        ({"status": 500}, "500"),
        ({"broken": "write_failed"}, "write_failed"),
        ({"broken": LEFT}, None),
    ],
    ids=["client error", "server error", "unnamed server error", "not sent", "client left"],
)
def test_only_the_fault_of_the_server_is_an_error(
    ended: InMemorySpanExporter, changes: dict[str, Any], error: str | None
) -> None:
    span = ended_span(ended, answered(**changes))
    assert (span.attributes or {}).get("error.type") == error
    assert (span.status.is_ok or span.status.is_unset) == (error is None)
    assert span.status.description == error


def test_a_client_that_left_is_noted(ended: InMemorySpanExporter) -> None:
    attributes = ended_span(ended, answered(broken=LEFT)).attributes or {}
    assert attributes["smartserve.client_left"] is True


@pytest.mark.parametrize("route", list(ImageRoute))
def test_the_route_of_an_image_is_known_before_the_router_runs(route: ImageRoute) -> None:
    assert route_of(make_mocked_request("GET", "/"), Outcome(route)) == route.path


async def test_the_route_of_another_request_is_the_template_that_matched() -> None:
    async def handler(_request: web.Request) -> web.Response:
        raise AssertionError

    app = web.Application()
    app.router.add_get("/info/{id}", handler)
    request = make_mocked_request("GET", "/info/3", app=app)
    request._match_info = await app.router.resolve(request)
    assert route_of(request, Outcome("info")) == "/info/{id}"


async def test_a_request_that_no_route_matches_has_none() -> None:
    app = web.Application()
    request = make_mocked_request("GET", "/nowhere", app=app)
    request._match_info = await app.router.resolve(request)
    assert route_of(request, Outcome("unmatched")) == ""


def test_a_request_rejected_before_it_was_routed_has_no_route() -> None:
    request = make_mocked_request("GET", "/")
    request._match_info = None
    assert route_of(request, Outcome("malformed")) == ""
