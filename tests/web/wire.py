"""Sends requests as bytes on a connection, and parses the responses."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from tests.support.waiting import eventually, pause_between_pieces

until = eventually

_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) [A-Za-z -]+\r\n")
_PATIENCE_S = 15.0


async def exchange(host: str, port: int, *parts: bytes, pause_s: float = 0.02) -> bytes:
    """Send the parts and return all bytes until the server closes the connection.

    ``pause_s`` between the parts makes them arrive separately.

    Raises:
        TimeoutError: the server does not close the connection.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await pause_between_pieces(pause_s)
        async with asyncio.timeout(_PATIENCE_S):
            return await reader.read()
    finally:
        writer.close()


@dataclass(frozen=True, slots=True)
class Told:
    """A parsed response."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes


def answers(told: bytes, *, to_head: bool = False) -> list[Told]:
    """Parse responses that are not chunked; fail if bytes remain."""
    found: list[Told] = []
    while told:
        head, end, rest = told.partition(b"\r\n\r\n")
        assert end, told
        status, *lines = (head + b"\r\n").splitlines(keepends=True)
        match = _STATUS.fullmatch(status)
        assert match, status
        pairs = (line.decode("latin-1").rstrip("\r\n").partition(": ") for line in lines)
        headers = {name.lower(): value for name, _, value in pairs}
        length = 0 if to_head else int(headers.get("content-length", "0"))
        assert len(rest) >= length
        found.append(Told(int(match[1]), headers, rest[:length]))
        told = rest[length:]
    return found
