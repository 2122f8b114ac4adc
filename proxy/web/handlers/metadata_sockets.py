"""WebSockets of the metadata routes: analyses of stored files, and the progress of uploads."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from proxy.domain.errors import (
    BadParameter,
    CapacityError,
    ShuttingDown,
    SmartserveError,
    TooManySockets,
    UpgradeRequired,
)
from proxy.domain.request import Outcome
from proxy.metadata.progress import ProgressHub, ProgressSubscription, check_session_id
from proxy.runtime.deferred_json import dumps
from proxy.web.auth import SESSION_COOKIE, caller_of
from proxy.web.json_response import json_route
from proxy.web.metadata_files import StoredFiles
from proxy.web.metadata_input import Caller, CallerGuard
from proxy.web.responses import SocketResponse

_HEARTBEAT_S = 15.0
_MAX_HEARTBEATS = 40
"""Heartbeats without a state of the session, after which a socket is closed: ten minutes."""
_MAX_ANALYSES = 4
"""Analyses that one socket may have under way."""
_MAX_UNSENT_BYTES = 64 * 1024 * 1024
"""Results of all sockets that clients have not read yet."""
_MESSAGES_PER_S, _BURST = 20.0, 200.0
"""Messages that a client may send, pings included: on average, and at once."""
_NO_HANDSHAKE = "Connect with a WebSocket client: this address is for WebSocket 13."
_TOO_MANY = b"too many messages"
_STOPPING = b"the server is stopping; connect again"

log = structlog.get_logger(__name__)


class OpenSockets:
    """Limits and counts the open sockets, and closes them when the server stops."""

    def __init__(self, *, max_sockets: int, max_per_user: int) -> None:
        self._max_sockets = max_sockets
        self._max_per_user = max_per_user
        self._owners: Counter[str] = Counter()
        self._open: set[OpenSocket] = set()
        self._counts: Counter[str] = Counter()
        # The loop itself keeps only weak references to tasks.
        self._closing: set[asyncio.Task[object]] = set()
        self._unsent = 0
        self.draining = False

    def accept(
        self,
        request: web.BaseRequest,
        owner: str | None,
        converse: Callable[[OpenSocket], Awaitable[None]],
        outcome: Outcome,
    ) -> SocketResponse:
        """Return the response that opens a socket and lets ``converse`` use it.

        ``owner`` names whose sockets are limited together; None: no limit (MEDIA_API_KEY).

        Raises:
            UpgradeRequired: the request is not a handshake of a WebSocket.
            ShuttingDown: the server is stopping.
            TooManySockets: the owner has as many as allowed.
            CapacityError: the server has as many as allowed.
        """
        socket = OpenSocket(self, converse, outcome, lambda: self._leave(socket, owner))
        try:
            self._check(request, socket, owner)
        except SmartserveError:
            self._counts["refused"] += 1
            raise
        self._counts["accepted"] += 1
        self._owners[owner or ""] += 1
        self._open.add(socket)
        return socket.response

    def require_handshake(self, request: web.BaseRequest) -> None:
        """Raise UpgradeRequired if a request offers no upgrade at all."""
        if "Upgrade" not in request.headers:
            self._counts["refused"] += 1
            raise UpgradeRequired(_NO_HANDSHAKE)

    def _check(self, request: web.BaseRequest, socket: OpenSocket, owner: str | None) -> None:
        if not socket.response.can_prepare(request):
            raise UpgradeRequired(_NO_HANDSHAKE)
        if self.draining:
            raise ShuttingDown("The server is stopping. Retry.", retry_after_s=1)
        if len(self._open) >= self._max_sockets:
            raise CapacityError("The server has no room for another WebSocket. Retry later.")
        if owner is not None and self._owners[owner] >= self._max_per_user:
            raise TooManySockets(
                f"You have {self._max_per_user} open WebSockets. Close one of them."
            )

    def _leave(self, socket: OpenSocket, owner: str | None) -> None:
        self._open.discard(socket)
        self._owners[owner or ""] -= 1
        if not self._owners[owner or ""]:
            del self._owners[owner or ""]

    @contextmanager
    def sending(self, byte_size: int) -> Iterator[None]:
        """Count a result until its client has read it.

        Raises:
            CapacityError: too many bytes of other results are unread.
        """
        if self._unsent and self._unsent + byte_size > _MAX_UNSENT_BYTES:
            raise CapacityError("Too many results wait for slow clients. Retry later.")
        self._unsent += byte_size
        try:
            yield
        finally:
            self._unsent -= byte_size

    def drain(self) -> None:
        """Accept no more; close each socket as soon as no analysis or upload is under way on it."""
        self.draining = True
        for socket in self._open:
            socket.close_if_drained()

    async def close(self, _app: object = None) -> None:
        """Close all sockets, also those with an analysis under way."""
        self.draining = True
        for socket in self._open:
            self.start_closing(socket)
        if self._closing:
            await asyncio.wait(self._closing)

    def start_closing(self, socket: OpenSocket) -> None:
        """Close a socket that is open."""
        if socket.response.prepared:
            closing = socket.response.close(code=WSCloseCode.GOING_AWAY, message=_STOPPING)
            task = asyncio.create_task(closing)
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def count(self, name: str) -> None:
        """Add 1 to a counter of `statistics`."""
        self._counts[name] += 1

    def statistics(self) -> Mapping[str, float]:
        """Return the open sockets, those that were accepted and refused, analyses and bytes."""
        counts = {name: self._counts[name] for name in COUNTS}
        return {"open": len(self._open), "unsent_bytes": self._unsent, **counts}


COUNTS = ("accepted", "refused", "analyses", "failed")
"""Counters of `OpenSockets.statistics`; the last two are of analyses."""


class OpenSocket:
    """One socket, which may be busy."""

    def __init__(
        self,
        sockets: OpenSockets,
        converse: Callable[[OpenSocket], Awaitable[None]],
        outcome: Outcome,
        release: Callable[[], None],
    ) -> None:
        self.sockets = sockets
        self.busy = 0
        """Analyses or uploads under way, whose end its client waits for."""
        self._talk = converse
        self._allowance, self._counted_at = _BURST, asyncio.get_running_loop().time()
        self.response = SocketResponse(self._converse, outcome=outcome, release=release)

    async def _converse(self, _response: SocketResponse) -> None:
        # It may have been accepted just before the drain began.
        self.close_if_drained()
        await self._talk(self)

    def close_if_drained(self) -> None:
        """Close if the server stops and the client waits for nothing."""
        if self.sockets.draining and not self.busy:
            self.sockets.start_closing(self)

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send JSON; raises ConnectionError if the client has left."""
        await self.response.send_message(message)

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the messages of the client, until one side closes the socket.

        Pings are answered, and so is what is no JSON object. A client that floods is disconnected:
        its messages would take the loop's time from images.
        """
        async for message in self.response:
            if message.type is WSMsgType.ERROR:
                return
            if not self._is_allowed():
                await self.response.close(code=WSCloseCode.POLICY_VIOLATION, message=_TOO_MANY)
                return
            if message.type is WSMsgType.PING:
                await self.response.pong(message.data)
            elif message.type is not WSMsgType.PONG:
                value = _parsed(message.data)
                if value is None:
                    await self.send(_error("Send JSON objects with a member type."))
                elif value.get("type") == "ping":
                    await self.send({"type": "pong"})
                else:
                    yield value

    def _is_allowed(self) -> bool:
        """Count a message; return False if too many arrived (a token bucket)."""
        now = asyncio.get_running_loop().time()
        refilled = self._allowance + (now - self._counted_at) * _MESSAGES_PER_S
        self._allowance, self._counted_at = min(_BURST, refilled) - 1, now
        return self._allowance >= 0


def _parsed(message: str | bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(message)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _error(sentence: str) -> dict[str, Any]:
    return {"type": "error", "error": sentence}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataSocketHandler:
    """Handles the handshakes and the messages of the sockets."""

    callers: CallerGuard
    sockets: OpenSockets
    hub: ProgressHub
    files: StoredFiles
    heartbeat_s: float = _HEARTBEAT_S

    @json_route("metadata_socket", coded=True)
    async def analysis_socket(self, request: web.Request) -> SocketResponse:
        """Open a WebSocket on which stored files are analysed, with their progress."""
        # Before the token: so the answer shows whether a proxy has removed the handshake.
        self.sockets.require_handshake(request)
        self.callers.check_page(request)
        caller = self.callers.caller_of(request, anonymous=True)
        converse = partial(self._analyse_all, caller)
        return self.sockets.accept(request, _owner(caller, request), converse, _ANALYSIS)

    @json_route("metadata_progress", coded=True)
    async def progress_socket(self, request: web.Request) -> SocketResponse | Mapping[str, Any]:
        """Open a WebSocket that reports the progress of the uploads with this session id.

        Without a handshake return the last state, for clients that cannot use WebSockets.
        """
        self.callers.check_page(request)
        session_id = check_session_id(request.match_info["sessionId"])
        if "Upgrade" not in request.headers:
            last = self.hub.last(session_id)
            state = {"type": "connected"} if last is None else last.to_dict()
            # Polled, the state before the last one, which has the metrics, may be missed.
            metrics = last and last.quality_metrics
            return {**state, "sessionId": session_id, "quality_metrics": metrics}
        owner: str | None = f"address {caller_of(request)}"
        # The session id suffices. A token counts users behind one address separately.
        if "Authorization" in request.headers or SESSION_COOKIE in request.cookies:
            owner = _owner(self.callers.caller_of(request), request)
        converse = partial(self._follow, session_id)
        return self.sockets.accept(request, owner, converse, _PROGRESS)

    async def _analyse_all(self, caller: Caller, socket: OpenSocket) -> None:
        running: set[asyncio.Task[None]] = set()
        try:
            # Messages are read during an analysis too: pings, and the end of the socket.
            async for message in socket.messages():
                session_id = _session_id(message)
                if message.get("type") != "analyze":
                    await socket.send(_error('The type must be "analyze" or "ping".'))
                elif session_id is None:
                    await socket.send(_error(_BAD_SESSION))
                elif len(running) >= _MAX_ANALYSES:
                    sentence = (
                        f"{_MAX_ANALYSES} analyses run on this WebSocket, which is the limit."
                        " Retry when one has ended."
                    )
                    await socket.send(_failed(session_id, sentence))
                else:
                    analysis = self._analyse(caller, socket, session_id, message)
                    task = asyncio.create_task(analysis)
                    running.add(task)
                    task.add_done_callback(running.discard)
        finally:
            await _cancelled(running)

    async def _analyse(
        self, caller: Caller, socket: OpenSocket, session_id: str, message: Mapping[str, Any]
    ) -> None:
        socket.busy += 1
        try:
            await self._report(caller, socket, session_id, message)
        except SmartserveError as error:
            socket.sockets.count("failed")
            with suppress(ConnectionError):
                await socket.send(_failed(session_id, error.detail))
        except ConnectionError:
            # The client has left, which its reader notices too.
            pass
        except Exception:
            # One analysis costs only itself.
            log.exception("socket_analysis_failed", category="error")
            socket.sockets.count("failed")
            with suppress(ConnectionError):
                await socket.send(_failed(session_id, _UNEXPECTED))
        finally:
            socket.busy -= 1
            socket.close_if_drained()

    async def _report(
        self, caller: Caller, socket: OpenSocket, session_id: str, message: Mapping[str, Any]
    ) -> None:
        """Send the start, each stage and the result of one analysis."""
        socket.sockets.count("analyses")
        await socket.send({"type": "analysis_started", "sessionId": session_id})
        stages: asyncio.Queue[int | None] = asyncio.Queue()
        extracting = asyncio.create_task(
            self.files.extract(caller, message, lambda percent, _: stages.put_nowait(percent))
        )
        extracting.add_done_callback(lambda _: stages.put_nowait(None))
        try:
            while (percent := await stages.get()) is not None:
                await socket.send(
                    {"type": "progress", "sessionId": session_id, "progress": percent}
                )
            extraction = await extracting
        finally:
            await _cancelled({extracting})
        result = {
            "type": "analysis_complete",
            "sessionId": session_id,
            "metadata": extraction.metadata,
        }
        encoded = dumps(result)
        with socket.sockets.sending(len(encoded)):
            await socket.response.send_encoded(encoded)

    async def _follow(self, session_id: str, socket: OpenSocket) -> None:
        await socket.send({"type": "connected", "sessionId": session_id})
        with self.hub.subscribe(session_id) as states:
            sending = asyncio.create_task(self._send_states(states, session_id, socket))
            try:
                async for _ in socket.messages():
                    await socket.send(_error('The type must be "ping".'))
            finally:
                await _cancelled({sending})

    async def _send_states(
        self, states: ProgressSubscription, session_id: str, socket: OpenSocket
    ) -> None:
        heartbeats = 0
        # If the client has left, the reader of its messages ends as well.
        with suppress(ConnectionError):
            while heartbeats < _MAX_HEARTBEATS:
                try:
                    async with asyncio.timeout(self.heartbeat_s):
                        state = await states.next()
                except TimeoutError:
                    heartbeats += 1
                    await socket.send({"type": "heartbeat", "sessionId": session_id})
                    continue
                heartbeats = 0
                socket.busy = state.type == "progress"
                await socket.send({**state.to_dict(), "sessionId": session_id})
                socket.close_if_drained()
            await socket.response.close(message=b"no progress for ten minutes")


async def _cancelled(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and return when they have ended: their files are deleted then."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _owner(caller: Caller, request: web.BaseRequest) -> str | None:
    """Return the name under which sockets are counted; None: not limited."""
    if caller.is_admin:
        return None
    return f"address {caller_of(request)}" if caller.user_id is None else f"user {caller.user_id}"


def _session_id(message: Mapping[str, Any]) -> str | None:
    try:
        return check_session_id(str(message.get("sessionId", "")))
    except BadParameter:
        return None


def _failed(session_id: str, sentence: str) -> dict[str, Any]:
    return {"type": "analysis_error", "sessionId": session_id, "error": sentence}


_ANALYSIS, _PROGRESS = Outcome("metadata_socket"), Outcome("metadata_progress")
_BAD_SESSION = "sessionId must be 16 to 64 characters of A-Z, a-z, 0-9, _ and -"
_UNEXPECTED = "An unexpected error occurred; the log of the server has the details."
