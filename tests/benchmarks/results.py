"""Writes results to a Markdown file beside the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.benchmarks.report import HEADER, Table

FILE = Path(__file__).with_name("RESULTS.md")


def write(told: Mapping[str, str], found: Mapping[str, Table | str]) -> None:
    """Write the circumstances, each table or the reason why it is missing, and the plots."""
    lines = ["# Results of `make bench`", ""]
    lines += [f"- {key}: {value}" for key, value in told.items()]
    for name, table in found.items():
        lines += ["", f"## {name}", ""]
        lines += [f"Not measured: {table}"] if isinstance(table, str) else _section(name, table)
    FILE.write_text("\n".join(lines) + "\n")


def _section(name: str, table: Table) -> Iterator[str]:
    yield table.title[0].upper() + table.title[1:] + "."
    yield ""
    yield _line(HEADER)
    yield _line(["---", *["---:" for _ in HEADER[2:]], "---"])
    for row in table.rows:
        yield _line(row.cells())
    yield ""
    for note in table.notes:
        yield f"- {note}"
    if table.plot is not None:
        picture = FILE.with_name(f"{name}.png")
        picture.write_bytes(table.plot)
        yield ""
        yield f"![{name}]({picture.name})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
