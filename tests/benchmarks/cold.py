"""Cold renders over HTTP: smartserve, thumbor and IPX against libvips in as many processes.

Measured with equal quality and effort, and with each server's defaults. With defaults smartserve
also works in the background; it is paused during the turns of the others.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pyvips

from proxy.domain.formats import Format
from proxy.settings import load_settings
from tests.benchmarks.client import fetched
from tests.benchmarks.originals import copies, imported, kodak
from tests.benchmarks.peers import ipx, thumbor
from tests.benchmarks.plain import Plain, Recipe, plain
from tests.benchmarks.processes import Paused
from tests.benchmarks.report import Row, Table
from tests.benchmarks.scrape import Scrape, scrape
from tests.benchmarks.servers import Address, Smartserve, Unmeasurable, smartserve
from tests.benchmarks.turns import in_turns

TARGET = 0.90
"""Of libvips' rate with equal settings, 300-pixel WebP (issue 3, "Done when")."""

_TURNS = 5
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
"""Efforts that thumbor and IPX support."""
_THUMBOR_EQUAL = "AVIF_SPEED = 8\nPROGRESSIVE_JPEG = False\n"
"""libvips sets libaom's speed to 9 - effort; Pillow's WebP effort is 4."""
_PLAIN, _SERVED, _THUMBOR, _IPX = "plain pyvips", "smartserve", "thumbor", "IPX"
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

    @property
    def quality(self) -> object:
        """The quality of the encoder profile."""
        return dict(self.recipe.profile.options)["Q"]


@dataclass(frozen=True, slots=True)
class Turn:
    """The renders of one turn, in order of the images."""

    seconds: float
    renditions: Sequence[bytes]

    @property
    def rate(self) -> float:
        """Renders per second."""
        return len(self.renditions) / self.seconds


Contestant = Callable[[Cell, int], Turn]
"""Renders the images of one cell for the given turn."""


@dataclass(frozen=True, slots=True)
class Contest:
    """All contestants, and the images."""

    paths: Sequence[Path]
    ids: Sequence[int]
    contestants: dict[str, Contestant]
    missing: list[str]


def measure() -> Table:
    """Measure renders per second with equal quality and effort."""
    return _measured("quality and effort forced equal", _SIZES + _EQUAL, equal=True)


def measure_defaults() -> Table:
    """Measure renders per second with each server's defaults."""
    return _measured("each with its own defaults", _SIZES, equal=False)


def _measured(title: str, config_text: str, *, equal: bool) -> Table:
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-cold-")))
        config = place / "settings.toml"
        config.write_text(config_text)
        cells = _cells(config, equal=equal)
        originals = place / "originals"
        originals.mkdir()
        count = _WARM_UP + _TURNS * max(cell.renders for cell in cells)
        paths = copies(kodak(), originals, count=count)
        contest = Contest(paths, imported(paths, place / "data", config), {}, [])
        server = stack.enter_context(smartserve(place / "data", "--config", config))
        paused = Paused(server.pid)
        stack.callback(paused.close)
        _enter(stack, contest, server, paused)
        _enter_peers(stack, contest, place, equal=equal)
        taken = {cell: _contested(cell, contest, equal=equal) for cell in cells}
        with paused.awake():
            counted = scrape(server.address)
        return _table(title, taken, contest, counted, equal=equal)


def _cells(config: Path, *, equal: bool) -> list[Cell]:
    """Return the cells: each takes a few tenths of a second, the main one longer."""
    profiles = load_settings(config).encoders.profiles()
    slow = None if equal else 4
    return [
        Cell(Recipe(profiles[fmt], side, square=side == 300), renders, peers or renders)
        for side, fmt, renders, peers in (
            (300, Format.WEBP, 60, None),
            (300, Format.JPEG, 48, None),
            (300, Format.AVIF, 16, slow),
            (1200, Format.WEBP, 16, None),
            (1200, Format.JPEG, 32, None),
            (1200, Format.AVIF, 10, slow),
        )
    ]


def _enter(stack: ExitStack, contest: Contest, server: Smartserve, paused: Paused) -> None:
    """Return libvips and smartserve as contestants."""
    limit = stack.enter_context(plain(processes=_processes()))

    def serve(cell: Cell, turn: int) -> Turn:
        targets = [_target(contest.ids[at], cell) for at in _part(cell, turn)]
        with paused.awake():
            return _served(server.address, cell, targets)

    contest.contestants[_PLAIN] = lambda cell, turn: _plain(
        limit, cell, [contest.paths[at] for at in _part(cell, turn)]
    )
    contest.contestants[_SERVED] = serve


def _enter_peers(stack: ExitStack, contest: Contest, place: Path, *, equal: bool) -> None:
    """Return the peers that can be installed, and a note for each of the others."""
    folder, settings = contest.paths[0].parent, _THUMBOR_EQUAL if equal else ""
    openings: Mapping[str, Callable[[], AbstractContextManager[Address]]] = {
        _THUMBOR: lambda: thumbor(
            place / "thumbor", folder, processes=_processes(), settings=settings
        ),
        _IPX: lambda: ipx(place / "ipx", folder),
    }
    for name, opening in openings.items():
        try:
            address = stack.enter_context(opening())
        except Unmeasurable as error:
            contest.missing.append(f"{name}: NOT MEASURED: {error}")
        else:
            contest.contestants[name] = _peer(name, address, contest.paths, equal=equal)


def _peer(name: str, address: Address, paths: Sequence[Path], *, equal: bool) -> Contestant:
    target = {_THUMBOR: _thumbor_target, _IPX: _ipx_target}[name]

    def render(cell: Cell, turn: int) -> Turn:
        quality = cell.quality if equal else None
        pictures = [paths[at] for at in _part(cell, turn)][: cell.peers]
        targets = [target(path.name, cell, quality) for path in pictures]
        seconds, answers = fetched(address, targets, clients=_CLIENTS)
        return Turn(seconds, [answer.body for answer in answers])

    return render


def _target(media_id: int, cell: Cell) -> str:
    size = "thumbnail" if cell.recipe.square else "detail"
    return f"/serve/{media_id}?size={size}&format={cell.format}"


def _thumbor_target(name: str, cell: Cell, quality: object) -> str:
    side, fit = cell.recipe.side, "" if cell.recipe.square else "fit-in/"
    chosen = "" if quality is None else f":quality({quality})"
    return f"/unsafe/{fit}{side}x{side}/filters:format({cell.format}){chosen}/{name}"


def _ipx_target(name: str, cell: Cell, quality: object) -> str:
    side = cell.recipe.side
    box = f"s_{side}x{side}" if cell.recipe.square else f"w_{side}"
    chosen = "" if quality is None else f",q_{quality}"
    return f"/f_{cell.format},{box}{chosen}/{name}"


def _part(cell: Cell, turn: int) -> range:
    """Return the images of a turn (-1 is the warm-up); no image is used twice."""
    if turn < 0:
        return range(_WARM_UP)
    start = _WARM_UP + turn * cell.renders
    return range(start, start + cell.renders)


def _contested(cell: Cell, contest: Contest, *, equal: bool) -> dict[str, list[Turn]]:
    print(f"  {cell.name}", file=sys.stderr, flush=True)
    contestants = {
        name: _bound(contestant, cell)
        for name, contestant in contest.contestants.items()
        if name != _IPX or cell.format is not Format.AVIF or not equal
    }
    for warm_up in contestants.values():
        warm_up(-1)
    taken = in_turns(contestants, turns=_TURNS)
    for name, turns in taken.items():
        _check_sizes(name, cell, turns)
    return taken


def _bound(contestant: Contestant, cell: Cell) -> Callable[[int], Turn]:
    return lambda turn: contestant(cell, turn)


def _plain(limit: Plain, cell: Cell, paths: Sequence[Path]) -> Turn:
    seconds, made = limit.render(cell.recipe, paths)
    return Turn(seconds, [rendered.body for rendered in made])


def _served(address: Address, cell: Cell, targets: Sequence[str]) -> Turn:
    """Run one turn; smartserve must have counted a render for each response."""
    before = scrape(address)
    seconds, answers = fetched(address, targets, clients=_CLIENTS)
    answered = scrape(address).since(before)
    rendered = {kind: count for kind, count in answered.items() if kind[0] in _RENDERED}
    if rendered != answered or sum(rendered.values()) != len(targets):
        raise Unmeasurable(f"smartserve counted {dict(answered)}, not {len(targets)} renders")
    return Turn(seconds, [answer.body for answer in answers])


def _check_sizes(name: str, cell: Cell, turns: Sequence[Turn]) -> None:
    """Check that all contestants rendered the requested size and format."""
    longer = 300 if cell.recipe.square else 768
    loaders = {Format.AVIF: "heifload", Format.WEBP: "webpload", Format.JPEG: "jpegload"}
    for body in (body for turn in turns for body in turn.renditions):
        image = pyvips.Image.new_from_buffer(body, "")
        found = max(image.width, image.height), image.get("vips-loader")
        if found[0] != longer or not found[1].startswith(loaders[cell.format]):
            raise Unmeasurable(f"{name} made {found} of {cell.name}")


def _processes() -> int:
    return len(os.sched_getaffinity(0))


def _table(
    title: str,
    taken: Mapping[Cell, Mapping[str, Sequence[Turn]]],
    contest: Contest,
    counted: Scrape,
    *,
    equal: bool,
) -> Table:
    spent = ", ".join(f"{stage} {counted.mean_ms(stage):.2f}" for stage in _STAGES)
    limit = "at the same settings" if equal else "with smartserve's draft profile"
    return Table(
        f"cold renders per second, {title}; {len(kodak())} photographs in numbered copies, each "
        f"asked for once; {_processes()} processes (IPX: one, with threads), {_CLIENTS} clients, "
        f"{_TURNS} turns",
        [row for cell, turns in taken.items() for row in _rows(cell, turns, equal=equal)],
        [
            "All of smartserve's answers were renders by its own metrics.",
            "The photographs are 768 x 512, and none enlarges them: so large are those of 1200.",
            f"Plain pyvips works {limit}. Remarks: mean size of a rendition.",
            *([_equality(taken)] if equal else []),
            *(["IPX takes no effort for AVIF: no equal setting."] if equal else []),
            *contest.missing,
            f"smartserve's own account, mean ms over all: {spent}.",
        ],
    )


def _rows(cell: Cell, taken: Mapping[str, Sequence[Turn]], *, equal: bool) -> Iterator[Row]:
    headline = equal and cell.name == "webp 300"
    limit = [turn.rate for turn in taken[_PLAIN]]
    for name, turns in taken.items():
        mean_bytes = fmean(len(body) for turn in turns for body in turn.renditions)
        yield Row(
            f"{cell.name}: {name}",
            [turn.rate for turn in turns],
            yardstick=limit,
            target=TARGET if headline and name == _SERVED else None,
            remark=f"{mean_bytes / 1000:.1f} KB",
        )


def _equality(taken: Mapping[Cell, Mapping[str, Sequence[Turn]]]) -> str:
    """Return how many renditions of smartserve equal those of the yardstick."""
    pairs = [
        mine == theirs
        for turns in taken.values()
        for served, limit in zip(turns[_SERVED], turns[_PLAIN], strict=True)
        for mine, theirs in zip(served.renditions, limit.renditions, strict=True)
    ]
    return f"Byte for byte what plain pyvips made: {sum(pairs)} of {len(pairs)}."
