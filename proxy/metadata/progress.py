"""Progress of extractions for whoever follows them, by the session id that the client chose."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Literal

from cachetools import TTLCache

from proxy.domain.errors import BadParameter, SmartserveError
from proxy.metadata.extraction import PROGRESS

SESSION_PATTERN = "[A-Za-z0-9_-]{16,64}"
_SESSION = re.compile(SESSION_PATTERN, re.ASCII)
_KEPT_S = 60.0
_MAX_SESSIONS = 10_000
_MAX_WAITING = 16
"""States that wait for one subscriber: three times those of an extraction."""
_DONE = PROGRESS["complete"]
_CANCELLED = "The extraction was cancelled, because its request has ended."
_FAILED = "An unexpected error occurred; the log of the server has the details."


@dataclass(frozen=True, slots=True)
class ProgressState:
    """What is known of an extraction. It has no metadata: the session id is the only secret."""

    type: Literal["progress", "complete", "error"]
    percentage: int
    stage: str
    quality_metrics: Mapping[str, Any] | None = None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the members of a message to the client."""
        if self.type == "complete":
            return {"type": self.type}
        if self.type == "error":
            return {"type": self.type, "error": self.error}
        return {
            "type": self.type,
            "progress": self.percentage,
            "percentage": self.percentage,
            "stage": self.stage,
            # In ms. How long a stage takes depends on the file, so only the end is known.
            "estimated_time_remaining": 0 if self.percentage == _DONE else None,
            "quality_metrics": self.quality_metrics,
        }


def check_session_id(session_id: str) -> str:
    """Return a session id that is valid.

    Raises:
        BadParameter: it is too short to be a secret, too long, or has other characters.
    """
    if not _SESSION.fullmatch(session_id):
        raise BadParameter("sessionId", "16 to 64 characters of A-Z, a-z, 0-9, _ and -")
    return session_id


class ProgressSubscription:
    """The states of one session that were not read yet; of too many, the oldest are dropped."""

    def __init__(self) -> None:
        self._states: deque[ProgressState] = deque(maxlen=_MAX_WAITING)
        self._arrived = asyncio.Event()

    def add(self, state: ProgressState) -> None:
        """Append a state."""
        self._states.append(state)
        self._arrived.set()

    async def next(self) -> ProgressState:
        """Return the next state as soon as there is one."""
        while not self._states:
            self._arrived.clear()
            await self._arrived.wait()
        return self._states.popleft()


class ProgressHub:
    """Passes states on to subscribers, and keeps the last one of a session.

    The subscribers are those of this process, and with `share` of others on this machine.

    A client may subscribe before its upload begins, or up to a minute after a state.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._last: TTLCache[str, ProgressState] = TTLCache(_MAX_SESSIONS, _KEPT_S, timer=clock)
        self._subscriptions: dict[str, set[ProgressSubscription]] = {}
        self._send: Callable[[object], None] | None = None

    def share(self, send: Callable[[object], None]) -> None:
        """Pass each state to other processes as well, as JSON; they pass it to `receive`."""
        self._send = send

    async def receive(self, shared: Mapping[str, Any]) -> None:
        """Pass on a state of another process."""
        self._pass_on(shared["session_id"], ProgressState(**shared["state"]))

    def report(self, session_id: str, state: ProgressState) -> None:
        """Pass a state on; it never waits for a subscriber."""
        self._pass_on(session_id, state)
        if self._send is not None:
            values = {one.name: getattr(state, one.name) for one in fields(state)}
            self._send({"session_id": session_id, "state": values})

    def _pass_on(self, session_id: str, state: ProgressState) -> None:
        self._last[session_id] = state
        for subscription in self._subscriptions.get(session_id, ()):
            subscription.add(state)

    @contextmanager
    def reporting(self, session_id: str | None) -> Iterator[ProgressReport]:
        """Yield a `ProgressReport` for one extraction; report an exception as an error state.

        Without a session id nothing is reported.

        Raises:
            BadParameter: the session id is not valid.
        """
        report = ProgressReport(self, session_id and check_session_id(session_id))
        try:
            yield report
        except SmartserveError as error:
            report.fail(error.detail)
            raise
        except asyncio.CancelledError:
            report.fail(_CANCELLED)
            raise
        except Exception:
            report.fail(_FAILED)
            raise

    @contextmanager
    def subscribe(self, session_id: str) -> Iterator[ProgressSubscription]:
        """Yield the states of a session, beginning with the last one if it is still kept."""
        subscription = ProgressSubscription()
        last = self._last.get(session_id)
        if last is not None:
            subscription.add(last)
        subscribed = self._subscriptions.setdefault(session_id, set())
        subscribed.add(subscription)
        try:
            yield subscription
        finally:
            subscribed.discard(subscription)
            if not subscribed:
                self._subscriptions.pop(session_id, None)

    def last(self, session_id: str) -> ProgressState | None:
        """Return the last state of a session; None if it has none, or it is a minute old."""
        return self._last.get(session_id)

    def statistics(self) -> Mapping[str, float]:
        """Return the number of sessions whose last state is kept, and of subscriptions."""
        return {
            "sessions": len(self._last),
            "subscriptions": sum(map(len, self._subscriptions.values())),
        }


class ProgressReport:
    """Reports one extraction to a session. It is a `Progress`."""

    def __init__(self, hub: ProgressHub, session_id: str | None) -> None:
        self._hub = hub
        self._session_id = session_id
        self._percentage = 0

    def __call__(self, percentage: int, stage: str) -> None:
        """Report a stage. Only `complete` reports the last one, with the quality metrics."""
        if percentage < _DONE:
            self._percentage = percentage
            self._report(ProgressState("progress", percentage, stage))

    def complete(self, quality_metrics: Mapping[str, Any]) -> None:
        """Report the end."""
        self._report(ProgressState("progress", _DONE, "complete", quality_metrics))
        self._report(ProgressState("complete", _DONE, "complete", quality_metrics))

    def fail(self, error: str) -> None:
        """Report an error, in a sentence for the client."""
        self._report(ProgressState("error", self._percentage, "error", error=error))

    def _report(self, state: ProgressState) -> None:
        if self._session_id:
            self._hub.report(self._session_id, state)
