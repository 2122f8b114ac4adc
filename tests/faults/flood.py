"""An open-loop client in a process of its own: its request rate does not depend on responses.

``python -m tests.faults.flood``. The `Order` is JSON on standard input, the `Report` JSON on
standard output.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import cast

import uvloop

_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Order:
    """What to request repeatedly, and at which rate."""

    port: int
    targets: Sequence[str]
    per_s: float
    seconds: float


@dataclass(slots=True)
class Report:
    """Responses by kind: ``whole``, ``fallback``, ``refused``, or the status."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from the moment at which a request was due, by kind."""

    @property
    def counts(self) -> Counter[str]:
        """Return the number of responses by kind."""
        return Counter({kind: len(times) for kind, times in self.seconds.items()})

    def part_ms(self, kind: str, part: float) -> float:
        """Return the latency quantile of a kind in milliseconds; 0 if there is no response."""
        times = sorted(self.seconds.get(kind, []))
        return 1000 * times[min(len(times) - 1, int(part * len(times)))] if times else 0.0


class _Client(asyncio.Protocol):
    """A keep-alive connection with one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[str] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not a subclass of it.
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> asyncio.Future[str]:
        """Return the kind of the response when it is complete."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        head = bytes(self._received[:end])
        length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
        if len(self._received) == end + 4 + length:
            self._received.clear()
            self._answer.set_result(_kind(head))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result("lost")

    def close(self) -> None:
        self._transport.abort()


def _kind(head: bytes) -> str:
    status = head[9:12].decode()
    if status == "503" and b"\r\nRetry-After: " in head:
        return "refused"
    if status != "200":
        return status
    return "fallback" if b"detail=fallback" in head else "whole"


async def _ask(order: Order, idle: deque[_Client], target: str, report: Report) -> None:
    due = time.perf_counter()
    if idle:
        client = idle.pop()
    else:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(_Client, "127.0.0.1", order.port)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            kind = await client.ask(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    except TimeoutError:
        kind = "unanswered"
    report.seconds.setdefault(kind, []).append(time.perf_counter() - due)
    if kind in ("lost", "unanswered"):
        client.close()
    else:
        idle.append(client)


async def flood(order: Order) -> Report:
    """Execute an order; return when the last response is complete."""
    report = Report()
    idle: deque[_Client] = deque()
    targets = cycle(order.targets)
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(order.per_s * order.seconds)):
            ahead = began + number / order.per_s - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
            group.create_task(_ask(order, idle, next(targets), report))
    for client in idle:
        client.close()
    return report


async def apart(order: Order) -> Report:
    """Execute an order in another process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate(json.dumps(asdict(order)).encode())
    return Report(json.loads(output))


if __name__ == "__main__":
    json.dump(uvloop.run(flood(Order(**json.load(sys.stdin)))).seconds, sys.stdout)
