# ruff: noqa: ASYNC110 - a server tells by its metrics, which have no events
"""Requests as bytes on a connection of our own, and what comes back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) [A-Za-z -]+\r\n")
_PATIENCE_S = 15.0


async def exchange(host: str, port: int, *parts: bytes, pause_s: float = 0.02) -> bytes:
    """Send the parts one after the other; all that comes back until the server closes.

    Raises:
        TimeoutError: the server does not close.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(_PATIENCE_S):
            return await reader.read()
    finally:
        writer.close()


@dataclass(frozen=True, slots=True)
class Told:
    """An answer taken apart."""

    status: int
    headers: dict[str, str]
    """By their names in small letters."""
    body: bytes


async def until(met: Callable[[], bool]) -> None:
    """Return when something is as it should be, looked at again and again.

    Raises:
        TimeoutError: it never is.
    """
    async with asyncio.timeout(_PATIENCE_S):
        while not met():
            await asyncio.sleep(0.01)


def answers(told: bytes, *, to_head: bool = False) -> list[Told]:
    """The answers in what came back, none of them chunked; fails where bytes are left over."""
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
