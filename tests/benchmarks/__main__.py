"""Entry point of ``python -m tests.benchmarks``: run the named benchmarks, or all.

The exit code says whether everything was measured, not whether targets were met.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping

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
from tests.benchmarks.report import Table, circumstances, heading
from tests.benchmarks.servers import Unmeasurable

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


def main() -> int:
    """Print the results; return 1 if something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--results", action="store_true", help=f"also write {results.FILE.name}")
    arguments = parser.parse_args()
    names = arguments.names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    told = circumstances()
    print(heading(told))
    found = {name: _run(name) for name in names}
    if arguments.results:
        results.write(told, found)
    return int(any(isinstance(table, str) for table in found.values()))


def _run(name: str) -> Table | str:
    """Return the table, or the reason why there is none."""
    company, began = Company(), time.monotonic()
    try:
        table = BENCHMARKS[name]()
    except Unmeasurable as error:
        print(f"\n{name}: NOT MEASURED: {error}", file=sys.stderr, flush=True)
        return str(error)
    print(f"\n{name}: {table.text()}")
    others, seconds = company.cores(), time.monotonic() - began
    print(f"  In {seconds:.0f} s; others kept {others:.2f} cores busy meanwhile.", flush=True)
    return table


if __name__ == "__main__":
    sys.exit(main())
