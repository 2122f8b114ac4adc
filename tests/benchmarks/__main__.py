"""Entry point of ``python -m tests.benchmarks``: run the named benchmarks, or all.

Each runs in a process group of its own with a time limit. One that fails is reported as NOT
MEASURED with its cause, and the others go on. The exit code says whether everything was measured,
not whether targets were met.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from tests.benchmarks import (
    analysis,
    backlog,
    cold,
    defence,
    detail,
    disk,
    herd,
    hits,
    ingest,
    lcp,
    memory,
    results,
    sandbox,
    settled,
    startup,
    warm,
)
from tests.benchmarks.company import Company
from tests.benchmarks.guard import guarded
from tests.benchmarks.report import Table, circumstances, heading
from tests.benchmarks.results import Result

BENCHMARKS: Mapping[str, Callable[[], Table]] = {
    "hits": hits.measure,
    "defence": defence.measure,
    "disk": disk.measure,
    "detail": detail.measure,
    "cold": cold.measure,
    "defaults": cold.measure_defaults,
    "settled": settled.measure,
    "herd": herd.measure,
    "backlog": backlog.measure,
    "warm": warm.measure,
    "memory": memory.measure,
    "sandbox": sandbox.measure,
    "startup": startup.measure,
    "analysis": analysis.measure,
    "ingest": ingest.measure,
    "lcp": lcp.measure,
}
LIMIT_S = 300
"""Seconds for one benchmark; all together take about 25 minutes."""


def main() -> int:
    """Print the results; return 1 if something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--results", action="store_true", help="also write RESULTS.md and README's table"
    )
    arguments = parser.parse_args()
    names = arguments.names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    told = circumstances()
    print(heading(told))
    found = {}
    for name in names:
        found[name] = _measured(name, told)
        if arguments.results:
            # After each one, so that a run that is stopped loses nothing.
            results.write(found, list(BENCHMARKS))
    return int(any(isinstance(result.table, str) for result in found.values()))


def _measured(name: str, told: Mapping[str, str]) -> Result:
    """Run one benchmark and print its table, or why there is none."""
    company, began = Company(), time.monotonic()
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    table = guarded(BENCHMARKS[name], LIMIT_S)
    others, seconds = company.cores(), time.monotonic() - began
    ran = (
        f"Measured on {now}: {told['machine']}; {told['versions']}; in {seconds:.0f} s, in which "
        f"others kept {others:.2f} cores busy."
    )
    if isinstance(table, str):
        print(f"\n{name}: NOT MEASURED: {table}", file=sys.stderr, flush=True)
    else:
        print(f"\n{name}: {table.text()}\n  {ran}", flush=True)
    return Result(table, ran)


if __name__ == "__main__":
    sys.exit(main())
