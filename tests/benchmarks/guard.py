"""Runs one benchmark in a process group of its own, so that its failure costs only itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

from tests.benchmarks.report import Table
from tests.benchmarks.servers import Unmeasurable


def guarded(measure: Callable[[], Table], limit_s: float) -> Table | str:
    """Return the table of a benchmark, or the reason why there is none."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(measure, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit_s):
            return f"not finished within {limit_s:g} s"
        table: Table | str = receiver.recv()
    except EOFError:
        process.join()
        return f"its process ended with {process.exitcode}"
    else:
        process.join(limit_s)
        return table
    finally:
        # Its servers are in its group; after a success there are none left.
        if process.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def _measure(measure: Callable[[], Table], sender: Connection) -> None:
    os.setpgid(0, 0)
    try:
        sender.send(measure())
    except Unmeasurable as error:
        sender.send(str(error))
    except Exception as error:  # noqa: BLE001 - whatever fails, the other benchmarks go on
        traceback.print_exc()
        sender.send(f"{type(error).__name__}: {error}")
