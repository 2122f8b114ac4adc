"""Entry point of ``python -m tests.fuzz``: sends mutants, prints figures, stores reproducers."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tests.faults.server import Server
from tests.fuzz.campaign import FuzzRun, Plan, Report
from tests.fuzz.mutants import Mutant, mutant

_KEPT = Path.home() / ".cache" / "smartserve-fuzz"


def main() -> int:
    """Print the result; return 1 if a response was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--finals", action="store_true", help="finals in place of drafts")
    parser.add_argument("--only", nargs="+", default=(), metavar="EXTENSION", help="as in heic svg")
    parser.add_argument("--write", type=int, metavar="NUMBER", help="only write this mutant")
    parser.add_argument("--keep", type=Path, default=_KEPT, help="folder of reproducers")
    given = parser.parse_args()
    if given.write is not None:
        _store(given.keep, given.seed, [mutant(given.seed, given.write, given.only)])
        return 0
    plan = Plan(
        given.seed, given.mutants, given.first, given.clients, given.finals, tuple(given.only)
    )
    began = time.monotonic()
    report = asyncio.run(_run(plan))
    _print(plan, report, time.monotonic() - began)
    wrong = [*report.tally.faults, *(shot for shot, _ in report.costly)]
    _store(given.keep, plan.seed, [*report.killers, *(shot.mutant for shot in wrong)])
    return int(bool(report.lost or report.costly))


async def _run(plan: Plan) -> Report:
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory) / "data", plan.sections)
        await server.start()
        try:
            return await FuzzRun(server, plan).run(lambda line: print(line, flush=True))
        finally:
            await server.stop()


def _print(plan: Plan, report: Report, seconds: float) -> None:
    tally = report.tally
    print(f"{plan.mutants:,} mutants of seed {plan.seed} in {seconds:.0f} s")
    print(f"answers by status: {dict(sorted(tally.statuses.items()))} (0: cut off)")
    print(
        f"seconds: p50 {tally.quantile(0.5):.3f}, p99 {tally.quantile(0.99):.2f}, "
        f"most {max(tally.seconds):.2f}; {len(tally.slow)} over two seconds"
    )
    print(f"workers that died: {report.deaths}, counted: {dict(report.restarts)}")
    print(
        f"most memory: worker {report.worker_peak_bytes / 2**20:.0f} MiB, "
        f"server {report.server_peak_bytes / 2**20:.0f} MiB"
    )
    for shot in tally.slow:
        print(f"slow: {shot}")
    for killer in report.killers:
        print(f"crashes a worker: #{killer.number} {killer.origin}")
    for shot, cost_s in report.costly:
        print(f"COSTLY: {shot}: {cost_s:.2f} s of processor time")
    for line in report.lost:
        print(f"WRONG: {line}")


def _store(folder: Path, seed: int, mutants: Iterable[Mutant]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for one in mutants:
        path = folder / f"{seed}-{one.number}-{one.origin}"
        path.write_bytes(one.body)
        print(f"kept: {path}")


if __name__ == "__main__":
    sys.exit(main())
