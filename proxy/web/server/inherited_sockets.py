"""The sockets that a parent process holds for its server processes.

Each process has listening sockets of its own, with ``SO_REUSEPORT``: the kernel spreads new
connections over them. The parent holds all of them, so connections that wait for a process that
has ended are not lost. One more pair of sockets per process passes open connections from a process
that is replaced to its successor.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from proxy.domain.errors import ConfigurationError
from proxy.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class InheritedSockets:
    """The sockets of one process."""

    own: Sequence[socket.socket]
    """Bound to the addresses of the server; `listen` has not been called in the first process."""
    others: Sequence[socket.socket]
    """Those of the other processes."""
    arriving: socket.socket
    """Receives the connections of the predecessor."""
    leaving: socket.socket
    """Sends connections to the successor."""

    def numbers(self) -> Mapping[str, Any]:
        """Return the descriptors as JSON; `of` is the reverse."""
        return {
            "own": [one.fileno() for one in self.own],
            "others": [one.fileno() for one in self.others],
            "arriving": self.arriving.fileno(),
            "leaving": self.leaving.fileno(),
        }

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> Self:
        """Return the sockets that this process has inherited."""
        return cls(
            [_inherited(one) for one in numbers["own"]],
            [_inherited(one) for one in numbers["others"]],
            _inherited(numbers["arriving"]),
            _inherited(numbers["leaving"]),
        )

    def descriptors(self) -> list[int]:
        """Return all descriptors."""
        sockets = [*self.own, *self.others, self.arriving, self.leaving]
        return [one.fileno() for one in sockets]


class SocketOwner:
    """Binds the sockets of all processes, and holds them until `close`."""

    def __init__(self) -> None:
        self._listeners: list[list[socket.socket]] = []
        self._passing: list[tuple[socket.socket, socket.socket]] = []
        self._claims: list[socket.socket] = []

    @property
    def port(self) -> int:
        """The port; port 0 of the settings is resolved."""
        return int(self._listeners[0][0].getsockname()[1])

    async def bind(self, settings: ServerSettings, processes: int) -> None:
        """Bind to the addresses of the settings, once for each process.

        Raises:
            ConfigurationError: an address cannot be bound, or another server listens on it.
        """
        host, port = settings.host, settings.port
        try:
            # First without SO_REUSEPORT: a second server would share the connections otherwise.
            probe = await asyncio.get_running_loop().create_server(
                asyncio.Protocol, host or None, port, reuse_address=True, start_serving=False
            )
            addresses = [(one.family, one.getsockname()) for one in probe.sockets]
            probe.close()
            for family, address in addresses:
                self._claim(address)
                for slot in range(processes):
                    if len(self._listeners) <= slot:
                        self._listeners.append([])
                    self._listeners[slot].append(_bound(family, address))
        except OSError as error:
            self.close()
            raise ConfigurationError(
                [f"server: cannot listen on {host}:{port}: {error.strerror}"]
            ) from error
        for _ in range(processes):
            # Datagrams in order: one connection each, with a byte that describes it.
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for end in pair:
                end.setblocking(False)  # noqa: FBT003 - the socket's own signature
            self._passing.append(pair)

    def _claim(self, address: tuple[Any, ...]) -> None:
        """Prevent a second parent from binding before the processes of this one listen.

        Raises:
            OSError: another one has bound the address.
        """
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._claims.append(claim)
        # An abstract name (unix(7)) belongs to the network namespace, as the port does.
        claim.bind(f"\0smartserve {address[0]} {address[1]}")

    def of(self, slot: int) -> InheritedSockets:
        """Return the sockets of a process."""
        others = [one for at, group in enumerate(self._listeners) if at != slot for one in group]
        arriving, leaving = self._passing[slot]
        return InheritedSockets(self._listeners[slot], others, arriving, leaving)

    def close(self) -> None:
        """Close the sockets of this process; those that were inherited stay open."""
        for group in (*self._listeners, *self._passing, self._claims):
            for one in group:
                one.close()


def _inherited(descriptor: int) -> socket.socket:
    # Not for the workers of this process: they would keep the port or the connection.
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - the function's own signature
    return socket.socket(fileno=descriptor)


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # As asyncio: IPv4 has a socket of its own.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setblocking(False)  # noqa: FBT003 - the socket's own signature
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def pass_connection(leaving: socket.socket, descriptor: int, *, kept: bool) -> bool:
    """Send a connection to the successor; return False if it has to be tried again.

    ``kept``: it has had a response, so it may stay idle for ``keepalive_s``.
    """
    try:
        socket.send_fds(leaving, [b"k" if kept else b"n"], [descriptor])
    # BlockingIOError: the queue is full. ETOOMANYREFS: too many descriptors are under way.
    except OSError:
        return False
    return True


def receive_connection(arriving: socket.socket) -> tuple[socket.socket, bool] | None:
    """Return the next connection of the predecessor, and whether it was kept; None if none waits.

    Raises:
        OSError: this process has no free descriptor for it.
    """
    try:
        message, descriptors, _, _ = socket.recv_fds(arriving, 1, 1)
    except BlockingIOError:
        return None
    if not descriptors:
        # The kernel discards a descriptor beyond the limit of open files (unix(7)).
        return None
    client = _inherited(descriptors[0])
    client.setblocking(False)  # noqa: FBT003 - the socket's own signature
    return client, message == b"k"


def accept_waiting(listeners: Sequence[socket.socket]) -> list[socket.socket]:
    """Accept what waits on the sockets of other processes, for example of a stopped one."""
    accepted = []
    for listener in listeners:
        # EINVAL: its first process does not listen yet. EMFILE: it keeps waiting.
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                client.setblocking(False)  # noqa: FBT003 - the socket's own signature
                accepted.append(client)
    return accepted
