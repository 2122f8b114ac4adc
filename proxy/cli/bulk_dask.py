"""Runs the parts of a plan on an existing Dask cluster, whose machines have smartserve installed.

Each task of Dask is one part, processed by the command ``smartserve bulk work`` on the machine of a
worker, with the settings of that machine. The database decides which part it is, so a task that
Dask repeats does nothing twice.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import structlog

from proxy.domain.bulk import PlanStatus
from proxy.domain.errors import ConfigurationError
from proxy.storage.database.bulk_plans import BulkPlanTable

_CONNECT_S = 15
_POLL_S = 1.0
_UNDER_WAY = (PlanStatus.RUNNING, PlanStatus.PAUSED)
_SHOWN = 2000

log = structlog.get_logger(__name__)


def run_part(plan_id: int) -> str:
    """Process one part; return the last lines of the command.

    Raises:
        RuntimeError: the command failed; the message has its output.
    """
    # A process of its own: Dask runs tasks in threads, and the workers that decode must be started
    # by the thread that lives as long as they do.
    command = [sys.executable, "-m", "proxy.cli", "bulk", "work", str(plan_id), "--parts", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-_SHOWN:]}")
    return done.stderr[-_SHOWN:]


async def work_on_dask(table: BulkPlanTable, plan_id: int, scheduler: str) -> None:
    """Keep one part on each machine of the cluster until the plan has ended.

    Raises:
        ConfigurationError: Dask is not installed, the scheduler cannot be reached, or a machine
            cannot process parts.
    """
    try:
        from distributed import Client  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(
            ["--engine dask needs the extra dask: pip install 'smartserve[dask]'"]
        ) from None
    try:
        client: Any = await Client(  # type: ignore[no-untyped-call]
            scheduler, asynchronous=True, timeout=_CONNECT_S
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError([f"--scheduler: {scheduler}: {error}"]) from error
    async with client:
        tasks: dict[str, Any] = {}
        while (plan := await table.find(plan_id)) is not None and plan.status in _UNDER_WAY:
            workers = await _one_worker_per_machine(client)
            # Also on machines that join later.
            for host in workers.keys() - tasks.keys():
                address = workers[host]
                task = client.submit(run_part, plan_id, workers=[address], pure=False, retries=2)
                tasks[host] = task
            await asyncio.sleep(_POLL_S)
            for host, task in tuple(tasks.items()):
                if task.done() or host not in workers:
                    del tasks[host]
                    await _end(task, host)


async def _end(task: Any, host: str) -> None:
    if not task.done():
        # The machine has left the cluster. The lease of its part expires.
        await task.cancel()
    elif task.status == "error":
        error = await task.exception()
        # KilledWorker: the machine ended during the part. Another one continues it.
        if isinstance(error, RuntimeError):
            raise ConfigurationError([f"{host}: {error}"])
        log.warning("bulk_part_lost", host=host, cause=repr(error))


async def _one_worker_per_machine(client: Any) -> dict[str, str]:
    """Return the address of one Dask worker by host: a part uses all cores of its machine."""
    # Not `scheduler_info`, which an asynchronous client updates only now and then.
    workers = (await client.scheduler.identity(n_workers=-1))["workers"]
    return {one["host"]: address for address, one in sorted(workers.items(), reverse=True)}
