"""Client hints: how much smaller an image is with Save-Data, and what reading the hints costs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean

from proxy.domain.formats import Format
from tests.benchmarks import stills
from tests.benchmarks.originals import imported, kodak, large
from tests.benchmarks.report import Row, Table, format_text
from tests.benchmarks.scores import Encoding, scored
from tests.benchmarks.servers import Smartserve, Unmeasurable, program, smartserve
from tests.benchmarks.settling import settle
from tests.benchmarks.turns import in_turns
from tests.benchmarks.wrk import Load, load
from tests.support.server import CHROME

LIMIT = 0.70
"""Of the bytes without hints, in the mean of all photographs and sizes (issue 16)."""
LEAST_RATE = 0.97
"""Of the hits without the setting."""

_FORMATS = (Format.AVIF, Format.WEBP, Format.JPEG)
_SIZES = ("thumbnail", "small", "detail")
_SAVING = {"Save-Data": "on"}
_ON = {"CLIENT_HINTS__ENABLED": "true"}
_DRAFTS = {"UPGRADES__ENABLED": "false"}
_STAGES: Mapping[str, Mapping[str, str]] = {"draft": _DRAFTS, "final": stills.ONE_SIZE}
_TURNS = 5
_TARGET = "/serve/1?size=thumbnail"


def measure() -> Table:
    """Measure the bytes of drafts and finals with Save-Data, relative to those without."""
    photos = (*kodak()[:4], large()[0])
    rows, notes = [], []
    with _library(photos) as (data_dir, ids):
        for stage, settings in _STAGES.items():
            copy = shutil.copytree(data_dir, data_dir.with_name(stage))
            with smartserve(copy, settings={**_ON, **settings}) as server:
                for fmt in _FORMATS:
                    usual, lean = (_bodies(server, ids, fmt, hints) for hints in ({}, _SAVING))
                    name = f"{format_text(fmt)}, {stage}"
                    rows.append(_row(name, usual, lean))
                    notes.append(_scores(name, photos, usual, lean))
    return Table(
        f"KB of an image for clients with Save-Data, relative to those for others; {len(photos)} "
        f"photographs in {', '.join(_SIZES)}",
        rows,
        [f"SSIMULACRA2 of detail, mean of {len(kodak()[:4])} photographs.", *notes],
    )


def measure_hits() -> Table:
    """Measure hits in memory per second, with the setting and without."""
    program("wrk")
    contestants: dict[str, Callable[[int], Load]] = {}
    with ExitStack() as stack:
        data_dir, _ = stack.enter_context(_library(kodak()[:1]))
        for name, section in (("disabled", {}), ("enabled", _ON)):
            copy = shutil.copytree(data_dir, data_dir.with_name(name))
            settings = {**section, **_DRAFTS, "LOG__ACCESS": "false"}
            server = stack.enter_context(smartserve(copy, settings=settings))
            for hints in ({}, _SAVING):
                settle(server.address, [_TARGET], accept=CHROME, headers=hints)
                with_hint = ", with Save-Data" if hints else ""
                contestants[f"hints {name}{with_hint}"] = partial(_turn, server, hints)
        taken = in_turns(contestants, turns=_TURNS, warm_up=_TURNS)
    rates = {name: [one.rate for one in found] for name, found in taken.items()}
    usual = rates["hints disabled"]
    return Table(
        f"hits in memory per second with Chrome's headers, {_TURNS} turns",
        [
            Row(name, found, yardstick=usual, target=None if found is usual else LEAST_RATE)
            for name, found in rates.items()
        ],
        ["Ratios are those to disabled hints."],
    )


@contextmanager
def _library(photos: Sequence[Path]) -> Iterator[tuple[Path, list[int]]]:
    with tempfile.TemporaryDirectory(prefix="smartserve-hints-") as place:
        data_dir = Path(place) / "data"
        yield data_dir, imported(photos, data_dir)


def _turn(server: Smartserve, hints: Mapping[str, str], _turn: int) -> Load:
    headers = {**stills.CHROME_HEADERS, **hints}
    return load(server.address, _TARGET, accept=CHROME, seconds=stills.SECONDS, headers=headers)


def _bodies(
    server: Smartserve, ids: Sequence[int], fmt: Format, hints: Mapping[str, str]
) -> list[bytes]:
    """Return the images of all photographs, those of one size after the other."""
    targets = [f"/serve/{one}?size={size}" for size in _SIZES for one in ids]
    # One format only: the second one would hide what a final of the first saves.
    accept = f"image/{fmt}"
    answers = settle(server.address, targets, accept=accept, headers=hints)
    if any(answer.headers["content-type"] != accept for answer in answers):
        raise Unmeasurable(f"an answer is no {fmt}")
    return [answer.body for answer in answers]


def _row(name: str, usual: Sequence[bytes], lean: Sequence[bytes]) -> Row:
    ratios = [len(mine) / len(theirs) for mine, theirs in zip(lean, usual, strict=True)]
    figures, yardstick = (fmean(map(len, found)) / 1000 for found in (lean, usual))
    worst = f"{min(ratios):.2f} to {max(ratios):.2f} of single images"
    return Row(name, [figures], yardstick=[yardstick], limit=LIMIT, remark=worst)


def _scores(
    name: str, photos: Sequence[Path], usual: Sequence[bytes], lean: Sequence[bytes]
) -> str:
    """Return the mean scores of the photographs that keep their size in detail."""
    kept = range(len(photos) - 1)
    first = _SIZES.index("detail") * len(photos)
    encodings = [
        Encoding(photos[at], bodies[first + at]) for bodies in (usual, lean) for at in kept
    ]
    found = [one.score for one in scored(encodings)]
    middle = len(found) // 2
    return f"{name}: {fmean(found[:middle]):.1f}, lean {fmean(found[middle:]):.1f}."
