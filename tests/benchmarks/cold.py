"""Cold renders over HTTP against plain pyvips in as many processes."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Barrier

from tests.benchmarks.client import Answer, Connection
from tests.benchmarks.originals import copies, kodak
from tests.benchmarks.plain import Plain, Recipe, plain
from tests.benchmarks.report import Row, Table
from tests.benchmarks.scrape import Scrape, scrape
from tests.benchmarks.servers import Address, Unmeasurable, command, environment, smartserve
from tests.benchmarks.turns import in_turns

TARGET = 0.80
"""Of plain pyvips' rate (issue 2, "Done when")."""

_TURNS = 7
_RENDERS = 120
"""In each turn; more than a second of work for two cores."""
_WARM_UP = 24
_CLIENTS = 4
_START_S = 30
_RECIPE = Recipe(side=300, quality=79, effort=4)
_SETTINGS = """
[sizes]
thumbnail = {{ width = {side}, height = {side}, fit = "cover", gravity = "centre" }}
detail = {{ width = 1200, height = 1200 }}
[encoders.webp]
quality = {quality}
effort = {effort}
"""
"""The defaults but for the gravity: plain pyvips knows no focal point."""
_PLAIN, _SERVED = "plain pyvips", "smartserve over HTTP"
_KIND = ("render", "thumbnail", "webp", "200")
_STAGES = ("database", "queue", "decode", "transform", "encode", "store")


@dataclass(frozen=True, slots=True)
class Turn:
    """Renders of one turn, in the pictures' order."""

    seconds: float
    renditions: Sequence[bytes]

    @property
    def rate(self) -> float:
        """Renders per second."""
        return len(self.renditions) / self.seconds


def measure() -> Table:
    """Renders per second of plain pyvips, and of smartserve as four clients see it."""
    processes = len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-cold-")))
        config = place / "settings.toml"
        config.write_text(_SETTINGS.format(**asdict(_RECIPE)))
        photos = kodak()
        paths = copies(photos, place, count=_WARM_UP + _TURNS * _RENDERS)
        targets = _imported(paths, place / "data", config)
        limit = stack.enter_context(plain(_RECIPE, processes=processes))
        served = stack.enter_context(smartserve(place / "data", "--config", config))
        _plain_turn(limit, paths[:_WARM_UP])
        _served_turn(served.address, targets[:_WARM_UP])
        contestants: dict[str, Callable[[int], Turn]] = {
            _PLAIN: lambda turn: _plain_turn(limit, paths[_part(turn)]),
            _SERVED: lambda turn: _served_turn(served.address, targets[_part(turn)]),
        }
        taken = in_turns(contestants, turns=_TURNS)
        return _table(taken, scrape(served.address), photos=len(photos), processes=processes)


def _part(turn: int) -> slice:
    """The pictures of a turn: none is asked for twice."""
    start = _WARM_UP + turn * _RENDERS
    return slice(start, start + _RENDERS)


def _imported(paths: Sequence[Path], data_dir: Path, config: Path) -> list[str]:
    """Import the pictures; gives their request targets, in the same order."""
    print(f"  importing {len(paths)} pictures", file=sys.stderr, flush=True)
    done = subprocess.run(
        command("import", "--json", "--config", config, "--data-dir", data_dir, *paths),
        check=False,
        capture_output=True,
        env=environment(),
        text=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    ids = {line["path"]: line["id"] for line in lines if not line.get("known", True)}
    if done.returncode or set(ids) != set(map(str, paths)):
        raise Unmeasurable(f"{len(ids)} of {len(paths)} pictures imported: {done.stderr[-2000:]}")
    return [f"/serve/{ids[str(path)]}?size=thumbnail&format=webp" for path in paths]


def _plain_turn(limit: Plain, paths: Sequence[Path]) -> Turn:
    return Turn(*limit.render(paths))


def _served_turn(address: Address, targets: Sequence[str]) -> Turn:
    """One turn, in which smartserve has to have counted a render for each answer."""
    before = scrape(address)
    seconds, answers = _fetched(address, targets)
    answered = scrape(address).since(before)
    if answered != {_KIND: len(targets)}:
        raise Unmeasurable(f"smartserve counted {dict(answered)}, not {len(targets)} of {_KIND}")
    return Turn(seconds, [answer.body for answer in answers])


def _fetched(address: Address, targets: Sequence[str]) -> tuple[float, list[Answer]]:
    """Seconds for all, and the answers: each client takes the next target when it is free."""
    answers: dict[int, Answer] = {}
    numbers = iter(range(len(targets)))
    barrier = Barrier(_CLIENTS + 1)

    def client() -> None:
        with Connection(address) as connection:
            barrier.wait(_START_S)
            for number in numbers:
                answers[number] = connection.get(targets[number])

    with ThreadPoolExecutor(_CLIENTS) as executor:
        clients = [executor.submit(client) for _ in range(_CLIENTS)]
        barrier.wait(_START_S)
        began = time.perf_counter()
        for done in clients:
            done.result()
        seconds = time.perf_counter() - began
    return seconds, [answers[number] for number in range(len(targets))]


def _table(
    taken: Mapping[str, Sequence[Turn]], counted: Scrape, *, photos: int, processes: int
) -> Table:
    _check_sizes(taken)
    limit, served = ([turn.rate for turn in taken[name]] for name in (_PLAIN, _SERVED))
    spent = ", ".join(f"{stage} {counted.mean_ms(stage):.2f}" for stage in _STAGES)
    return Table(
        f"{_RECIPE.side}-pixel WebP renders per second (Q {_RECIPE.quality}, effort "
        f"{_RECIPE.effort}), {photos} photographs in numbered copies, each asked for once; "
        f"{processes} processes, {_CLIENTS} clients, {_TURNS} turns of {_RENDERS}",
        [Row(_PLAIN, limit), Row(_SERVED, served, yardstick=limit, target=TARGET)],
        [
            "All answers were renders by smartserve's own metrics.",
            f"Byte for byte what plain pyvips made: {_equal(taken)}.",
            f"smartserve's own account, mean ms for each: {spent}.",
        ],
    )


def _check_sizes(taken: Mapping[str, Sequence[Turn]]) -> None:
    wanted = (_RECIPE.side, _RECIPE.side)
    for name, turns in taken.items():
        sizes = {_webp_size(body) for turn in turns for body in turn.renditions}
        if sizes != {wanted}:
            raise Unmeasurable(f"{name} made pictures of {sizes}, not {wanted}")


def _webp_size(body: bytes) -> tuple[int, int]:
    """Width and height of a lossy still WebP (RFC 9649, 2.5; RFC 6386, 9.1)."""
    if body[:4] != b"RIFF" or body[8:16] != b"WEBPVP8 ":
        raise Unmeasurable(f"no lossy WebP, but {body[:16]!r}")
    width, height = struct.unpack_from("<HH", body, 26)
    return width & 0x3FFF, height & 0x3FFF


def _equal(taken: Mapping[str, Sequence[Turn]]) -> str:
    """How many of smartserve's renditions are the yardstick's, as a phrase."""
    pairs = [
        mine == theirs
        for served, limit in zip(taken[_SERVED], taken[_PLAIN], strict=True)
        for mine, theirs in zip(served.renditions, limit.renditions, strict=True)
    ]
    return "all" if all(pairs) else f"{sum(pairs)} of {len(pairs)}"
