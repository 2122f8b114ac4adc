"""Request tracing: the span of a request, with its attributes when the response was sent."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web
from aiohttp.hdrs import METH_ALL, USER_AGENT
from multidict import MultiMapping

from proxy.domain.request import Outcome
from proxy.telemetry.tracing import finish, start_server_span
from proxy.web.headers import ImageRoute
from proxy.web.request_input import as_utf8
from proxy.web.responses import LEFT
from proxy.web.server.parser import PROBES

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.web_urldispatcher import UrlMappingMatchInfo

    from proxy.telemetry.tracing import Span

_MAX_TEXT = 256
"""Characters of client text in an attribute."""
_METHODS = frozenset(METH_ALL)
_IMAGE_ROUTES = frozenset(ImageRoute)


class AnsweredRequest(NamedTuple):
    """A sent response with its request."""

    request: web.BaseRequest | RawRequestMessage
    """Only the parsed message if the response came from the cache."""
    target: str
    remote: str | None
    """The client's address; that of the peer unless a trusted proxy reports another."""
    peer: str | None
    request_id: str
    status: int
    sent: int
    """Bytes of the body."""
    outcome: Outcome
    broken: str | None = None
    """The reason if it was not sent completely; otherwise None."""


def start_request(
    target: str, headers: MultiMapping[str], began: float, *, honour_parent: bool
) -> Span | None:
    """Start the span of a request that arrived at ``began``; None if it is not sampled.

    ``honour_parent`` continues the trace of a client's ``traceparent``, and its sampling decision.
    """
    # Orchestrators and scrapers send probes all day long.
    if target.partition("?")[0] in PROBES:
        return None
    # aiohttp gives a request that it could not parse an empty dict, which has no `getall`.
    continued = honour_parent and "traceparent" in headers
    return start_server_span(began, headers.getall("traceparent") if continued else ())


def end_request(span: Span, answered: AnsweredRequest) -> None:
    """End the span of a response, named by the semantic conventions for HTTP."""
    request, outcome = answered.request, answered.outcome
    method = request.method if request.method in _METHODS else "_OTHER"
    # The exporter would lose all spans of a batch with a text that is no UTF-8.
    path, asked, query = as_utf8(answered.target).partition("?")
    agent, route = request.headers.get(USER_AGENT), route_of(request, outcome)
    error = None
    if answered.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        error = outcome.error or str(answered.status)
    elif answered.broken != LEFT:
        # A client that leaves is no error of the server.
        error = answered.broken
    attributes: dict[str, str | int | bool | None] = {
        "http.request.method": method,
        "url.scheme": "http",
        "url.path": path[:_MAX_TEXT],
        # An empty query is recorded as such; without a question mark there is none.
        "url.query": query[:_MAX_TEXT] if asked else None,
        "http.route": route or None,
        "http.response.status_code": answered.status,
        "http.response.body.size": answered.sent,
        "network.protocol.name": "http",
        "network.protocol.version": f"{request.version.major}.{request.version.minor}",
        "network.peer.address": answered.peer,
        "client.address": answered.remote,
        "user_agent.original": as_utf8(agent)[:_MAX_TEXT] if agent else None,
        "error.type": error,
        "smartserve.request_id": answered.request_id,
        "smartserve.client_left": True if answered.broken == LEFT else None,
    }
    if outcome.media_id is not None:
        attributes |= {
            "smartserve.media.id": outcome.media_id,
            "smartserve.size": outcome.size,
            "smartserve.format": outcome.format,
            "smartserve.source": outcome.source,
            "smartserve.variant.key": None if outcome.variant is None else outcome.variant.key,
            "smartserve.stage": outcome.stage or None,
        }
    span.set_attributes({key: value for key, value in attributes.items() if value is not None})
    shown = "HTTP" if method == "_OTHER" else method
    span.update_name(f"{shown} {route}".rstrip())
    finish(span, error=error)


def route_of(request: web.BaseRequest | RawRequestMessage, outcome: Outcome) -> str:
    """Return the route template; empty if no route matched or none was looked up."""
    if outcome.route in _IMAGE_ROUTES:
        # A cached response is sent before the router runs.
        return ImageRoute(outcome.route).path
    # aiohttp's property raises for a request that was rejected before it was routed.
    found: UrlMappingMatchInfo | None = getattr(request, "_match_info", None)
    resource = None if found is None else found.route.resource
    return "" if resource is None else resource.canonical
