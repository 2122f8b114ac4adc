"""Wakes the readers of the purge table on all servers with a message in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.runtime.redis import RedisLink

_CHANNEL = "purges"


class WakeUp:
    """Sends and receives the message that something was committed; the table contains what it is.

    Every method returns at once. A Redis that fails or hangs delays nobody: each server also reads
    the table every second.
    """

    def __init__(self, redis: RedisLink, *, server: str) -> None:
        """``server`` identifies this process, which does not wake itself."""
        self._redis = redis
        self._server = server.encode()
        self._due = False
        self._sending: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Wait until the last message is sent, at most for the time limit of Redis."""
        if self._sending is not None:
            await self._sending

    def send(self) -> None:
        """Wake all other servers; call it after the commit.

        One message covers all commits before it, so calls that follow each other share messages.
        """
        self._due = True
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())

    def on_message(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when another process has sent, or messages may have been missed.

        Other programs that change rows may publish too, with any text.
        """

        def received(server: bytes) -> None:
            if server != self._server:
                wake()

        self._redis.subscribe(_CHANNEL, received, connected=wake)

    async def _send(self) -> None:
        while self._due:
            # Before the message leaves: a commit during the call needs another one.
            self._due = False
            await self._redis.publish(_CHANNEL, self._server)
