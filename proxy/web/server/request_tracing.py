"""Request tracing: the span of a request, with its attributes when the response was sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import HttpVersion, web
from aiohttp.hdrs import METH_ALL, USER_AGENT
from multidict import MultiMapping

from proxy.domain.outcome import Outcome
from proxy.telemetry.tracing import finish, start_server_span
from proxy.web.headers import ImageRoute
from proxy.web.responses import LEFT, Answer
from proxy.web.server.response_cache import CachedResponse

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.web_urldispatcher import UrlMappingMatchInfo

    from proxy.telemetry.tracing import Span

_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Not traced: orchestrators and scrapers send them all day long."""
_MAX_TEXT = 256
"""Characters of client text in an attribute."""
_METHODS = frozenset(METH_ALL)
_IMAGE_ROUTES = frozenset(ImageRoute)
_SERVER_ERROR = 500


class AnsweredRequest(NamedTuple):
    """A sent response with its request."""

    remote: str | None
    method: str
    target: str
    version: HttpVersion
    headers: MultiMapping[str]
    route: str
    """The template of the matched route; empty if none matched."""
    request_id: str
    status: int
    sent: int
    """Bytes of the body."""
    outcome: Outcome
    broken: str | None = None
    """Why it was not sent completely, if it was not."""

    @classmethod
    def of(cls, request: web.BaseRequest, answer: Answer, sent: int) -> AnsweredRequest:
        """Return the values of a response that aiohttp sent."""
        return cls(
            request.remote,
            request.method,
            request.raw_path,
            request.version,
            request.headers,
            _route(request, answer.outcome),
            answer.request_id,
            int(answer.status),
            sent,
            answer.outcome,
            answer.broken,
        )

    @classmethod
    def cached(
        cls,
        message: RawRequestMessage,
        ready: CachedResponse,
        remote: str | None,
        *,
        request_id: str,
        sent: int,
    ) -> AnsweredRequest:
        """Return the values of a cached response, for which no request object exists."""
        return cls(
            remote,
            message.method,
            message.path,
            message.version,
            message.headers,
            ImageRoute(ready.outcome.route).path,
            request_id,
            ready.status,
            sent,
            ready.outcome,
        )


def start_request(
    target: str, headers: MultiMapping[str], began: float, *, honour_parent: bool
) -> Span | None:
    """Start the span of a request that arrived at ``began``; None if it is not sampled.

    ``honour_parent`` continues the trace of a client's ``traceparent``, and its sampling decision.
    """
    if target.partition("?")[0] in _PROBES:
        return None
    parents: Sequence[str] = ()
    # aiohttp gives a request that it could not parse an empty dict, which has no `getall`.
    if honour_parent and "traceparent" in headers:
        parents = headers.getall("traceparent")
    return start_server_span(began, parents)


def end_request(span: Span, answered: AnsweredRequest) -> None:
    """End the span of a response, named by the semantic conventions for HTTP."""
    method = answered.method if answered.method in _METHODS else "_OTHER"
    span.set_attribute("http.request.method", method)
    span.set_attributes(dict(_attributes(answered)))
    shown = "HTTP" if method == "_OTHER" else method
    span.update_name(f"{shown} {answered.route}".rstrip())
    finish(span, error=_error(answered))


def _route(request: web.BaseRequest, outcome: Outcome) -> str:
    """Return the route template; empty if no route matched or none was looked up."""
    if outcome.route in _IMAGE_ROUTES:
        # A cached response is sent before the router runs.
        return ImageRoute(outcome.route).path
    # aiohttp's property raises for a request that was rejected before it was routed.
    found: UrlMappingMatchInfo | None = getattr(request, "_match_info", None)
    resource = None if found is None else found.route.resource
    return "" if resource is None else resource.canonical


def _error(answered: AnsweredRequest) -> str | None:
    """Return the error if it is the server's; a client that leaves is none."""
    if answered.status >= _SERVER_ERROR:
        return answered.outcome.error or str(answered.status)
    return None if answered.broken in (None, LEFT) else answered.broken


def _attributes(answered: AnsweredRequest) -> Iterator[tuple[str, str | int | bool]]:
    path, asked, query = answered.target.partition("?")
    yield "url.scheme", "http"
    yield "url.path", path[:_MAX_TEXT]
    if asked:
        yield "url.query", query[:_MAX_TEXT]
    if answered.route:
        yield "http.route", answered.route
    yield "http.response.status_code", answered.status
    yield "http.response.body.size", answered.sent
    yield "network.protocol.name", "http"
    yield "network.protocol.version", f"{answered.version.major}.{answered.version.minor}"
    if answered.remote:
        yield "network.peer.address", answered.remote
        yield "client.address", answered.remote
    if agent := answered.headers.get(USER_AGENT):
        yield "user_agent.original", agent[:_MAX_TEXT]
    if error := _error(answered):
        yield "error.type", error
    yield "smartserve.request_id", answered.request_id
    if answered.broken == LEFT:
        yield "smartserve.client_left", True
    yield from _image_attributes(answered.outcome)


def _image_attributes(outcome: Outcome) -> Iterator[tuple[str, str | int]]:
    """Yield the attributes of an image response."""
    if outcome.media_id is None:
        return
    yield "smartserve.media.id", outcome.media_id
    yield "smartserve.size", outcome.size
    yield "smartserve.format", outcome.format
    yield "smartserve.source", outcome.source
    if outcome.variant is not None:
        yield "smartserve.variant.key", outcome.variant.key
    if outcome.stage:
        yield "smartserve.stage", outcome.stage
