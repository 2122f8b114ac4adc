"""The latency of a cold 1200-pixel image for one client."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile
from proxy.settings import load_settings
from tests.benchmarks.client import fetched
from tests.benchmarks.originals import copies, imported, large
from tests.benchmarks.peers import Running, Wanted, all_running
from tests.benchmarks.plain import Plain, Recipe, plain
from tests.benchmarks.processes import Paused
from tests.benchmarks.report import Comparison, Row, Table, against_best, format_text
from tests.benchmarks.servers import Smartserve, smartserve
from tests.benchmarks.turns import in_turns

LIMIT_EFFORT_0 = 1.2
LIMIT_EFFORT_1 = 0.5
"""Of libvips' time with that effort."""
LIMIT_LAST_BYTE = 1.05
"""Of the time that libvips takes to write the same JPEG to memory."""
LIMIT_FIRST_BYTE = 1 / 3
"""Of the time of the last byte of the same JPEG."""

_TURNS = 5
_RENDERS = 20
"""Per turn; a hundred in total, for a p99."""
_PHOTOGRAPHS = 4
"""Of `originals.large`."""
_SIDE = 1200
_FORMATS = (Format.AVIF, Format.WEBP, Format.JPEG)
_NO_UPGRADES = {"UPGRADES__ENABLED": "false"}
_DRAFTS = {"UPGRADES__BUDGET_S": "0", "UPGRADES__ALL_SIZES": "false", "UPGRADES__MAX_BACKLOG": "1"}
"""Drafts, and as few finals as possible: a JPEG that no final will replace is not streamed."""
_DEFAULTS = "avif: smartserve, finals being made meanwhile"


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds to the first and to the last byte of each image of a turn."""

    first_s: Sequence[float]
    last_s: Sequence[float]


Contestant = Callable[[int], Waits]


def measure() -> Table:
    """Measure milliseconds to the first byte: libvips, smartserve, smartserve while it renders
    finals."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-detail-")))
        originals = place / "originals"
        originals.mkdir()
        paths = copies(large(), originals, count=_TURNS * _RENDERS + _PHOTOGRAPHS)
        ids = imported(paths, place / "data")
        limit = stack.enter_context(plain(processes=1))
        single = stack.enter_context(smartserve(place / "data", settings=_NO_UPGRADES))
        twofold = _beside(stack, place, "others", {}, Format.AVIF, ids)
        streaming = _beside(stack, place, "drafts", _DRAFTS, Format.JPEG, ids)
        peers, missing = stack.enter_context(all_running(place, originals))
        theirs = {
            f"{fmt}: {one.peer.name}": _bound_peer(one, fmt, paths)
            for fmt in _FORMATS
            for one in peers
        }
        contestants = {
            **{f"{name}: plain pyvips": _bound_plain(limit, it, paths) for name, it in _recipes()},
            **{f"{fmt}: smartserve": _bound(single, fmt, ids) for fmt in _FORMATS},
            f"{Format.JPEG}: smartserve": streaming,
            _DEFAULTS: twofold,
            **theirs,
        }
        taken = in_turns(
            contestants, turns=_TURNS, warm_up=_TURNS, may_fail=set(theirs), notes=missing
        )
        return _table(taken, missing)


def _recipes() -> Iterator[tuple[str, Recipe]]:
    """Return the profiles of smartserve's drafts, and imgproxy's AVIF."""
    drafts = load_settings().encoders.profiles()
    quick = drafts[Format.AVIF]
    for effort in (0, 1):
        yield f"avif effort {effort}", Recipe(_with_effort(quick, effort), _SIDE, square=False)
    for fmt in (Format.WEBP, Format.JPEG):
        yield fmt, Recipe(drafts[fmt], _SIDE, square=False)


def _with_effort(profile: EncoderProfile, effort: int) -> EncoderProfile:
    options = dict(profile.options) | {"effort": effort}
    return replace(profile, options=tuple(sorted(options.items())))


def _bound_plain(limit: Plain, recipe: Recipe, paths: Sequence[Path]) -> Contestant:
    def render(turn: int) -> Waits:
        _, made = limit.render(recipe, [paths[at] for at in _part(turn)])
        seconds = [rendered.seconds for rendered in made]
        return Waits(seconds, seconds)

    return render


def _bound(server: Smartserve, fmt: Format, ids: Sequence[int]) -> Contestant:
    return lambda turn: _served(server, fmt, ids, turn)


def _beside(
    stack: ExitStack,
    place: Path,
    name: str,
    settings: Mapping[str, str],
    fmt: Format,
    ids: Sequence[int],
) -> Contestant:
    """Start a server with renditions of its own that makes finals; it runs in its turns only."""
    directory = place / name
    directory.mkdir()
    server = stack.enter_context(
        smartserve(place / "data", settings={**settings, "RENDITIONS__DIRECTORY": str(directory)})
    )
    paused = Paused(server.pid)
    stack.callback(paused.close)

    def serve(turn: int) -> Waits:
        with paused.awake():
            return _served(server, fmt, ids, turn)

    return serve


def _served(server: Smartserve, fmt: Format, ids: Sequence[int], turn: int) -> Waits:
    targets = [f"/serve/{ids[at]}?size=detail&format={fmt}" for at in _part(turn)]
    _, answers = fetched(server.address, targets, clients=1)
    return Waits(
        [answer.first_byte_s for answer in answers], [answer.last_byte_s for answer in answers]
    )


def _bound_peer(running: Running, fmt: Format, paths: Sequence[Path]) -> Contestant:
    def render(turn: int) -> Waits:
        wanted = Wanted(fmt, _SIDE)
        # Each photograph once: the defaults of some peers take seconds.
        some = [paths[at] for at in _part(turn)][:_PHOTOGRAPHS]
        targets = [running.peer.target(path.name, wanted) for path in some]
        _, answers = fetched(running.address, targets, clients=1)
        return Waits(
            [answer.first_byte_s for answer in answers], [answer.last_byte_s for answer in answers]
        )

    return render


def _part(turn: int) -> range:
    """Return the images of a turn; the turn after the last one is the warm-up."""
    count = _PHOTOGRAPHS if turn == _TURNS else _RENDERS
    return range(turn * _RENDERS, turn * _RENDERS + count)


def _table(taken: Mapping[str, Sequence[Waits]], missing: Sequence[str]) -> Table:
    quick, slow = "avif effort 0: plain pyvips", "avif effort 1: plain pyvips"
    compared: list[tuple[str, str, float | None]] = [
        (quick, quick, None),
        (slow, quick, None),
        ("avif: smartserve", quick, LIMIT_EFFORT_0),
        ("avif: smartserve", slow, LIMIT_EFFORT_1),
        (_DEFAULTS, slow, None),
        ("webp: plain pyvips", "webp: plain pyvips", None),
        ("webp: smartserve", "webp: plain pyvips", None),
        ("jpeg: plain pyvips", "jpeg: plain pyvips", None),
        ("jpeg: smartserve", "jpeg: plain pyvips", None),
        *(
            (name, quick if name.startswith("avif") else f"{name[:4]}: plain pyvips", None)
            for name in _peers(taken)
        ),
    ]
    return Table(
        f"milliseconds to the first byte of the body, the median of each turn; a picture of "
        f"{_SIDE} pixels from photographs of 6 megapixels, one client, "
        f"{_TURNS} turns of {_RENDERS}",
        [
            *_streamed(taken),
            *(
                Row(
                    name if limit != LIMIT_EFFORT_1 else f"{name}, to effort 1",
                    _medians_ms(taken[name]),
                    yardstick=_medians_ms(taken[yardstick]),
                    limit=limit,
                    remark=_percentiles(taken[name]),
                )
                for name, yardstick, limit in compared
            ),
        ],
        [
            "Plain pyvips: one process, smartserve's draft profile (AVIF: at the effort named).",
            "smartserve without its background work but where that is named.",
            "JPEG of smartserve: drafts, and at most two finals meanwhile.",
            f"The peers use their own defaults, and render {_PHOTOGRAPHS} pictures a turn.",
            f"Remarks: over all {_TURNS * _RENDERS} pictures, in ms.",
            *missing,
        ],
        compared=list(_compared(taken)),
    )


def _peers(taken: Mapping[str, Sequence[Waits]]) -> list[str]:
    """Return the names of the real servers among the contestants."""
    own = {"plain pyvips", "smartserve", _DEFAULTS.partition(": ")[2]}
    return [name for name in taken if name.partition(": ")[2] not in own]


def _compared(taken: Mapping[str, Sequence[Waits]]) -> Iterator[Comparison]:
    ours = taken["avif: smartserve"]
    slow = _medians_ms(taken["avif effort 1: plain pyvips"])
    what = f"ms to the first byte of a cold {{}} of {_SIDE} pixels"
    avif = what.format("AVIF")
    yield Comparison(avif, "libvips at imgproxy's effort 1", _medians_ms(ours), slow, low=True)
    for fmt in _FORMATS:
        peers = {
            name.partition(": ")[2]: taken[name]
            for name in _peers(taken)
            if name.startswith(f"{fmt}: ")
        }
        first = {name: _medians_ms(turns) for name, turns in peers.items()}
        served = taken[f"{fmt}: smartserve"]
        text = what.format(format_text(fmt))
        yield from against_best(f"{text}, own defaults", _medians_ms(served), first, low=True)
        if fmt is Format.JPEG:
            last = {name: _last_ms(turns) for name, turns in peers.items()}
            text = text.replace("first", "last")
            yield from against_best(f"{text}, own defaults", _last_ms(served), last, low=True)


def _last_ms(turns: Sequence[Waits]) -> list[float]:
    return [1000 * median(turn.last_s) for turn in turns]


def _streamed(taken: Mapping[str, Sequence[Waits]]) -> Iterator[Row]:
    """Yield the rows about the last byte of a JPEG, which is streamed."""
    plain_ms, served = _medians_ms(taken["jpeg: plain pyvips"]), taken["jpeg: smartserve"]
    last_ms = _last_ms(served)
    yield Row(
        "jpeg: smartserve, last byte, to plain pyvips",
        last_ms,
        yardstick=plain_ms,
        limit=LIMIT_LAST_BYTE,
    )
    yield Row(
        "jpeg: smartserve, first byte, to its last byte",
        _medians_ms(served),
        yardstick=last_ms,
        limit=LIMIT_FIRST_BYTE,
    )


def _medians_ms(turns: Sequence[Waits]) -> list[float]:
    return [1000 * median(turn.first_s) for turn in turns]


def _percentiles(turns: Sequence[Waits]) -> str:
    first = [seconds for turn in turns for seconds in turn.first_s]
    last = [seconds for turn in turns for seconds in turn.last_s]
    return f"first p50/p99 {_p50_p99(first)}, last {_p50_p99(last)}"


def _p50_p99(seconds: Sequence[float]) -> str:
    p99 = quantiles(seconds, n=100, method="inclusive")[-1]
    return f"{1000 * median(seconds):.0f}/{1000 * p99:.0f}"
