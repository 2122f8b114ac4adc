"""The table of drills: a figure for each row of the hardening document."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

PROPERTY = "drill"
"""The key under which a test's report contains its figures."""

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
"""The rows of the hardening document in short."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What a drill did, how often, and what it lost."""

    row: int
    done: str
    """The action, in a few words."""
    times: int
    lost: int
    """Wrong or missing responses, files left over, orphaned processes."""
    measured: str = ""
    """Further measurements, with units."""


Record = Callable[[Figure], None]


def packed(figure: Figure) -> str:
    """Return a figure as text for a report, which may come from an xdist worker."""
    return json.dumps(asdict(figure))


def unpacked(text: str) -> Figure:
    """Return the figure of a text that `packed` returned."""
    return Figure(**json.loads(text))


def table(figures: Iterable[Figure]) -> list[str]:
    """Return the lines of the table; a row without a figure says so."""
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
