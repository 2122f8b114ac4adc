"""A burst of misses that are all different: how many are answered, and how soon.

A gallery page without a warm cache causes one. A response with another status than 200 is a failure
for the user, so it is counted, not left out.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import pyvips

from proxy.domain.formats import Format
from tests.benchmarks.client import Answer, all_at_once, await_ready, fetched
from tests.benchmarks.originals import copies, imported, large
from tests.benchmarks.peers import Running, Wanted, all_running
from tests.benchmarks.report import Comparison, Row, Table, against_best
from tests.benchmarks.servers import Unmeasurable, smartserve
from tests.benchmarks.turns import in_turns

BURST = 140

_TURNS = 3
_WARM_UP = 8
_WANTED = Wanted(Format.WEBP, 300, square=True, quality=79)
_CONFIG = """
[sizes]
thumbnail = { width = 300, height = 300, fit = "cover", gravity = "centre" }
detail = { width = 1200, height = 1200 }
[encoders.webp.draft]
quality = 79
effort = 4
"""
_SERVED = "smartserve"


@dataclass(frozen=True, slots=True)
class Burst:
    """The answers to one burst."""

    seconds: float
    """Until the last of them was complete, whatever its status."""
    answers: Sequence[Answer]

    @property
    def answered(self) -> int:
        """The number of images."""
        return sum(answer.status == HTTPStatus.OK for answer in self.answers)


def measure() -> Table:
    """Measure answers with 200 and seconds to the last answer: smartserve and its peers."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-burst-")))
        (originals := place / "originals").mkdir()
        (config := place / "settings.toml").write_text(_CONFIG)
        paths = copies(large(), originals, count=_WARM_UP + BURST)
        ids = imported(paths, place / "data", config)
        processes = len(os.sched_getaffinity(0))
        peers, missing = stack.enter_context(
            all_running(place, originals, processes=processes, equal=True)
        )

        def served(turn: int) -> Burst:
            # A server that has rendered nothing yet, because it would answer from its cache.
            (store := place / f"renditions-{turn}").mkdir()
            settings = {"RENDITIONS__DIRECTORY": str(store), "LOG__ACCESS": "false"}
            with smartserve(place / "data", "--config", config, settings=settings) as server:
                await_ready(server.address)
                targets = [f"/serve/{one}?size=thumbnail&format=webp" for one in ids]
                fetched(server.address, targets[:_WARM_UP], clients=2)
                return _burst(server.address, targets[_WARM_UP:])

        contestants: dict[str, Callable[[int], Burst]] = {
            _SERVED: served,
            **{one.peer.name: _bound(one, paths) for one in peers},
        }
        names = {one.peer.name for one in peers}
        taken = in_turns(contestants, turns=_TURNS, may_fail=names, notes=missing)
        return _table(taken, missing)


def _bound(running: Running, paths: Sequence[Path]) -> Callable[[int], Burst]:
    targets = [running.peer.target(path.name, _WANTED) for path in paths]

    def requested(_turn: int) -> Burst:
        fetched(running.address, targets[:_WARM_UP], clients=2)
        return _burst(running.address, targets[_WARM_UP:])

    return requested


def _burst(address: tuple[str, int], targets: Sequence[str]) -> Burst:
    seconds, answers = all_at_once(address, targets)
    for answer in answers:
        if answer.status == HTTPStatus.OK:
            image = pyvips.Image.new_from_buffer(answer.body, "")
            if (image.width, image.height) != (_WANTED.side, _WANTED.side):
                raise Unmeasurable(f"an answer has {image.width} x {image.height} pixels")
    return Burst(seconds, answers)


def _table(taken: Mapping[str, Sequence[Burst]], missing: Sequence[str]) -> Table:
    answered = {name: [float(one.answered) for one in taken[name]] for name in taken}
    seconds = {name: [one.seconds for one in taken[name]] for name in taken}
    return Table(
        f"a burst of {BURST} misses at the same moment, all of different photographs of 6 "
        f"megapixels, as a WebP of {_WANTED.side} pixels; quality and effort forced equal; "
        f"{_TURNS} turns",
        [
            *(
                Row(
                    f"answers with 200: {name}",
                    answered[name],
                    yardstick=[BURST],
                    target=1.0 if name == _SERVED else None,
                    remark=_statuses(taken[name]),
                )
                for name in taken
            ),
            *(
                Row(f"seconds to the last answer: {name}", seconds[name], seconds[_SERVED])
                for name in taken
            ),
        ],
        [
            f"Each turn begins with {_WARM_UP} other requests; the peers keep no renditions.",
            "smartserve is started for each turn, with an empty directory.",
            "Seconds of a server that refused some requests are those of fewer images.",
            *missing,
        ],
        compared=list(_compared(answered, seconds)),
    )


def _compared(
    answered: Mapping[str, Sequence[float]], seconds: Mapping[str, Sequence[float]]
) -> Iterator[Comparison]:
    what = f"a burst of {BURST} different misses"
    peers = {name: figures for name, figures in answered.items() if name != _SERVED}
    yield from against_best(
        f"images among the answers to {what}", answered[_SERVED], peers, worse="fewer"
    )
    if min(answered[_SERVED]) == BURST:
        # Whoever refuses requests is done sooner.
        whole = {name: seconds[name] for name in peers if min(answered[name]) == BURST}
        yield from against_best(
            f"seconds until {what} is answered", seconds[_SERVED], whole, low=True
        )


def _statuses(bursts: Sequence[Burst]) -> str:
    counted = Counter(answer.status for burst in bursts for answer in burst.answers)
    return ", ".join(f"{status}: {count}" for status, count in sorted(counted.items()))
