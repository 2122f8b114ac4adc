"""Concurrent equal misses: smartserve answers all of them with one render, a peer with many."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from proxy.domain.formats import Format
from tests.benchmarks.client import all_at_once, fetched
from tests.benchmarks.originals import copies, imported, large
from tests.benchmarks.peers import Running, Wanted, all_running
from tests.benchmarks.report import Comparison, Row, Table, against_best
from tests.benchmarks.scrape import figure
from tests.benchmarks.servers import Address, Unmeasurable, smartserve
from tests.benchmarks.turns import in_turns

HERD = 500

_TURNS = 3
_WANTED = Wanted(Format.WEBP, 300, square=True, quality=79)
_SETTINGS = {"LOG__ACCESS": "false", "UPGRADES__ENABLED": "false"}
"""No finals: each would be another render."""
_ALONE, _SERVED = "smartserve, one request", "smartserve"


@dataclass(frozen=True, slots=True)
class Herd:
    """The answers to equal requests."""

    seconds: float
    """Until the last of them was complete, whatever its status."""
    statuses: Counter[int]


def measure() -> Table:
    """Measure answers with 200 and seconds to the last answer: smartserve and its peers."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-herd-")))
        (originals := place / "originals").mkdir()
        # Two for each turn, and two for the warm-up.
        paths = copies(large()[:1], originals, count=2 * (_TURNS + 1))
        ids = imported(paths, place / "data")
        server = stack.enter_context(smartserve(place / "data", settings=_SETTINGS))
        processes = len(os.sched_getaffinity(0))
        peers, missing = stack.enter_context(
            all_running(place, originals, processes=processes, equal=True)
        )
        contestants: dict[str, Callable[[int], Herd]] = {
            _ALONE: lambda turn: _single(server.address, _target(ids[2 * turn])),
            _SERVED: lambda turn: _stampede(server.address, _target(ids[2 * turn + 1])),
            **{one.peer.name: _bound(one, paths[0]) for one in peers},
        }
        names = {one.peer.name for one in peers}
        taken = in_turns(contestants, turns=_TURNS, warm_up=_TURNS, may_fail=names, notes=missing)
        return _table(taken, missing)


def _target(media_id: int) -> str:
    return f"/serve/{media_id}?size=thumbnail&format=webp"


def _bound(running: Running, path: Path) -> Callable[[int], Herd]:
    # It keeps no renditions, so the same image is a miss each time.
    target = running.peer.target(path.name, _WANTED)

    def requested(_turn: int) -> Herd:
        fetched(running.address, [target], clients=1)
        return _herd(running.address, target)

    return requested


def _single(address: Address, target: str) -> Herd:
    seconds, answers = fetched(address, [target], clients=1)
    return Herd(seconds, Counter(answer.status for answer in answers))


def _stampede(address: Address, target: str) -> Herd:
    """Send a herd to smartserve; exactly one render is allowed."""
    before = figure(address, "smartserve_render_seconds_count")
    found = _herd(address, target)
    renders = figure(address, "smartserve_render_seconds_count") - before
    if renders != 1:
        raise Unmeasurable(f"{HERD} equal misses made {renders:g} renders")
    return found


def _herd(address: Address, target: str) -> Herd:
    seconds, answers = all_at_once(address, [target] * HERD)
    images = [answer for answer in answers if answer.status == HTTPStatus.OK]
    if len(bodies := {answer.body for answer in images}) > 1:
        raise Unmeasurable(f"the herd was given {len(bodies)} different images")
    return Herd(seconds, Counter(answer.status for answer in answers))


def _table(taken: Mapping[str, Sequence[Herd]], missing: Sequence[str]) -> Table:
    answered = {name: [float(one.statuses[200]) for one in taken[name]] for name in taken}
    seconds = {name: [one.seconds for one in taken[name]] for name in taken}
    crowds = [name for name in taken if name != _ALONE]
    return Table(
        f"{HERD} equal misses at the same moment; a WebP of {_WANTED.side} pixels from a "
        f"photograph of 6 megapixels, {_TURNS} turns",
        [
            *(
                Row(
                    f"answers with 200: {name}",
                    answered[name],
                    yardstick=[HERD],
                    target=1.0 if name == _SERVED else None,
                    remark=_statuses(taken[name]),
                )
                for name in crowds
            ),
            *(
                Row(f"seconds to the last answer: {name}", seconds[name], seconds[_ALONE])
                for name in taken
            ),
        ],
        [
            "smartserve made one render in each turn by its own metrics; equal bytes for all.",
            "Sent and received by one process, whose work is a part of the time.",
            "The peers keep no renditions; a cache before them would have to merge the requests.",
            *missing,
        ],
        compared=list(_compared(answered, seconds)),
    )


def _compared(
    answered: Mapping[str, Sequence[float]], seconds: Mapping[str, Sequence[float]]
) -> Iterator[Comparison]:
    what = f"{HERD} equal misses"
    peers = {name: figures for name, figures in answered.items() if name not in {_ALONE, _SERVED}}
    yield from against_best(
        f"images among the answers to {what}", answered[_SERVED], peers, worse="fewer"
    )
    if min(answered[_SERVED]) == HERD:
        # Whoever refuses requests is done sooner.
        whole = {name: seconds[name] for name in peers if min(answered[name]) == HERD}
        yield from against_best(
            f"seconds until {what} are answered", seconds[_SERVED], whole, low=True
        )


def _statuses(herds: Sequence[Herd]) -> str:
    counted = sum((herd.statuses for herd in herds), Counter[int]())
    return ", ".join(f"{status}: {count}" for status, count in sorted(counted.items()))
