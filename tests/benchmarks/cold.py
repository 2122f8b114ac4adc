"""Cold renders over HTTP: smartserve and its peers against libvips in as many processes.

Measured with equal quality and effort, from photographs of 6 and of 24 megapixels, and with each
server's defaults. With defaults smartserve also works in the background; it is paused during the
turns of the others.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pyvips

from proxy.domain.formats import Format
from proxy.rendering.pool.process import cpu_time
from proxy.settings import load_settings
from tests.benchmarks.client import fetched
from tests.benchmarks.originals import copies, huge, imported, large
from tests.benchmarks.peers import PEERS, Running, Wanted, all_running
from tests.benchmarks.plain import Plain, Recipe, plain
from tests.benchmarks.processes import Paused, family
from tests.benchmarks.report import Comparison, Row, Table, against_best, format_text
from tests.benchmarks.scrape import Scrape, scrape
from tests.benchmarks.servers import Smartserve, Unmeasurable, smartserve
from tests.benchmarks.turns import in_turns

TARGET = 0.95
"""Of libvips' rate with equal settings, in each cell."""
SERVER_MS = 2.0
"""Limit of the server's own processor time per render."""

_CLIENTS = 4
_WARM_UP = 4
_SIZES = """
[sizes]
thumbnail = { width = 300, height = 300, fit = "cover", gravity = "centre" }
detail = { width = 1200, height = 1200 }
"""
"""With a centre crop, because the libvips peer has no focal point."""
_EQUAL = """
[upgrades]
enabled = false
[encoders.avif.draft]
quality = 63
effort = 1
[encoders.webp.draft]
quality = 79
effort = 4
[encoders.jpeg.draft]
quality = 80
"""
"""Efforts that the peers can be told."""
_PLAIN, _SERVED = "plain pyvips", "smartserve"
_HUGE = "24-megapixel"
_STAGES = ("database", "queue", "decode", "transform", "encode", "store")
_RENDERED = {"render", "draft"}
"""The sources that smartserve counts for a render."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A kind of rendition, and how many are rendered per turn."""

    recipe: Recipe
    renders: int
    peers: int
    """Renders of a peer per turn, fewer if its defaults are slow."""

    @property
    def format(self) -> Format:
        """The format of the rendition."""
        return self.recipe.profile.format

    @property
    def name(self) -> str:
        """The name in the rows of the table."""
        return f"{self.format} {self.recipe.side}"

    def wanted(self, *, equal: bool) -> Wanted:
        """Return what is requested of a peer; its quality is the profile's if ``equal``."""
        quality = int(dict(self.recipe.profile.options)["Q"]) if equal else None
        return Wanted(self.format, self.recipe.side, self.recipe.square, quality)


@dataclass(frozen=True, slots=True)
class Turn:
    """The renders of one turn, in order of the images."""

    seconds: float
    renditions: Sequence[bytes]
    server_cpu_s: float = 0.0
    """Processor time of smartserve's server process."""
    workers_cpu_s: float = 0.0
    """Processor time of its workers."""

    @property
    def rate(self) -> float:
        """Renders per second."""
        return len(self.renditions) / self.seconds


Contestant = Callable[[Cell, int], Turn]
"""Renders the images of one cell for the given turn."""


@dataclass(frozen=True, slots=True)
class Contest:
    """All contestants, and the images."""

    source: str
    """Says what the images are."""
    equal: bool
    turns: int
    paths: Sequence[Path]
    ids: Sequence[int]
    contestants: dict[str, Contestant]
    missing: list[str]


def measure() -> Table:
    """Measure renders per second with equal quality and effort, of 6 megapixels."""
    # One process is idle at the end of a turn. The more renders, the less this affects the rate.
    return _measured("6-megapixel", large(), equal=True, turns=5, share=2.0)


def measure_huge() -> Table:
    """Measure renders per second with equal quality and effort, of 24 megapixels."""
    return _measured(_HUGE, huge(), equal=True, turns=3, share=0.5)


def measure_defaults() -> Table:
    """Measure renders per second with each server's defaults."""
    return _measured("6-megapixel", large(), equal=False, turns=5, share=0.5)


def _measured(
    source: str, photos: Sequence[Path], *, equal: bool, turns: int, share: float
) -> Table:
    """``share`` is the share of the usual number of renders per turn."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-cold-")))
        config = place / "settings.toml"
        config.write_text(_SIZES + _EQUAL if equal else _SIZES)
        cells = _cells(config, equal=equal, share=share)
        originals = place / "originals"
        originals.mkdir()
        count = _WARM_UP + turns * max(cell.renders for cell in cells)
        paths = copies(photos, originals, count=count)
        ids = imported(paths, place / "data", config)
        contest = Contest(source, equal, turns, paths, ids, {}, [])
        server = stack.enter_context(smartserve(place / "data", "--config", config))
        paused = Paused(server.pid)
        stack.callback(paused.close)
        _enter(stack, contest, server, paused)
        peers, contest.missing[:] = stack.enter_context(
            all_running(place, originals, processes=_processes(), equal=equal)
        )
        contest.contestants.update((one.peer.name, _peer(one, contest)) for one in peers)
        taken = {cell: _contested(cell, contest) for cell in cells}
        with paused.awake():
            counted = scrape(server.address)
        return _table(taken, contest, counted)


def _cells(config: Path, *, equal: bool, share: float) -> list[Cell]:
    """Return the cells: each takes a few tenths of a second.

    Renders are multiples of the number of photographs, so that all contestants render each of them
    equally often.
    """
    # `_EQUAL` disables finals. The server then optimises each JPEG, so libvips has to as well.
    profiles = load_settings(config).encoders.profiles(finals=not equal)
    slow = None if equal else 4
    return [
        Cell(Recipe(profiles[fmt], side, square=side == 300), count, min(count, peers or count))
        for side, fmt, renders, peers in (
            (300, Format.JPEG, 24, None),
            (300, Format.WEBP, 24, None),
            (300, Format.AVIF, 16, slow),
            (1200, Format.JPEG, 16, None),
            (1200, Format.WEBP, 16, None),
            (1200, Format.AVIF, 8, slow),
        )
        for count in [round(share * renders)]
    ]


def _enter(stack: ExitStack, contest: Contest, server: Smartserve, paused: Paused) -> None:
    """Return libvips and smartserve as contestants."""
    limit = stack.enter_context(plain(processes=_processes()))

    def serve(cell: Cell, turn: int) -> Turn:
        targets = [_target(contest.ids[at], cell) for at in _part(cell, turn)]
        with paused.awake():
            return _served(server, cell, targets)

    contest.contestants[_PLAIN] = lambda cell, turn: _plain(
        limit, cell, [contest.paths[at] for at in _part(cell, turn)]
    )
    contest.contestants[_SERVED] = serve


def _peer(running: Running, contest: Contest) -> Contestant:
    def render(cell: Cell, turn: int) -> Turn:
        wanted = cell.wanted(equal=contest.equal)
        names = [contest.paths[at].name for at in _part(cell, turn)][: cell.peers]
        targets = [running.peer.target(name, wanted) for name in names]
        seconds, answers = fetched(running.address, targets, clients=_CLIENTS)
        return Turn(seconds, [answer.body for answer in answers])

    return render


def _target(media_id: int, cell: Cell) -> str:
    size = "thumbnail" if cell.recipe.square else "detail"
    return f"/serve/{media_id}?size={size}&format={cell.format}"


def _part(cell: Cell, turn: int) -> range:
    """Return the images of a turn (-1 is the warm-up); no image is used twice."""
    if turn < 0:
        return range(_WARM_UP)
    start = _WARM_UP + turn * cell.renders
    return range(start, start + cell.renders)


def _contested(cell: Cell, contest: Contest) -> dict[str, list[Turn]]:
    print(f"  {cell.name}", file=sys.stderr, flush=True)
    left_out = {peer.name for peer in PEERS if contest.equal and cell.format in peer.unequal}
    contestants = {
        name: _bound(contestant, cell)
        for name, contestant in contest.contestants.items()
        if name not in left_out
    }
    taken = in_turns(
        contestants,
        turns=contest.turns,
        warm_up=-1,
        may_fail={peer.name for peer in PEERS},
        notes=contest.missing,
    )
    for name, turns in taken.items():
        _check_sizes(name, cell, turns)
    return taken


def _bound(contestant: Contestant, cell: Cell) -> Callable[[int], Turn]:
    return lambda turn: contestant(cell, turn)


def _plain(limit: Plain, cell: Cell, paths: Sequence[Path]) -> Turn:
    seconds, made = limit.render(cell.recipe, paths)
    return Turn(seconds, [rendered.body for rendered in made])


def _served(server: Smartserve, cell: Cell, targets: Sequence[str]) -> Turn:
    """Run one turn; smartserve must have counted a render for each response."""
    address, (own, *workers) = server.address, family(server.pid)
    before, used_s = scrape(address), _cpu_s([own])
    working_s = _cpu_s(workers)
    seconds, answers = fetched(address, targets, clients=_CLIENTS)
    used_s, working_s = _cpu_s([own]) - used_s, _cpu_s(workers) - working_s
    answered = scrape(address).since(before)
    rendered = {kind: count for kind, count in answered.items() if kind[0] in _RENDERED}
    if rendered != answered or sum(rendered.values()) != len(targets):
        raise Unmeasurable(f"smartserve counted {dict(answered)}, not {len(targets)} renders")
    return Turn(seconds, [answer.body for answer in answers], used_s, working_s)


def _cpu_s(processes: Iterable[int]) -> float:
    return sum(map(cpu_time, processes))


def _check_sizes(name: str, cell: Cell, turns: Sequence[Turn]) -> None:
    """Check that all contestants rendered the requested size and format."""
    longer = cell.recipe.side
    loaders = {Format.AVIF: "heifload", Format.WEBP: "webpload", Format.JPEG: "jpegload"}
    for body in (body for turn in turns for body in turn.renditions):
        image = pyvips.Image.new_from_buffer(body, "")
        found = max(image.width, image.height), image.get("vips-loader")
        if found[0] != longer or not found[1].startswith(loaders[cell.format]):
            raise Unmeasurable(f"{name} made {found} of {cell.name}")


def _processes() -> int:
    return len(os.sched_getaffinity(0))


def _table(
    taken: Mapping[Cell, Mapping[str, Sequence[Turn]]], contest: Contest, counted: Scrape
) -> Table:
    spent = ", ".join(f"{stage} {counted.mean_ms(stage):.2f}" for stage in _STAGES)
    equal = contest.equal
    title = "quality and effort forced equal" if equal else "each with its own defaults"
    limit = "at the same settings" if equal else "with smartserve's draft profile"
    return Table(
        f"cold renders per second, {title}; {contest.source} photographs with noise in numbered "
        f"copies, each asked for once; {_processes()} processes (IPX: one, with threads), "
        f"{_CLIENTS} clients, {contest.turns} turns",
        [row for cell, turns in taken.items() for row in _rows(cell, turns, equal=equal)],
        [
            "All of smartserve's answers were renders by its own metrics.",
            f"Plain pyvips works {limit}. Remarks: mean size of a rendition.",
            *([_equality(taken)] if equal else []),
            *(["IPX takes no effort for AVIF: no equal setting."] if equal else []),
            *contest.missing,
            f"smartserve's own account, mean ms over all: {spent}.",
        ],
        compared=[one for cell, turns in taken.items() for one in _compared(cell, turns, contest)],
    )


def _rows(cell: Cell, taken: Mapping[str, Sequence[Turn]], *, equal: bool) -> Iterator[Row]:
    limit = [turn.rate for turn in taken[_PLAIN]]
    for name, turns in taken.items():
        mean_bytes = fmean(len(body) for turn in turns for body in turn.renditions)
        yield Row(
            f"{cell.name}: {name}",
            [turn.rate for turn in turns],
            yardstick=limit,
            target=TARGET if equal and name == _SERVED else None,
            remark=f"{mean_bytes / 1000:.1f} KB",
        )
    served = taken[_SERVED]
    workers_ms = fmean(1000 * turn.workers_cpu_s / len(turn.renditions) for turn in served)
    yield Row(
        f"{cell.name}: ms of the server's processor time per render",
        [1000 * turn.server_cpu_s / len(turn.renditions) for turn in served],
        yardstick=[SERVER_MS],
        limit=1.0,
        remark=f"workers {workers_ms:.1f} ms",
    )


def _compared(
    cell: Cell, taken: Mapping[str, Sequence[Turn]], contest: Contest
) -> list[Comparison]:
    """Return the comparison with the fastest real server, of 24 megapixels for one size only."""
    if contest.source == _HUGE and cell.recipe.square:
        return []
    rates = {name: [turn.rate for turn in turns] for name, turns in taken.items()}
    ours = rates.pop(_SERVED)
    del rates[_PLAIN]
    settings = "equal settings" if contest.equal else "own defaults"
    what = f"cold renders/s, {format_text(cell.format)} of {cell.recipe.side} pixels"
    return against_best(f"{what} from {contest.source} photographs, {settings}", ours, rates)


def _equality(taken: Mapping[Cell, Mapping[str, Sequence[Turn]]]) -> str:
    """Return how many renditions of smartserve equal those of the yardstick."""
    pairs = [
        mine == theirs
        for turns in taken.values()
        for served, limit in zip(turns[_SERVED], turns[_PLAIN], strict=True)
        for mine, theirs in zip(served.renditions, limit.renditions, strict=True)
    ]
    return f"Byte for byte what plain pyvips made: {sum(pairs)} of {len(pairs)}."
