"""A client that costs little: it shares the cores with what it measures."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Self

from tests.benchmarks.servers import Address, Unmeasurable

_READ_BYTES = 256 * 1024
_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


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

    def get(self, target: str, *, accept: str = "*/*") -> Answer:
        """The answer to a GET; its length has to be told in its head."""
        request = f"GET {target} HTTP/1.1\r\nHost: {self._host}\r\nAccept: {accept}\r\n\r\n"
        self._socket.sendall(request.encode())
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._receive()
        status, headers = _head(received[:end].decode("latin-1"))
        length = int(headers["content-length"])
        while len(received) < end + 4 + length:
            received += self._receive()
        return Answer(status, headers, bytes(received[end + 4 :]))

    def _receive(self) -> bytes:
        received = self._socket.recv(_READ_BYTES)
        if not received:
            raise Unmeasurable(f"{self._host} closed the connection before its answer was whole")
        return received


def get(address: Address, target: str, *, accept: str = "*/*") -> Answer:
    """The answer to one GET on a connection of its own, which has to be 200."""
    with Connection(address) as connection:
        answer = connection.get(target, accept=accept)
    if answer.status != HTTPStatus.OK:
        raise Unmeasurable(f"{target} was answered with {answer.status}: {answer.body[:200]!r}")
    return answer


def _head(text: str) -> tuple[int, dict[str, str]]:
    first, *lines = text.split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ", 2)[1]), {name.lower(): value.strip() for name, _, value in pairs}
