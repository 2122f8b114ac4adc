"""Accepting: connections from a listening socket, and a 503 where no descriptor is left for one.

libuv keeps a spare descriptor for that case. When a thread opens a file while the spare is given
up, it is not got back: the listener stays readable, and a core spins until some client leaves. So
this accepts by itself, and where even the spare is gone it looks away for a moment.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import Any

from aiohttp import web

_BACKLOG = 1024
"""Connections that may wait to be accepted. Past it the kernel drops their packets, and a client
tries again after one second, three and seven; aiohttp's 128 are full after a moment of overload."""
_AT_ONCE = 64
"""Connections taken in one turn of the loop, so that those that are there get theirs."""

_PAUSE_S = 0.1
_READ_BYTES = 64 * 1024
_STARVED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Factory = Callable[[], asyncio.BaseProtocol]


class Acceptor:
    """Accepts from listening sockets, which it owns, from its making until `close`.

    A connection for which no descriptor is left gets what ``refusal`` gives, and is closed.
    """

    def __init__(
        self, sockets: Sequence[socket.socket], factory: Factory, refusal: Callable[[], bytes]
    ) -> None:
        self.sockets = list(sockets)
        self._factory = factory
        self._refusal = refusal
        self._loop = asyncio.get_running_loop()
        self._spare = _Spare()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._opening: set[asyncio.Task[None]] = set()
        for listener in self.sockets:
            self._listen(listener)

    def close(self) -> None:
        """Accept no more; connections that there are go on."""
        for pause in self._pauses.values():
            pause.cancel()
        self._spare.give_up()
        sockets, self.sockets = self.sockets, []
        for listener in sockets:
            self._loop.remove_reader(listener.fileno())
            listener.close()

    def _listen(self, listener: socket.socket) -> None:
        self._loop.add_reader(listener.fileno(), partial(self._accept, listener))

    def _accept(self, listener: socket.socket) -> None:
        """Take what waits, up to a number."""
        try:
            for connection in _waiting(listener):
                self._open(connection)
        except OSError:
            self._shed(listener)

    def _open(self, connection: socket.socket) -> None:
        task = self._loop.create_task(self._connect(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection)
        except OSError:
            connection.close()

    def _shed(self, listener: socket.socket) -> None:
        """Refuse what waits, by means of the spare descriptor."""
        try:
            with self._spare.lent():
                for connection in _waiting(listener):
                    _refuse(connection, self._refusal())
        except OSError:
            self._pause(listener)

    def _pause(self, listener: socket.socket) -> None:
        """Look away: a listener that nothing can be taken from stays readable, and would spin."""
        self._loop.remove_reader(listener.fileno())
        self._pauses[listener] = self._loop.call_later(_PAUSE_S, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        del self._pauses[listener]
        self._spare.keep()
        self._listen(listener)


class _Spare:
    """A descriptor kept for bad times."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self.keep()

    def keep(self) -> None:
        """Have one again, if there is one to be had."""
        if self._descriptor is None:
            with suppress(OSError):
                self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def give_up(self) -> None:
        """Let it go."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let it be used for the length of the block; another thread may be quicker."""
        self.give_up()
        try:
            yield
        finally:
            self.keep()


def _waiting(listener: socket.socket) -> Iterator[socket.socket]:
    """Some of the connections that wait to be accepted.

    Raises:
        OSError: no descriptor, or no memory, is left for one.
    """
    for _ in range(_AT_ONCE):
        try:
            connection, _address = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _STARVED:
                raise
            # accept(2): what went wrong on the new connection already; the next may be well.
            continue
        connection.settimeout(0)
        yield connection


def _refuse(connection: socket.socket, answer: bytes) -> None:
    """Send an answer and close; what was asked is read, as unread bytes would reset the answer."""
    with closing(connection), suppress(OSError):
        connection.send(answer)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(_READ_BYTES)


class ListenSite(web.BaseSite):
    """An address that a runner listens on, by an `Acceptor`."""

    def __init__(
        self, runner: web.BaseRunner, host: str, port: int, *, refusal: Callable[[], bytes]
    ) -> None:
        """The runner has to be set up; nothing is bound before `start`."""
        super().__init__(runner, backlog=_BACKLOG)
        self._host = host
        self._port = port
        self._refusal = refusal

    @property
    def name(self) -> str:
        """The address as a URL."""
        return f"http://{self._host or '0.0.0.0'}:{self._port}"  # noqa: S104 - shown only

    async def start(self) -> None:
        """Listen; an OSError where that cannot be."""
        await super().start()
        server = self._runner.server
        if server is None:
            raise TypeError
        sockets = await _listening(self._host, self._port)
        # Of a server, aiohttp uses its sockets and close() alone.
        self._server = Acceptor(sockets, server, self._refusal)  # type: ignore[assignment]


async def _listening(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address of a host; an empty one means all of this machine."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    places = dict.fromkeys((one[0], one[4]) for one in found)
    with ExitStack() as undo:
        sockets = [_bound(undo, *place) for place in places if _spoken(place[0])]
        undo.pop_all()
    return sockets


def _spoken(family: int) -> bool:
    """Whether the kernel has this family: one without IPv6 still has names with such addresses."""
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return False
    return True


def _bound(undo: ExitStack, family: int, address: Any) -> socket.socket:
    listener = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        # IPv4 has a socket of its own.
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.settimeout(0)
    listener.bind(address)
    listener.listen(_BACKLOG)
    return listener
