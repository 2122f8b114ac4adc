"""A collector in the test: it speaks OTLP over HTTP, and keeps what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.ports import free_port
from tests.support.waiting import eventually

_WITHIN_S = 100.0
"""Finals may take a while on a busy machine."""


@dataclass(frozen=True)
class Seen:
    """A span as it came in."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    began_ns: int
    ended_ns: int
    kind: int
    failed: bool
    attributes: Mapping[str, Any]
    links: tuple[str, ...]
    """Ids of spans."""
    resource: Mapping[str, Any]

    def holds(self, other: Seen) -> bool:
        """Whether another one lies within it, but for a clock's rounding."""
        slack = 1_000_000
        return self.began_ns - slack <= other.began_ns and other.ended_ns <= self.ended_ns + slack


@dataclass
class Collector:
    """What came in so far; it can be made to fail, or to hang until it is let go."""

    port: int
    spans: list[Seen] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    status: int = 200
    free: asyncio.Event = field(default_factory=asyncio.Event)
    requests: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/traces"

    async def take(self, request: web.Request) -> web.Response:
        self.requests += 1
        body = await request.read()
        await self.free.wait()
        if self.status == 200:
            self.headers.append(request.headers)
            self.spans += _seen(ExportTraceServiceRequest.FromString(body))
        return web.Response(
            status=self.status,
            body=ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )

    async def until(self, done: Callable[[], object]) -> None:
        """Return when the condition is true; another thread or process sends the spans."""
        await eventually(done, timeout_s=_WITHIN_S)

    async def root(self, route: str, **attributes: Any) -> Seen:
        """The span of an answer with these attributes (dots as underscores), once it is there."""
        found: list[Seen] = []

        def there() -> bool:
            found[:] = [
                span
                for span in self.spans
                if span.attributes.get("http.route", "") == route
                and span.kind == trace_pb2.Span.SPAN_KIND_SERVER
                and attributes.items()
                <= {key.replace(".", "_"): value for key, value in span.attributes.items()}.items()
            ]
            return bool(found)

        await self.until(there)
        return found[0]

    def parts(self, span: Seen) -> dict[str, Seen]:
        """The spans right below one, by name."""
        return {one.name: one for one in self.spans if one.parent_id == span.span_id}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector that listens for the length of the block."""
    collector = Collector(free_port())
    collector.free.set()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", collector.port).start()
    try:
        yield collector
    finally:
        collector.free.set()
        await runner.cleanup()


def _seen(request: ExportTraceServiceRequest) -> list[Seen]:
    return [
        Seen(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            span.kind,
            span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
            _attributes(span.attributes),
            tuple(link.span_id.hex() for link in span.links),
            _attributes(resource.resource.attributes),
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _attributes(pairs: Any) -> dict[str, Any]:
    def value(pair: KeyValue) -> Any:
        kind = pair.value.WhichOneof("value")
        return None if kind is None else getattr(pair.value, kind)

    return {pair.key: value(pair) for pair in pairs}
