"""Mutants sent through a server by a few clients with keep-alive, and what came of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, IncompleteRead
from threading import Lock

from tests.fuzz.judge import Answer, fault
from tests.fuzz.mutants import Mutant, Question
from tests.fuzz.storage import FIRST_ID, Storage

ABORTED = 0
"""The status of an answer that was cut off: a render failed when bytes had gone out."""

_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Shot:
    """One question that was answered, and what was wrong with the answer, if anything."""

    mutant: Mutant
    question: Question
    status: int
    seconds: float
    fault: str | None

    def __str__(self) -> str:
        """One line for a report."""
        asked = f"#{self.mutant.number} {self.mutant.origin} {self.question.query}"
        told = "" if self.fault is None else f": {self.fault}"
        return f"{asked} [{self.question.accept[:12]}] {self.status} {self.seconds:.2f} s{told}"


@dataclass(slots=True)
class Tally:
    """Shots, counted; those worth a look are kept."""

    slow_s: float
    """Answers that took longer are kept."""
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    faults: list[Shot] = field(default_factory=list)
    slow: list[Shot] = field(default_factory=list)

    def add(self, shot: Shot) -> None:
        """Count one."""
        self.statuses[shot.status] += 1
        self.seconds.append(shot.seconds)
        if shot.fault is not None:
            self.faults.append(shot)
        if shot.seconds > self.slow_s:
            self.slow.append(shot)

    def quantile(self, share: float) -> float:
        """The time within which this share of the answers was whole."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Client:
    """Asks for mutants over one connection, which it opens anew where it was cut off."""

    def __init__(self, port: int, storage: Storage) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        self._storage = storage

    def shots(self, mutant: Mutant, media_id: int) -> Iterator[Shot]:
        """Put a mutant into its place, ask all its questions, and take it away."""
        self._storage.put(media_id, mutant.body)
        for question in mutant.questions:
            yield self._shot(mutant, question, media_id)
        self._storage.remove(media_id)

    def _shot(self, mutant: Mutant, question: Question, media_id: int) -> Shot:
        began = time.monotonic()
        try:
            answer = self._get(f"/serve/{media_id}?{question.query}", question.accept)
        except (HTTPException, OSError) as error:
            self.close()
            wrong = None if isinstance(error, IncompleteRead) else repr(error)
            return Shot(mutant, question, ABORTED, time.monotonic() - began, wrong)
        wrong = fault(answer, question.query, self._storage.facts(media_id))
        return Shot(mutant, question, answer.status, answer.seconds, wrong)

    def _get(self, target: str, accept: str) -> Answer:
        began = time.monotonic()
        self._connection.request("GET", target, headers={"Accept": accept})
        response = self._connection.getresponse()
        body = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, body, time.monotonic() - began)

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        self._connection.close()


def fire(
    port: int,
    storage: Storage,
    mutants: Iterable[Mutant],
    note: Callable[[Shot], None],
    *,
    clients: int,
    first_id: int = FIRST_ID,
) -> None:
    """Send all mutants, whose rows are there; media ids are ``first_id`` and their number.

    ``note`` hears of each shot, of one at a time.
    """
    lock = Lock()
    waiting = iter(mutants)

    def take() -> Mutant | None:
        with lock:
            return next(waiting, None)

    def shoot(_place: int) -> None:
        client = Client(port, storage)
        while (mutant := take()) is not None:
            for shot in client.shots(mutant, first_id + mutant.number):
                with lock:
                    note(shot)
        client.close()

    with ThreadPoolExecutor(clients) as executor:
        list(executor.map(shoot, range(clients)))
