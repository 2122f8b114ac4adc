"""Graphics: logos, line art and a screenshot as PNG, some of them transparent.

Each server decides by its own defaults how a graphic is encoded, so the table has the SSIMULACRA2
beside the bytes: fewer bytes at a lower score are no advantage.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import pyvips
from PIL import Image

from proxy.domain.formats import Format
from tests.benchmarks.client import Answer, await_ready, fetched
from tests.benchmarks.originals import copies, imported
from tests.benchmarks.peers import Running, Wanted, all_running
from tests.benchmarks.processes import Paused
from tests.benchmarks.report import Comparison, Row, Table, against_best, format_text
from tests.benchmarks.scores import Encoding, scored
from tests.benchmarks.servers import Smartserve, Unmeasurable, smartserve
from tests.benchmarks.settling import settle
from tests.benchmarks.turns import in_turns
from tests.support.drawing import draw_badge, draw_logo, logos
from tests.support.server import ROOT

T = TypeVar("T")

_TURNS = 3
_ROUNDS = 2
"""How often each graphic is rendered in a turn."""
_CLIENTS = 4
_SERVED, _FINAL = "smartserve", "smartserve, final"
_CELLS = (Wanted(Format.WEBP, 1200), Wanted(Format.AVIF, 300, square=True))
_CONFIG = """
[sizes]
thumbnail = { width = 300, height = 300, fit = "cover", gravity = "centre" }
detail = { width = 1200, height = 1200 }
"""
"""With a centre crop, because the peers find no subject."""
_SCREENSHOT = ROOT / "tests" / "page" / "page.webp"


@dataclass(frozen=True, slots=True)
class Turn:
    """The renditions of one turn."""

    seconds: float
    bodies: Sequence[bytes]
    """Each graphic in order, `_ROUNDS` times."""

    @property
    def rate(self) -> float:
        """Renders per second."""
        return len(self.bodies) / self.seconds


@dataclass(frozen=True, slots=True)
class Quality:
    """The mean over the graphics."""

    kilobytes: float
    score: float
    """SSIMULACRA2 on white."""

    def __str__(self) -> str:
        return f"{self.kilobytes:.1f} KB at {self.score:.1f}"


def measure() -> Table:
    """Measure renders per second, bytes and SSIMULACRA2: smartserve and its peers."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-logos-")))
        graphics = _draw(place)
        (originals := place / "originals").mkdir()
        # One round more than is counted: the first one is the warm-up.
        count = len(graphics) * _ROUNDS * (_TURNS + 1)
        paths = copies(graphics, originals, count=count)
        (config := place / "settings.toml").write_text(_CONFIG)
        ids = imported(paths, place / "data", config)
        server = stack.enter_context(smartserve(place / "data", "--config", config))
        await_ready(server.address)
        paused = Paused(server.pid)
        stack.callback(paused.close)
        processes = len(os.sched_getaffinity(0))
        peers, missing = stack.enter_context(all_running(place, originals, processes=processes))
        taken = {}
        for wanted in _CELLS:
            contestants = {
                _SERVED: _ours(server, paused, wanted, ids),
                **{one.peer.name: _theirs(one, wanted, paths) for one in peers},
            }
            names = {one.peer.name for one in peers}
            taken[wanted] = in_turns(
                contestants, turns=_TURNS, warm_up=_TURNS, may_fail=names, notes=missing
            )
        with paused.awake():
            finals = {
                # The other copies need minutes.
                wanted: settle(server.address, _targets(ids[: len(graphics)], wanted), idle=False)
                for wanted in _CELLS
            }
        references = {wanted: _references(graphics, wanted, place) for wanted in _CELLS}
        qualities = _qualities(taken, finals, references)
    return _table(taken, qualities, len(graphics), missing)


def _draw(place: Path) -> list[Path]:
    """Write the graphics as PNG, and return their paths."""
    petals, lines = (logo for logo in logos(1200) if "colour" in logo.name or "lines" in logo.name)
    cut_out = petals.picture.copy()
    cut_out.putalpha(petals.alpha)
    line_art = lines.picture.copy()
    line_art.putalpha(lines.alpha)
    with Image.open(_SCREENSHOT) as shown:
        # A crop whose size is whole after the reduction to 1200 pixels.
        screenshot = shown.convert("RGB").crop((0, 0, 1440, 900))
    drawn = {
        "logo": draw_logo(),
        "badge": draw_badge(),
        "petals": cut_out,
        "lines": line_art,
        "screenshot": screenshot,
    }
    for name, image in drawn.items():
        image.save(place / f"{name}.png")
    return [place / f"{name}.png" for name in drawn]


def _ours(
    server: Smartserve, paused: Paused, wanted: Wanted, ids: Sequence[int]
) -> Callable[[int], Turn]:
    def render(turn: int) -> Turn:
        with paused.awake():
            targets = _targets(_part(ids, turn), wanted)
            return _turn(*fetched(server.address, targets, clients=_CLIENTS), wanted)

    return render


def _theirs(running: Running, wanted: Wanted, paths: Sequence[Path]) -> Callable[[int], Turn]:
    def render(turn: int) -> Turn:
        targets = [running.peer.target(path.name, wanted) for path in _part(paths, turn)]
        return _turn(*fetched(running.address, targets, clients=_CLIENTS), wanted)

    return render


def _turn(seconds: float, answers: Sequence[Answer], wanted: Wanted) -> Turn:
    types = {answer.headers["content-type"] for answer in answers}
    if types != {f"image/{wanted.format}"}:
        raise Unmeasurable(f"{wanted.format} was answered with {types}")
    return Turn(seconds, [answer.body for answer in answers])


def _part(items: Sequence[T], turn: int) -> Sequence[T]:
    size = len(items) // (_TURNS + 1)
    return items[turn * size : (turn + 1) * size]


def _targets(ids: Sequence[int], wanted: Wanted) -> list[str]:
    size = "thumbnail" if wanted.square else "detail"
    return [f"/serve/{one}?size={size}&format={wanted.format}" for one in ids]


def _references(graphics: Sequence[Path], wanted: Wanted, place: Path) -> list[Path]:
    """Return the graphics without loss on white, in the size in which they are requested."""
    found = []
    for path in graphics:
        way = {"crop": "centre"} if wanted.square else {"size": "down"}
        image = pyvips.Image.thumbnail(str(path), wanted.side, height=wanted.side, **way)
        found.append(place / f"{path.stem}-{wanted.side}.png")
        _on_white(image).pngsave(str(found[-1]), keep="none")
    return found


def _on_white(image: Any) -> Any:
    # AVIF finals have 10 bits, where 255 is almost black.
    image = image.colourspace("srgb")
    return image.flatten(background=255) if image.hasalpha() else image


def _qualities(
    taken: Mapping[Wanted, Mapping[str, Sequence[Turn]]],
    finals: Mapping[Wanted, Sequence[Answer]],
    references: Mapping[Wanted, Sequence[Path]],
) -> dict[Wanted, dict[str, Quality]]:
    """Return the quality of each contestant's renditions, and that of the finals."""
    found: dict[Wanted, dict[str, Quality]] = {}
    for wanted, by_name in taken.items():
        graphics = references[wanted]
        bodies = {name: turns[0].bodies[: len(graphics)] for name, turns in by_name.items()}
        bodies[_FINAL] = [answer.body for answer in finals[wanted]]
        wholes = [
            Encoding(path, _flat(name, body, path))
            for name, some in bodies.items()
            for path, body in zip(graphics, some, strict=True)
        ]
        scores = iter(scored(wholes))
        found[wanted] = {
            name: Quality(fmean(map(len, some)) / 1000, fmean(next(scores).score for _ in graphics))
            for name, some in bodies.items()
        }
    return found


def _flat(name: str, body: bytes, reference: Path) -> bytes:
    """Return a rendition as PNG on white.

    Raises:
        Unmeasurable: it has another size than its reference.
    """
    image, wanted = pyvips.Image.new_from_buffer(body, ""), pyvips.Image.new_from_file(reference)
    if (image.width, image.height) != (wanted.width, wanted.height):
        raise Unmeasurable(
            f"{name} made {reference.stem} of {image.width} x {image.height} pixels, not of "
            f"{wanted.width} x {wanted.height}"
        )
    encoded: bytes = _on_white(image).pngsave_buffer(keep="none")
    return encoded


def _table(
    taken: Mapping[Wanted, Mapping[str, Sequence[Turn]]],
    qualities: Mapping[Wanted, Mapping[str, Quality]],
    graphics: int,
    missing: Sequence[str],
) -> Table:
    rates = {
        wanted: {name: [turn.rate for turn in turns] for name, turns in by_name.items()}
        for wanted, by_name in taken.items()
    }
    rows = [
        Row(
            f"{wanted.format} {wanted.side}: {name}",
            figures,
            yardstick=by_name[_SERVED],
            remark=str(qualities[wanted][name]),
        )
        for wanted, by_name in rates.items()
        for name, figures in by_name.items()
    ]
    return Table(
        f"cold renders of graphics per second, each server with its own defaults; {graphics} PNG "
        f"(two logos, of which one is cut out, a badge, line art, a screenshot), {_CLIENTS} "
        f"clients, {_TURNS} turns of {graphics * _ROUNDS}",
        rows,
        [
            "Ratios are those to smartserve, whose cold renders are drafts.",
            "Remarks: mean size and SSIMULACRA2 on white, compared with libvips without loss.",
            *(
                f"{wanted.format} {wanted.side}, smartserve's finals: {qualities[wanted][_FINAL]}."
                for wanted in taken
            ),
            *missing,
        ],
        compared=[one for wanted in taken for one in _compared(wanted, rates, qualities)],
    )


def _compared(
    wanted: Wanted,
    rates: Mapping[Wanted, Mapping[str, Sequence[float]]],
    qualities: Mapping[Wanted, Mapping[str, Quality]],
) -> Iterator[Comparison]:
    peers = {name: figures for name, figures in rates[wanted].items() if name != _SERVED}
    kind = f"{format_text(wanted.format)} of {wanted.side} pixels from PNG graphics, own defaults"
    yield from against_best(f"cold renders/s, {kind}", rates[wanted][_SERVED], peers)
    final = qualities[wanted][_FINAL]
    kilobytes = {
        f"{name} at {qualities[wanted][name].score:.0f}": [qualities[wanted][name].kilobytes]
        for name in peers
    }
    yield from against_best(
        f"KB of a final at SSIMULACRA2 {final.score:.0f}, {kind}",
        [final.kilobytes],
        kilobytes,
        low=True,
        worse="larger",
    )
