"""Writes results to RESULTS.md, and a choice of the comparisons with peers from there to README.md.

Each benchmark has a section of its own in RESULTS.md, so a run of some benchmarks keeps the results
of the others. README's table is computed from RESULTS.md alone: both always agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.report import COMPARED, HEADER, Table

FILE = Path(__file__).with_name("RESULTS.md")
README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- results of make bench -->", "<!-- end of results -->"
"""The markers in README.md; what is between them is replaced."""

CHOSEN = (
    "hits per second, 22 KB, 32 connections",
    "hits per second, 22 KB, 1,024 connections, access log",
    "hits/s spread over 300,000 files, 1,000,000 rows in SQLite, 16 connections",
    "ms to the first byte of a cold AVIF of 1200 pixels",
    "cold renders/s, JPEG of 1200 pixels from 6-megapixel photographs, equal settings",
    "cold renders/s, WebP of 300 pixels from 6-megapixel photographs, equal settings",
    "cold renders/s, AVIF of 1200 pixels from 6-megapixel photographs, equal settings",
    "seconds until a burst of 140 different misses is answered",
    "ms to extract the metadata of a JPEG of 3 MB",
    "LCP in ms of `<smart-image>`, script in the browser's cache",
)
"""The measurements that README shows, one of each kind, the slower ones too."""

_TITLE = "# Results of `make bench`"
_SECTION = re.compile(r"^## (\S+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_MEASURED = re.compile(r"^- Measured on (\S+) .*? UTC: ([^;]+);", re.MULTILINE)
_MISSING = re.compile(r"^NOT MEASURED: (.+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Result:
    """What a benchmark returned, and when, where and beside what it ran."""

    table: Table | str
    """Or the reason why there is none."""
    circumstances: str


def write(found: Mapping[str, Result], order: Sequence[str]) -> None:
    """Replace the sections of these benchmarks in RESULTS.md, and the table in README.md."""
    text = merged(FILE.read_text() if FILE.exists() else "", found, order)
    FILE.write_text(text)
    for name, result in found.items():
        if isinstance(result.table, Table) and result.table.plot is not None:
            FILE.with_name(f"{name}.png").write_bytes(result.table.plot)
    README.write_text(with_summary(README.read_text(), text))


def merged(text: str, found: Mapping[str, Result], order: Sequence[str]) -> str:
    """Return RESULTS.md with new sections; those of benchmarks not in ``order`` are dropped."""
    sections = {match[1]: match[2].strip("\n") for match in _SECTION.finditer(text)}
    for name, result in found.items():
        sections[name] = "\n".join(_section(name, result))
    parts = [f"## {name}\n\n{sections[name]}\n" for name in order if name in sections]
    return "\n".join([f"{_TITLE}\n", *parts])


def with_summary(readme: str, results: str, chosen: Sequence[str] = CHOSEN) -> str:
    """Return README.md with the chosen comparisons of RESULTS.md between the markers."""
    before, begin, rest = readme.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md needs the lines {BEGIN} and {END}")
    return f"{before}{begin}{summary(results, chosen)}\n{END}{after}"


def summary(results: str, chosen: Sequence[str] = CHOSEN) -> str:
    """Return the chosen comparisons as one table, and what is missing."""
    header = _line(COMPARED)
    found: list[str] = []
    for match in _SECTION.finditer(results):
        table = match[2].partition(f"{header}\n")[2]
        found += [line for line in table.splitlines()[1:] if line.startswith("| ")]
    rows = [row for name in chosen for row in found if row.startswith(f"| {name} |")]
    missing = [
        f"{match[1]} ({cause[1]})"
        for match in _SECTION.finditer(results)
        if (cause := _MISSING.search(match[2]))
    ]
    places = dict.fromkeys(match[2] for match in _MEASURED.finditer(results))
    dates = sorted({match[1] for match in _MEASURED.finditer(results)})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "no date"
    lines = [f"Measured on {when}: {'; '.join(places)}.", "", header, _ruler(COMPARED), *rows]
    return "\n".join([*lines, *(["", f"Not measured: {'; '.join(missing)}."] if missing else [])])


def _section(name: str, result: Result) -> Iterator[str]:
    if isinstance(result.table, str):
        # One line, because README repeats it.
        yield f"NOT MEASURED: {' '.join(result.table.split())[:300]}"
        yield ""
        yield f"- {result.circumstances}"
        return
    table = result.table
    yield table.title[0].upper() + table.title[1:] + "."
    yield ""
    yield from _rows(HEADER, (row.cells() for row in table.rows))
    yield ""
    for note in (*table.notes, result.circumstances):
        yield f"- {note}"
    if table.compared:
        yield ""
        yield from _rows(COMPARED, (one.cells() for one in table.compared))
    if table.plot is not None:
        yield ""
        yield f"![{name}]({name}.png)"


def _rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _line(header)
    yield _ruler(header)
    yield from map(_line, rows)


def _ruler(header: Sequence[str]) -> str:
    return _line(["---", *["---:" for _ in header[2:]], "---"])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
