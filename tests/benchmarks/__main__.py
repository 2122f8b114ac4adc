"""Entry of ``python -m tests.benchmarks``: run the benchmarks that are named, or all.

The exit code says whether everything could be measured, not whether the targets were met.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping

from tests.benchmarks import cold, hits
from tests.benchmarks.company import Company
from tests.benchmarks.report import Table, heading
from tests.benchmarks.servers import Unmeasurable

BENCHMARKS: Mapping[str, Callable[[], Table]] = {"hits": hits.measure, "cold": cold.measure}


def main() -> int:
    """Print what was measured; 1 where something could not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    print(heading())
    return max([_run(name) for name in names])


def _run(name: str) -> int:
    company = Company()
    try:
        table = BENCHMARKS[name]()
    except Unmeasurable as error:
        print(f"\n{name}: NOT MEASURED: {error}", file=sys.stderr, flush=True)
        return 1
    print(f"\n{name}: {table.text()}")
    print(f"  Meanwhile others kept {company.cores():.2f} cores busy.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
