"""Results as plain text: tables with ratios and targets, comparisons with peers, the machine."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median

_PACKAGES = ("smartserve", "aiohttp", "uvloop", "pyvips", "pyvips-binary")
HEADER = ("", "median", "lowest", "highest", "ratio", "of each turn", "target", "")
"""The header of the table."""
COMPARED = ("measurement", "smartserve", "peer", "ratio, and that of each turn")
"""The header of the comparisons, which README shows as well."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant: its figures, one per turn, and what it is compared with."""

    name: str
    figures: Sequence[float]
    """In the unit of the table's title."""
    yardstick: Sequence[float] | None = None
    """The figures that the ratios refer to, one per turn or one for all, or None."""
    target: float | None = None
    """The lowest ratio that meets the target."""
    limit: float | None = None
    """The highest ratio that meets the target, for figures that should be small."""
    remark: str = ""

    @property
    def ratios(self) -> list[float]:
        """Return the ratio of each turn: both figures are from the same minute."""
        if self.yardstick is None:
            return [1.0]
        if len(self.yardstick) == len(self.figures):
            pairs = zip(self.figures, self.yardstick, strict=True)
            return [one / other if other else math.inf for one, other in pairs]
        return [one / median(self.yardstick) for one in self.figures]

    @property
    def ratio(self) -> float:
        """Return the median of the ratios."""
        return median(self.ratios)

    def cells(self) -> tuple[str, ...]:
        """Return the row as text; the target includes pass or MISS."""
        figures = (median(self.figures), min(self.figures), max(self.figures))
        ratio = spread = ""
        if self.yardstick is not None:
            ratio = f"{self.ratio:.3f}"
            spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        shown = map(figure_text, figures)
        return (self.name, *shown, ratio, spread, " ".join(self._verdicts()), self.remark)

    def _verdicts(self) -> Iterable[str]:
        if self.target is not None:
            met = "pass" if self.ratio >= self.target else "MISS"
            yield f">= {self.target:.2f} {met}"
        if self.limit is not None:
            met = "pass" if self.ratio <= self.limit else "MISS"
            yield f"<= {self.limit:.2f} {met}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure of smartserve beside that of a peer; README shows all of them."""

    what: str
    """What is measured, with its unit."""
    peer: str
    ours: Sequence[float]
    """One figure per turn."""
    theirs: Sequence[float]
    """In the same turns."""
    low: bool = False
    """Whether the lower figure is the better one."""
    worse: str = "slower"
    """Says what a worse ratio means."""

    def cells(self) -> tuple[str, ...]:
        """Return the row of `COMPARED` as text."""
        row = Row("", self.ours, yardstick=self.theirs)
        ratio, lowest, highest = (f"{one:.2f}" for one in (row.ratio, *_ends(row.ratios)))
        # Compared as shown, so that a ratio of 1.00 is no loss.
        lost = float(ratio) > 1 if self.low else float(ratio) < 1
        return (
            self.what,
            figure_text(median(self.ours)),
            f"{self.peer}: {figure_text(median(self.theirs))}",
            f"{ratio} ({lowest} to {highest}){f'; {self.worse}' if lost else ''}",
        )


def against_best(
    what: str,
    ours: Sequence[float],
    peers: Mapping[str, Sequence[float]],
    *,
    low: bool = False,
    worse: str = "slower",
) -> list[Comparison]:
    """Return the comparison with the best of the peers; none if there are no peers."""
    if not peers:
        return []
    best = (min if low else max)(peers, key=lambda name: median(peers[name]))
    return [Comparison(what, best, ours, peers[best], low, worse)]


@dataclass(frozen=True, slots=True)
class Table:
    """The result of one benchmark: what was measured, the rows, and notes."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    plot: bytes | None = None
    """A plot as PNG."""
    compared: Sequence[Comparison] = ()
    """The figures that README shows beside a peer's."""

    def text(self) -> str:
        """Return the table as lines of text."""
        lines = [self.title, *_columns([HEADER, *(row.cells() for row in self.rows)])]
        lines += [f"  {note}" for note in self.notes]
        lines += ["  README: " + " | ".join(one.cells()) for one in self.compared]
        return "\n".join(lines)


def heading(told: Mapping[str, str]) -> str:
    """Return the circumstances as lines of text."""
    return "\n".join(["smartserve's benchmarks", *(f"  {key:<9} {told[key]}" for key in told)])


def circumstances() -> dict[str, str]:
    """Return date, machine and versions by name."""
    cores = len(os.sched_getaffinity(0))
    load = ", ".join(f"{load:.2f}" for load in os.getloadavg())
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{_processor()}, {cores} cores, {platform.system()} {platform.release()}",
        "load": f"{load} over 1, 5 and 15 minutes before the start",
        "versions": f"Python {platform.python_version()}, {', '.join(_versions())}",
    }


def _columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for name, *figures, remark in rows:
        cells = [figure.rjust(width) for figure, width in zip(figures, widths[1:-1], strict=True)]
        yield "  " + "  ".join((name.ljust(widths[0]), *cells, remark)).rstrip()


def _ends(ratios: Sequence[float]) -> tuple[float, float]:
    return min(ratios), max(ratios)


def figure_text(figure: float) -> str:
    """Format with at least three significant digits."""
    return f"{figure:,.{0 if figure >= 100 else 1 if figure >= 10 else 2}f}"


def format_text(name: str) -> str:
    """Return a format as it is written: AVIF, WebP, JPEG."""
    return "WebP" if name == "webp" else name.upper()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _versions() -> Iterable[str]:
    for name in _PACKAGES:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
