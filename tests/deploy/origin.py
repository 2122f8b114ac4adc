"""A server behind others, and the number of requests that it receives."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp
from prometheus_client import parser

from tests.faults.server import Server


@dataclass(frozen=True, slots=True)
class Origin:
    """A server that was started elsewhere."""

    port: int

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels; 0 if there is none."""
        base = f"http://127.0.0.1:{self.port}"
        async with aiohttp.ClientSession(base) as client, client.get("/metrics") as answer:
            text = await answer.text()
        return sum(
            sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


class Fetches:
    """Counts the requests for images that a server has received since `begin`."""

    def __init__(self, server: Origin | Server) -> None:
        self._server = server
        self._before: dict[str, float] = {}

    async def begin(self) -> None:
        """Start counting."""
        for status in ("", "200", "304"):
            self._before[status] = await self._counted(status)

    async def count(self, status: str = "") -> float:
        """Return the number of all requests, or of those answered with one status."""
        return await self._counted(status) - self._before[status]

    async def _counted(self, status: str) -> float:
        labels = {"route": "serve"} | ({"status": status} if status else {})
        return await self._server.metric("smartserve_requests_total", **labels)
