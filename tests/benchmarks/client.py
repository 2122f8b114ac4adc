"""A client with little overhead, because it shares the cores with the measured server."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType, TracebackType
from typing import Self

from tests.benchmarks.servers import Address, Unmeasurable

_READ_BYTES = 256 * 1024
_TIMEOUT_S = 60
_CROWD_TIMEOUT_S = 120
_POLL_S = 0.002
_FORM_END = b"\r\n--x--\r\n"
_SPARE_FILES = 200
"""Descriptors of this process beside the connections of a crowd."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    first_byte_s: float
    """From sending the request to the first byte of the body."""
    last_byte_s: float


class Connection:
    """A keep-alive connection that sends GET requests, one at a time."""

    def __init__(self, address: Address) -> None:
        self._socket = socket.create_connection(address, _TIMEOUT_S)
        self._host = f"{address[0]}:{address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def get(
        self, target: str, *, accept: str = "*/*", headers: Mapping[str, str] = MappingProxyType({})
    ) -> Answer:
        """Return the response to a GET, with a Content-Length or in chunks."""
        named = {"Host": self._host, "Accept": accept, **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        return self._exchange(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode())

    def upload(
        self, target: str, content: bytes, *, token: str, field: str = "file", name: str = "a.jpg"
    ) -> Answer:
        """Return the response to a form with one file."""
        form = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
        head = (
            f"POST {target} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n"
            f"Content-Length: {len(form) + len(content) + len(_FORM_END)}\r\n\r\n{form}"
        )
        return self._exchange(head.encode(), content, _FORM_END)

    def _exchange(self, *parts: bytes) -> Answer:
        began = time.perf_counter()
        for part in parts:
            self._socket.sendall(part)
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._receive()
        status, headers = _head(received[:end].decode("latin-1"))
        del received[: end + 4]
        read = _chunked if "chunked" in headers.get("transfer-encoding", "") else _counted
        body = read(received, headers)
        if body is None and not received:
            received += self._receive()
        first_byte_s = time.perf_counter() - began
        while (body := read(received, headers)) is None:
            received += self._receive()
        return Answer(status, headers, body, first_byte_s, time.perf_counter() - began)

    def _receive(self) -> bytes:
        try:
            received = self._socket.recv(_READ_BYTES)
        except TimeoutError as error:
            raise Unmeasurable(f"{self._host} sent nothing for {_TIMEOUT_S} s") from error
        if not received:
            raise Unmeasurable(f"{self._host} closed the connection before its answer was whole")
        return received


def get(address: Address, target: str, *, accept: str = "*/*") -> Answer:
    """Return the response to one GET on its own connection; it must be 200."""
    with Connection(address) as connection:
        answer = connection.get(target, accept=accept)
    if answer.status != HTTPStatus.OK:
        raise Unmeasurable(f"{target} was answered with {answer.status}: {answer.body[:200]!r}")
    return answer


def await_ready(address: Address) -> None:
    """Return when ``/readyz`` is 200: all workers have started.

    Raises:
        Unmeasurable: it has another status than 200 and 503.
    """
    with Connection(address) as connection:
        while (status := connection.get("/readyz").status) != HTTPStatus.OK:
            if status != HTTPStatus.SERVICE_UNAVAILABLE:
                raise Unmeasurable(f"/readyz was answered with {status}")
            time.sleep(_POLL_S)


def fetched(
    address: Address, targets: Sequence[str], *, clients: int, accept: str = "*/*"
) -> tuple[float, list[Answer]]:
    """Return the total seconds, and the responses in order of the targets.

    Each client requests the next target as soon as it is free.

    Raises:
        Unmeasurable: a response was no success.
    """
    answers: dict[int, Answer] = {}
    numbers = iter(range(len(targets)))

    def client(connection: Connection) -> None:
        for number in numbers:
            answers[number] = connection.get(targets[number], accept=accept)

    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(address)) for _ in range(clients)]
        executor = stack.enter_context(ThreadPoolExecutor(clients))
        began = time.perf_counter()
        list(executor.map(client, connections))
        seconds = time.perf_counter() - began
    if failed := [answer for answer in answers.values() if answer.status != HTTPStatus.OK]:
        raise Unmeasurable(f"{len(failed)} failures, such as {failed[0].body[:200]!r}")
    return seconds, [answers[number] for number in range(len(targets))]


def all_at_once(address: Address, targets: Sequence[str]) -> tuple[float, list[Answer]]:
    """Request all targets at the same moment, each on its own connection.

    Return the seconds to the end of the last response, and the responses in order of the targets,
    whatever their status.

    Raises:
        Unmeasurable: a response was incomplete or took too long, or there are too few descriptors.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(targets) + _SPARE_FILES
    if most < needed and most != resource.RLIM_INFINITY:
        raise Unmeasurable(f"{needed} file descriptors are needed, and {most} are allowed")
    if now < needed and now != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
    return asyncio.run(_crowd(address, targets))


async def _crowd(address: Address, targets: Sequence[str]) -> tuple[float, list[Answer]]:
    opened = [await asyncio.open_connection(*address) for _ in targets]
    host = f"{address[0]}:{address[1]}"
    try:
        began = time.perf_counter()
        for target, (_, writer) in zip(targets, opened, strict=True):
            request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
        async with asyncio.timeout(_CROWD_TIMEOUT_S):
            answers = await asyncio.gather(*(_whole(reader, began) for reader, _ in opened))
    except (OSError, TimeoutError) as error:
        raise Unmeasurable(f"{host} did not answer {len(targets)} requests: {error!r}") from error
    finally:
        for _, writer in opened:
            writer.close()
    return max(answer.last_byte_s for answer in answers), list(answers)


async def _whole(reader: asyncio.StreamReader, began: float) -> Answer:
    """Return the response on a connection that the server closes after it."""
    first = await reader.read(_READ_BYTES)
    first_byte_s = time.perf_counter() - began
    received = first + await reader.read()
    last_byte_s = time.perf_counter() - began
    head, end, rest = received.partition(b"\r\n\r\n")
    if not end:
        raise Unmeasurable(f"a connection was closed without an answer: {received[:200]!r}")
    status, headers = _head(head.decode("latin-1"))
    read = _chunked if "chunked" in headers.get("transfer-encoding", "") else _counted
    body = read(bytearray(rest), headers)
    if body is None:
        raise Unmeasurable(f"an answer ended after {len(rest)} bytes: {head[:300]!r}")
    return Answer(status, headers, body, first_byte_s, last_byte_s)


def _head(text: str) -> tuple[int, dict[str, str]]:
    first, *lines = text.split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ", 2)[1]), {name.lower(): value.strip() for name, _, value in pairs}


def _counted(received: bytearray, headers: Mapping[str, str]) -> bytes | None:
    """Return the body when all of it was received (RFC 9112, 6.2)."""
    return bytes(received) if len(received) >= int(headers["content-length"]) else None


def _chunked(received: bytearray, _headers: Mapping[str, str]) -> bytes | None:
    """Return the body when its last chunk was received (RFC 9112, 7.1)."""
    if not received.endswith(b"0\r\n\r\n"):
        return None
    body, at = bytearray(), 0
    while at < len(received):
        line = received.index(b"\r\n", at)
        size = int(received[at:line], 16)
        body += received[line + 2 : line + 2 + size]
        at = line + 2 + size + 2
    return bytes(body) if at == len(received) and not size else None
