"""Entry point of ``python -m tests.benchmarks``: run the named benchmarks, or all.

Each runs in a process group of its own with a time limit. One that fails is reported as NOT
MEASURED with its cause, and the others go on. The exit code says whether everything was measured,
not whether targets were met.

With ``--results``, what is not measured for lack of time keeps its earlier result.
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
    bulk,
    burst,
    cold,
    defence,
    detail,
    disk,
    drafts,
    eviction,
    faces,
    graphics,
    graphics_bytes,
    growth,
    heic,
    herd,
    hints,
    hits,
    ingest,
    lcp,
    leases,
    longtail,
    memory,
    metadata,
    multiprocess,
    purges,
    results,
    sandbox,
    settled,
    signed,
    startup,
    warm,
)
from tests.benchmarks.company import Company
from tests.benchmarks.guard import guarded
from tests.benchmarks.report import Table, circumstances, heading
from tests.benchmarks.results import Result

# Those that README shows come first, because the time of a run is limited.
BENCHMARKS: Mapping[str, Callable[[], Table]] = {
    "hits": hits.measure,
    "disk": disk.measure,
    "signed": signed.measure,
    "longtail": longtail.measure,
    "longtail-mariadb": longtail.measure_mariadb,
    "processes": multiprocess.measure,
    "growth": growth.measure,
    "detail": detail.measure,
    "cold": cold.measure,
    "cold-24mp": cold.measure_huge,
    "defaults": cold.measure_defaults,
    "graphics": graphics.measure,
    "faces": faces.measure,
    "graphics-bytes": graphics_bytes.measure,
    "jpeg-drafts": drafts.measure,
    "heic": heic.measure,
    "settled": settled.measure,
    "burst": burst.measure,
    "herd": herd.measure,
    "leases": leases.measure,
    "purges": purges.measure,
    "memory": memory.measure,
    "hints": hints.measure,
    "hints-hits": hints.measure_hits,
    "metadata": metadata.measure,
    "metadata-serving": metadata.measure_serving,
    "ingest": ingest.measure,
    "lcp": lcp.measure,
    "backlog": backlog.measure,
    "bulk": bulk.measure,
    "startup": startup.measure,
    "defence": defence.measure,
    "sandbox": sandbox.measure,
    "warm": warm.measure,
    "analysis": analysis.measure,
    "eviction": eviction.measure,
    "eviction-rate": eviction.measure_rate,
}
LIMIT_S = 300
"""Seconds for one benchmark."""
TOTAL_S = 25 * 60
"""Seconds for all of them."""
_LEAST_S = 60
"""Without so many seconds left, a benchmark is not started."""


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
    deadline, complete = time.monotonic() + TOTAL_S, True
    for name in names:
        limit_s = min(LIMIT_S, deadline - time.monotonic())
        if limit_s < _LEAST_S:
            print(f"\n{name}: NOT MEASURED: {TOTAL_S} s are over", file=sys.stderr, flush=True)
            complete = False
            continue
        result = _measured(name, told, limit_s)
        complete &= isinstance(result.table, Table)
        if arguments.results:
            # After each one, so that a run that is stopped loses nothing.
            results.write({name: result}, list(BENCHMARKS))
    return int(not complete)


def _measured(name: str, told: Mapping[str, str], limit_s: float) -> Result:
    """Run one benchmark and print its table, or why there is none."""
    company, began = Company(), time.monotonic()
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    table = guarded(BENCHMARKS[name], limit_s)
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
