"""Results as plain text: tables with ratios and targets, and the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median

_PACKAGES = ("smartserve", "aiohttp", "uvloop", "pyvips", "pyvips-binary")
HEADER = ("", "median", "lowest", "highest", "ratio", "target", "")
"""The header of the table."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant: its figures, one per turn, and what it is compared with."""

    name: str
    figures: Sequence[float]
    """In the unit of the table's title."""
    yardstick: Sequence[float] | None = None
    """The figures that the ratio refers to, or None."""
    target: float | None = None
    """The lowest ratio that meets the target."""
    limit: float | None = None
    """The highest ratio that meets the target, for figures that should be small."""
    remark: str = ""

    @property
    def ratio(self) -> float:
        """Return median over median."""
        return 1.0 if self.yardstick is None else median(self.figures) / median(self.yardstick)

    def cells(self) -> tuple[str, ...]:
        """Return the row as text; the target includes pass or MISS."""
        figures = (median(self.figures), min(self.figures), max(self.figures))
        ratio = "" if self.yardstick is None else f"{self.ratio:.3f}"
        shown = map(_figure, figures)
        return (self.name, *shown, ratio, " ".join(self._verdicts()), self.remark)

    def _verdicts(self) -> Iterable[str]:
        if self.target is not None:
            met = "pass" if self.ratio >= self.target else "MISS"
            yield f">= {self.target:.2f} {met}"
        if self.limit is not None:
            met = "pass" if self.ratio <= self.limit else "MISS"
            yield f"<= {self.limit:.2f} {met}"


@dataclass(frozen=True, slots=True)
class Table:
    """The result of one benchmark: what was measured, the rows, and notes."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    plot: bytes | None = None
    """A plot as PNG."""

    def text(self) -> str:
        """Return the table as lines of text."""
        lines = [self.title, *_columns([HEADER, *(row.cells() for row in self.rows)])]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


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


def _figure(figure: float) -> str:
    """Format with at least three significant digits."""
    return f"{figure:,.{0 if figure >= 1000 else 1 if figure >= 10 else 2}f}"


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
