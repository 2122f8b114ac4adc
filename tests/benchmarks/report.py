"""What was measured, as plain text: tables with ratios and targets, and the machine they are of."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median

_PACKAGES = ("smartserve", "aiohttp", "uvloop", "pyvips", "pyvips-binary")
_HEADER = ("", "median", "lowest", "highest", "ratio", "target", "")


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant: its rates, one for each turn, and what it is compared with."""

    name: str
    rates: Sequence[float]
    """Per second."""
    yardstick: Sequence[float] | None = None
    """The rates that its ratio is of; None for the yardstick itself."""
    target: float | None = None
    """The least ratio that was aimed at."""
    remark: str = ""

    @property
    def ratio(self) -> float:
        """Median over median."""
        return 1.0 if self.yardstick is None else median(self.rates) / median(self.yardstick)

    def cells(self) -> tuple[str, ...]:
        """The row as text; the target with its verdict."""
        verdict = ""
        if self.target is not None:
            met = "pass" if self.ratio >= self.target else "MISS"
            verdict = f"{self.target:.2f} {met}"
        figures = (median(self.rates), min(self.rates), max(self.rates))
        return (
            self.name,
            *(_rate(figure) for figure in figures),
            f"{self.ratio:.3f}",
            verdict,
            self.remark,
        )


@dataclass(frozen=True, slots=True)
class Table:
    """One benchmark's result: what was done, the rows, and what else was seen."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def text(self) -> str:
        """The table as lines of text."""
        lines = [self.title, *_columns([_HEADER, *(row.cells() for row in self.rows)])]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def heading() -> str:
    """When, on what machine, with which versions."""
    cores = len(os.sched_getaffinity(0))
    load = ", ".join(f"{load:.2f}" for load in os.getloadavg())
    return "\n".join(
        (
            f"smartserve's benchmarks, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            f"  machine   {_processor()}, {cores} cores, {platform.system()} {platform.release()}",
            f"  load      {load} over 1, 5 and 15 minutes before the start",
            f"  versions  Python {platform.python_version()}, {', '.join(_versions())}",
        )
    )


def _columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for name, *figures, remark in rows:
        cells = [figure.rjust(width) for figure, width in zip(figures, widths[1:-1], strict=True)]
        yield "  " + "  ".join((name.ljust(widths[0]), *cells, remark)).rstrip()


def _rate(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 1000 else f"{figure:,.1f}"


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
