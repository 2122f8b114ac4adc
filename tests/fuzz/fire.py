"""Mutants sent through a server by a few keep-alive clients, and the results."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, IncompleteRead
from threading import Lock

from tests.fuzz.judge import Answer, fault
from tests.fuzz.mutants import FuzzRequest, Mutant
from tests.fuzz.storage import FIRST_ID, Storage

ABORTED = 0
"""The status of a truncated response: a render failed after the first bytes were sent."""

_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class FuzzResult:
    """A response to one request, and what is wrong with it, if anything."""

    mutant: Mutant
    request: FuzzRequest
    status: int
    seconds: float
    fault: str | None

    def __str__(self) -> str:
        """Return one line for a report."""
        asked = f"#{self.mutant.number} {self.mutant.origin} {self.request.query}"
        suffix = "" if self.fault is None else f": {self.fault}"
        return f"{asked} [{self.request.accept[:12]}] {self.status} {self.seconds:.2f} s{suffix}"


@dataclass(slots=True)
class FuzzCounts:
    """Results, counted; the interesting ones are stored."""

    slow_s: float
    """Slower responses are stored."""
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    faults: list[FuzzResult] = field(default_factory=list)
    slow: list[FuzzResult] = field(default_factory=list)

    def add(self, shot: FuzzResult) -> None:
        """Count one result."""
        self.statuses[shot.status] += 1
        self.seconds.append(shot.seconds)
        if shot.fault is not None:
            self.faults.append(shot)
        if shot.seconds > self.slow_s:
            self.slow.append(shot)

    def quantile(self, share: float) -> float:
        """Return the response time quantile in seconds."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class FuzzClient:
    """Requests mutants over one connection, and opens another if it was closed."""

    def __init__(self, port: int, storage: Storage) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        self._storage = storage

    def results(self, mutant: Mutant, media_id: int) -> Iterator[FuzzResult]:
        """Store a mutant, send all its requests, and delete it."""
        self._storage.put(media_id, mutant.body)
        for request in mutant.requests:
            yield self._result(mutant, request, media_id)
        self._storage.remove(media_id)

    def _result(self, mutant: Mutant, request: FuzzRequest, media_id: int) -> FuzzResult:
        began = time.monotonic()
        try:
            answer = self._get(f"/serve/{media_id}?{request.query}", request.accept)
        except (HTTPException, OSError) as error:
            self.close()
            wrong = None if isinstance(error, IncompleteRead) else repr(error)
            return FuzzResult(mutant, request, ABORTED, time.monotonic() - began, wrong)
        wrong = fault(answer, request.query, self._storage.facts(media_id))
        return FuzzResult(mutant, request, answer.status, answer.seconds, wrong)

    def _get(self, target: str, accept: str) -> Answer:
        began = time.monotonic()
        self._connection.request("GET", target, headers={"Accept": accept})
        response = self._connection.getresponse()
        body = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, body, time.monotonic() - began)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()


def send_mutants(
    port: int,
    storage: Storage,
    mutants: Iterable[Mutant],
    note: Callable[[FuzzResult], None],
    *,
    clients: int,
    first_id: int = FIRST_ID,
) -> None:
    """Send all mutants, whose rows exist; the media id is ``first_id`` plus the number.

    ``note`` is called for each result, one at a time.
    """
    lock = Lock()
    waiting = iter(mutants)

    def take() -> Mutant | None:
        with lock:
            return next(waiting, None)

    def run_client(_place: int) -> None:
        client = FuzzClient(port, storage)
        while (mutant := take()) is not None:
            for shot in client.results(mutant, first_id + mutant.number):
                with lock:
                    note(shot)
        client.close()

    with ThreadPoolExecutor(clients) as executor:
        list(executor.map(run_client, range(clients)))
