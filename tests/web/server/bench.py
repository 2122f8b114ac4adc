"""A connection server without sockets: transports that record what is written to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import web

from proxy.domain.request import Outcome
from proxy.settings import ServerSettings
from proxy.telemetry.metrics import Metrics
from proxy.web.responses import BufferedResponse, whole
from proxy.web.server.connection import Connection, ConnectionServer
from proxy.web.server.request_pipeline import RequestPipeline


class Wire(asyncio.Transport):
    """A transport that records writes and how it was ended."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended: str | None = None
        """``eof``, ``closed`` or ``reset``."""
        self.unsent = 0

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def write_eof(self) -> None:
        self.ended = self.ended or "eof"

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "reset"

    def is_closing(self) -> bool:
        return self.ended in ("closed", "reset")

    def is_reading(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 4711) if name == "peername" else default


class NoCache:
    """A response cache that is empty."""

    def find(self, *_key: object, **_options: object) -> None:
        return None

    async def get(self, *_key: object) -> None:
        return None


async def healthy(_request: web.BaseRequest) -> BufferedResponse:
    return whole(200, [], b"ok", outcome=Outcome("healthz"))


@dataclass
class Bench:
    """Connections of a server with these settings, whose requests ``handler`` answers."""

    settings: ServerSettings = field(default_factory=ServerSettings)
    handler: Callable[[web.BaseRequest], Any] = healthy
    metrics: Metrics = field(default_factory=Metrics)
    pipeline: RequestPipeline = field(init=False)
    server: ConnectionServer = field(init=False)

    def __post_init__(self) -> None:
        self.pipeline = RequestPipeline(
            response_cache=cast("Any", NoCache()), metrics=self.metrics, access_log=None
        )
        self.server = ConnectionServer(
            web.Server(self.handler), self.pipeline, self.settings, self.settings.max_connections
        )

    async def connect(self) -> tuple[Connection, Wire]:
        connection, wire = self.server(), Wire()
        connection.connection_made(wire)
        await asyncio.sleep(0)
        return connection, wire

    @property
    def closed(self) -> dict[str, int]:
        """Connections closed by reason."""
        return {str(reason): count for reason, count in self.server.closed.items()}
