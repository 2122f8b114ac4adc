"""The server: listens, accepts connections, and drains them after a signal."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from typing import Any, cast

import structlog
from aiohttp import web

from proxy.domain.errors import ConfigurationError
from proxy.runtime.open_file_limit import raise_limit
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.settings import ServerSettings
from proxy.web.server.connection import CloseReason, ConnectionServer
from proxy.web.server.inherited_sockets import (
    InheritedSockets,
    accept_waiting,
    pass_connection,
    receive_connection,
)
from proxy.web.server.request_pipeline import RequestPipeline

_BACKLOG = 1024
"""Connections that may wait to be accepted. Beyond it the kernel drops their SYN packets and
clients retry after 1, 3 and 7 seconds. aiohttp's 128 are full after a moment of overload."""
_ACCEPTS = 64
"""Connections accepted before the loop runs other work. With one at a time, each waits for a round
of responses to all that were accepted before it: at 1,024 busy clients the last for seconds."""
_ACCEPT_PAUSE_S = 0.05
_FORCE_CLOSE_S = 0.5
_CLOSE_IDLE_S = 0.02
"""Interval at which a drain closes idle connections."""
_OTHERS_S = 0.1
"""Interval at which connections are accepted that wait for another process of this machine."""
_ROUND_S = 1.0
"""Interval of the reviews, and so the longest time by which a deadline is exceeded."""
_REVIEWS_PER_DEADLINE = 4
"""The interval is at most the shortest deadline divided by this."""
_COLLECT_S = 600.0
"""Interval of full garbage collections."""
_COLLECT_YOUNG_S, _COLLECT_YOUNG_IDLE_S = 0.01, 1.0
"""Intervals of collections of young objects, under load and otherwise."""
_COLLECT_YOUNG_BUSY_S = 0.0005
"""Duration of such a collection that shows load: it is that of a thousand objects."""
_NEVER = 1_000_000_000
_BATCH = 500
"""Connections reviewed before the loop runs other work: about half a millisecond."""

log = structlog.get_logger(__name__)


class ServerRunner(web.AppRunner):
    """Runs an application behind the request pipeline, with the server's own timeouts."""

    def __init__(
        self,
        app: web.Application,
        pipeline: RequestPipeline,
        settings: ServerSettings,
        *,
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> None:
        """Nothing is bound before `listening`."""
        self._supervisor = supervisor
        self._background = AsyncExitStack()
        self._listeners: list[socket.socket] = []
        self._inherited: InheritedSockets | None = None
        self._passing: tuple[socket.socket, ...] = ()
        self._others: asyncio.TimerHandle | None = None
        self._passing_on = False
        # The loop itself keeps only weak references to tasks.
        self._opening: set[asyncio.Task[None]] = set()
        # By then responses have had `drain_s`. aiohttp waits twice this long for the rest.
        super().__init__(app, shutdown_timeout=_FORCE_CLOSE_S)
        self.pipeline = pipeline
        self._settings = settings
        self._connections: ConnectionServer | None = None
        self._drain_task: asyncio.Task[None] | None = None
        self.on_drain: list[Callable[[], None]] = []
        """Called when a drain begins: a socket does not end by itself, as a response does."""
        self.on_last_requests: list[Callable[[], None]] = []
        """Called when connections are no longer accepted: what is requested now is the last."""

    async def _make_server(self) -> web.Server:
        """Put the server that accepts before the application's own; watch its connections."""
        behind, settings = await super()._make_server(), self._settings
        # Without descriptors nothing can be rendered or read, so connections leave some.
        limit = raise_limit(settings.max_connections)
        server = self._connections = ConnectionServer(behind, self.pipeline, settings, limit)
        # A deadline of 0 is disabled.
        deadlines = settings.keepalive_s, settings.header_timeout_s, settings.write_timeout_s
        round_s = min(_ROUND_S, min(filter(None, deadlines)) / _REVIEWS_PER_DEADLINE)
        await self._background.enter_async_context(
            self._supervisor.running(
                BackgroundTask.CONNECTION_TIMEOUTS,
                partial(review_connections, server),
                every_s=round_s,
                first_after_s=round_s,
            )
        )
        await self._background.enter_async_context(
            self._supervisor.running(
                BackgroundTask.GARBAGE_COLLECTION,
                collect_garbage,
                every_s=_COLLECT_S,
                first_after_s=_COLLECT_S,
            )
        )
        await self._background.enter_async_context(
            self._supervisor.running(
                BackgroundTask.YOUNG_GARBAGE_COLLECTION,
                collect_young_garbage,
                first_after_s=_COLLECT_YOUNG_IDLE_S,
            )
        )
        return server

    def statistics(self) -> Mapping[str, float]:
        """Return the number of open connections, and of closed ones by reason."""
        open_, closed = 0, Counter[CloseReason]()
        if self._connections is not None:
            open_, closed = len(self._connections.open), self._connections.closed
        return {"open": open_, **{f"closed_{reason}": closed[reason] for reason in CloseReason}}

    @asynccontextmanager
    async def listening(self, inherited: InheritedSockets | None = None) -> AsyncIterator[int]:
        """Listen within the block; yields the port.

        With ``inherited`` sockets nothing is bound: a parent process has done that.

        At the end, connections are accepted for ``lame_duck_s`` after `begin_drain`. Then responses
        being sent have ``drain_s`` to finish.

        Raises:
            ConfigurationError: the address cannot be bound.
        """
        await self.setup()
        try:
            if inherited is None:
                await self.listen()
            else:
                self._listen_to(inherited)
            # After the setup, so that the objects it created are included.
            freeze()
            with rare_full_collections():
                yield self.addresses[0][1]
        finally:
            await self.drain()
            await self.cleanup()

    async def listen(self) -> None:
        """Bind and listen; port 0 takes a free one, an empty host all addresses.

        Raises:
            ConfigurationError: the address cannot be bound.
        """
        host, port = self._settings.host, self._settings.port
        loop = asyncio.get_running_loop()
        try:
            # This server only binds. If it accepted, libuv would answer a lack of descriptors by
            # closing every connection that waits: 109 of 660 clients got a reset, not a 503.
            bound = await loop.create_server(
                asyncio.Protocol, host or None, port, reuse_address=True, start_serving=False
            )
            with closing(bound):
                for binding in bound.sockets:
                    listener = socket.socket(fileno=os.dup(binding.fileno()))
                    self._listeners.append(listener)
                    listener.setblocking(False)  # noqa: FBT003 - the socket's own signature
                    listener.listen(_BACKLOG)
                    self._watch(listener)
        except OSError as error:
            raise ConfigurationError(
                [f"server: cannot listen on {host}:{port}: {error.strerror}"]
            ) from error

    def _listen_to(self, inherited: InheritedSockets) -> None:
        self._inherited = inherited
        self._passing = inherited.arriving, inherited.leaving
        for listener in inherited.own:
            listener.listen(_BACKLOG)
            self._listeners.append(listener)
            self._watch(listener)
        asyncio.get_running_loop().add_reader(inherited.arriving, self._adopt)
        self._accept_others()

    def _accept_others(self) -> None:
        """Accept what waits for other processes now and then: one may be stopped or restarted."""
        inherited = self._inherited
        if inherited is not None:
            for client in accept_waiting(inherited.others):
                self._begin(client)
            loop = asyncio.get_running_loop()
            self._others = loop.call_later(_OTHERS_S, self._accept_others)

    def _adopt(self) -> None:
        """Take over the connections that the predecessor of this process passes on."""
        inherited, server = self._inherited, self._connections
        for _ in range(_ACCEPTS):
            if inherited is None or server is None:
                return
            received = receive_connection(inherited.arriving)
            if received is None:
                return
            client, kept = received
            self._begin(client, partial(server.adopted, kept=kept))

    @property
    def addresses(self) -> list[Any]:
        """The addresses that connections are accepted at; none after `drain`."""
        return [listener.getsockname() for listener in self._listeners]

    def _watch(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Accept the connections that wait; called again at once if more do."""
        for _ in range(_ACCEPTS):
            try:
                if not self._accept_one(listener):
                    return
            except OSError:
                loop = asyncio.get_running_loop()
                # No descriptor or memory is left (accept(2)). What cannot be accepted waits in the
                # kernel's backlog. The listener stays readable: without the pause, the loop would
                # occupy a core until a descriptor is free.
                loop.remove_reader(listener)
                loop.call_later(_ACCEPT_PAUSE_S, self._watch, listener)
                return

    def _accept_one(self, listener: socket.socket) -> bool:
        """Accept one connection, unless its client has left; return False if none waits.

        Raises:
            OSError: it cannot be accepted.
        """
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return False
        except ConnectionAbortedError:
            return True
        client.setblocking(False)  # noqa: FBT003 - the socket's own signature
        self._begin(client)
        return True

    def _begin(
        self, client: socket.socket, protocol: Callable[[], asyncio.Protocol] | None = None
    ) -> None:
        task = asyncio.create_task(self._open(client, protocol or self._protocol))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _protocol(self) -> asyncio.Protocol:
        return cast("ConnectionServer", self._connections)()

    async def _open(self, client: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, client)
        except OSError:
            # The client has left already.
            client.close()

    def _stop_accepting(self) -> None:
        if self._others is not None:
            self._others.cancel()
        inherited = self._inherited
        if inherited is not None:
            self._adopt()
            self._inherited = None
            asyncio.get_running_loop().remove_reader(inherited.arriving)
            # The last process that closes them accepts what waits.
            for client in () if self._passing_on else accept_waiting(inherited.others):
                self._begin(client)
            for listener in inherited.others:
                listener.close()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            asyncio.get_running_loop().remove_reader(listener)
            # The close resets connections that wait in the backlog, unless another process has it.
            with suppress(OSError):
                while not self._passing_on and self._accept_one(listener):
                    pass
            listener.close()

    async def cleanup(self) -> None:
        """Close the connections, then end the background tasks."""
        self._stop_accepting()
        await super().cleanup()
        for end in self._passing:
            end.close()
        # Last, because the deadlines apply until every connection is closed.
        await self._background.aclose()

    def begin_drain(self, hurried: asyncio.Event) -> None:
        """Start to `drain`, but accept for ``lame_duck_s`` first, or until ``hurried`` is set.

        Each response closes its connection meanwhile.
        """
        self._start_draining()
        # A task: the time begins now, although other parts are stopped before `drain` is awaited.
        self._drain_task = asyncio.create_task(self._drain_after(hurried))

    def begin_passing_on(self, hurried: asyncio.Event) -> None:
        """Start to `drain`, but pass the connections on to the successor of this process.

        Clients notice nothing: each connection is passed when no response is due on it. What is
        not passed after ``drain_s``, or when ``hurried`` is set, is closed as in any drain.
        """
        inherited = self._inherited
        if inherited is None or self._connections is None:
            self.begin_drain(hurried)
            return
        self._passing_on = True
        self._stop_accepting()
        for call in self.on_drain:
            call()
        self._drain_task = asyncio.create_task(self._pass_on(inherited.leaving, hurried))

    async def _pass_on(self, leaving: socket.socket, hurried: asyncio.Event) -> None:
        connections = cast("ConnectionServer", self._connections)
        send = partial(pass_connection, leaving)
        deadline = asyncio.get_running_loop().time() + self._settings.drain_s
        # A connection that was just accepted is passed when its task waits for a request.
        while self._opening or not connections.pass_on_idle(send):
            if hurried.is_set() or asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(_CLOSE_IDLE_S)
        await self._drain()

    async def _drain_after(self, hurried: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.lame_duck_s):
                await hurried.wait()
        await self._drain()

    async def drain(self) -> None:
        """Stop accepting; return when all responses are sent, or after ``drain_s``."""
        await (self._drain_task or self._drain())

    def _start_draining(self) -> None:
        if self._connections is None or self._connections.draining:
            return
        self._connections.draining = True
        if not self._passing_on:
            for call in self.on_drain:
                call()

    async def _drain(self) -> None:
        self._start_draining()
        self._stop_accepting()
        for call in self.on_last_requests:
            call()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_s):
                await self.pipeline.drain()
                # Idle connections are closed last. Their clients had all this time to send one
                # more request, which was answered with ``Connection: close``.
                while not self._close_idle():  # noqa: ASYNC110 - bytes in the kernel set no event
                    await asyncio.sleep(_CLOSE_IDLE_S)

    def _close_idle(self) -> bool:
        """Close idle connections; return whether none is left."""
        connections = self._connections
        return not self._opening and (connections is None or connections.close_idle())


async def review_connections(server: ConnectionServer) -> None:
    """Close the connections whose deadline has passed.

    To compare the time stamps of all once a second costs less than a timer for each request.

    Raises:
        ExceptionGroup: the review of some connections failed; all others were reviewed.
    """
    loop = asyncio.get_running_loop()
    # A copy: connections come and go while the loop runs other work.
    connections = list(server.open)
    errors: list[Exception] = []
    for start in range(0, len(connections), _BATCH):
        # Read again for each batch, because the work in between takes time.
        now = loop.time()
        for connection in connections[start : start + _BATCH]:
            try:
                connection.review(now)
            except Exception as error:  # noqa: BLE001 - raised below, to the supervisor
                # One connection that always fails must not disable the deadlines of the
                # connections behind it.
                errors.append(error)
        await asyncio.sleep(0)
    if errors:
        raise ExceptionGroup("connections could not be reviewed", errors)


def freeze() -> None:
    """Exclude all existing objects from garbage collection.

    Most are modules, which live as long as the process. Scanning them blocked the loop, and so all
    hits, for 70 to 80 ms every few seconds under load, and took most of a second at exit.
    """
    gc.collect()
    gc.freeze()


@contextmanager
def rare_full_collections() -> Iterator[None]:
    """Disable full garbage collections for the block, except for calls of `collect_garbage`.

    A full collection examines all objects, those of the caches too, of which almost none are in
    cycles. With 340,000 objects it blocked all requests for 0.3 s, every few seconds while the
    caches filled. Young objects are collected as before.
    """
    before = gc.get_threshold()
    gc.set_threshold(*before[:2], _NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def collect_young_garbage() -> None:
    """Collect the garbage among young objects from now on, before there are many of them.

    Python does so when 700 more objects were created than deleted. A full cache deletes an object
    for each new one: 190,000 young objects accumulated at 4,500 hits from disk per second, and the
    collection blocked all requests for 0.1 to 0.4 s.
    """
    interval_s = _COLLECT_YOUNG_IDLE_S
    while True:
        began = time.perf_counter()
        gc.collect(1)
        interval_s = next_interval(interval_s, time.perf_counter() - began)
        await asyncio.sleep(interval_s)


def next_interval(last_s: float, took_s: float) -> float:
    """Return the seconds until the next collection, given the last interval and what it took."""
    if took_s > _COLLECT_YOUNG_BUSY_S:
        return _COLLECT_YOUNG_S
    # Not at once the longest: under load, a collection after the shortest may be quick, and one
    # after a second blocks requests for 40 ms.
    return min(2 * last_s, _COLLECT_YOUNG_IDLE_S)


async def collect_garbage() -> None:
    """Collect the garbage among old objects; blocks the loop for up to a second."""
    gc.collect()
