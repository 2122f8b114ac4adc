"""What a worker prints on its standard error: a traceback, or a library's complaint, for the log.

A worker that is locked in may not write to a file, which the server's own standard error may be.
"""

from __future__ import annotations

import asyncio

import structlog

_MOST_BYTES = 16 * 1024
_GATHER_S = 0.1
_MOST_ENTRIES = 20

log = structlog.get_logger(__name__)


async def pass_on(stream: asyncio.StreamReader, pid: int) -> None:
    """Log what comes until the process ends: gathered, and no more of it than anybody reads."""
    entries = 0
    while text := await stream.read(_MOST_BYTES):
        if entries < _MOST_ENTRIES:
            await asyncio.sleep(_GATHER_S)  # the lines of a traceback come one by one
            text += await _at_hand(stream)
            log.warning("worker_printed", pid=pid, text=text.decode(errors="replace").strip())
        entries += 1


async def _at_hand(stream: asyncio.StreamReader) -> bytes:
    """What has come meanwhile; empty where nothing has."""
    try:
        async with asyncio.timeout(0):
            return await stream.read(_MOST_BYTES)
    except TimeoutError:
        return b""
