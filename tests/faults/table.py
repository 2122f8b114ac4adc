"""The table of drills: what each row of the hardening document was shown by, as a figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

PROPERTY = "drill"
"""Under what name a test's report carries its figures."""

ROWS: Mapping[int, str] = MappingProxyType(
    {
        1: "pixel floods",
        2: "animations of many or large pages",
        3: "wrong types, polyglots, other loaders",
        4: "truncated and corrupt sources",
        5: "decoder crash, hang, memory",
        6: "slow clients",
        7: "variant explosion",
        8: "cache poisoning by headers",
        9: "path traversal",
        10: "header and log injection",
        11: "keys and tokens",
        12: "bodies where none belongs, and hostile uploads",
        13: "range abuse",
        14: "disk full, read-only, gone, I/O errors",
        15: "cache files cut, flipped, zeroed, swapped",
        16: "out of descriptors",
        17: "database down, slow, restarted, reset",
        18: "kill -9 of the server",
        19: "SIGTERM",
        20: "500 equal misses",
        21: "ten times the load",
        22: "clock jumps",
    }
)
"""The rows of the hardening document, in a few words each."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What a drill did, how often, and what was lost by it."""

    row: int
    done: str
    """What was done, in a few words."""
    times: int
    lost: int
    """Answers that were wrong or missing, files left over, processes orphaned."""
    measured: str = ""
    """What else was measured, with its unit."""


Record = Callable[[Figure], None]


def packed(figure: Figure) -> str:
    """A figure as a report carries it, from an xdist worker too."""
    return json.dumps(asdict(figure))


def unpacked(text: str) -> Figure:
    """The reverse of `packed`."""
    return Figure(**json.loads(text))


def table(figures: Iterable[Figure]) -> list[str]:
    """The lines of the table; a row that nothing was recorded for says so."""
    by_row: dict[int, list[Figure]] = {row: [] for row in ROWS}
    for figure in figures:
        by_row[figure.row].append(figure)
    lines = [f"{'row':>3}  {'what was done':<72} {'times':>7} {'lost':>5}  measured"]
    for row, title in ROWS.items():
        lines.append(f"{row:>3}  {title}")
        lines += [
            f"       {one.done:<70} {one.times:>7,} {one.lost:>5}  {one.measured}".rstrip()
            for one in by_row[row]
        ] or ["       NOT SHOWN"]
    return lines
