"""Starts the confined processes that extract metadata, and opens the service that uses them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

from proxy.domain.errors import ConfigurationError
from proxy.metadata.exiftool import (
    MAX_FILES,
    ExifToolProgram,
    find_program,
    interpreter,
    start_exiftool,
)
from proxy.metadata.service import ExtractionTelemetry, MetadataService, log_event
from proxy.metadata.tags import MAX_OUTPUT_BYTES
from proxy.metadata.temp_folder import TempFolder
from proxy.rendering.pool.admission import Admission
from proxy.rendering.pool.pool import WorkerPool
from proxy.rendering.pool.process import PoolProcess
from proxy.rendering.pool.worker_start import WorkerStartOptions, start_worker
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.settings import MetadataSettings, WorkerSettings

_SWEEP_S = 3600.0
_WORKER = "proxy.metadata.worker"


async def _start_worker(
    metadata: MetadataSettings, settings: WorkerSettings, python: str, supervisor: TaskSupervisor
) -> PoolProcess:
    options = WorkerStartOptions(
        source_types=(),
        max_memory_bytes=settings.max_memory_bytes,
        max_cpu_s=2 * settings.deadline_s,
        sandbox=settings.sandbox,
        uid=settings.uid,
        nice=settings.nice,
        idle=False,
        module=_WORKER,
        python=python,
        extra={
            "c2pa_trust_list": metadata.c2pa_trust_list,
            "stealth": "on" if metadata.stealth else "",
        },
    )
    log_event("metadata_worker_started", category="spawn")
    return await start_worker(
        options,
        timeout_s=settings.start_timeout_s,
        wall_factor=settings.wall_clock_factor,
        supervisor=supervisor,
    )


async def _open_engines(
    settings: MetadataSettings,
    own: WorkerSettings,
    folder: TempFolder,
    python: str,
    supervisor: TaskSupervisor,
    environment: Mapping[str, str],
) -> WorkerPool | str:
    """Start the exiftool processes; return why there are none if that is impossible."""
    if settings.engine != "exiftool":
        return 'metadata.engine is "pillow"'
    program = await asyncio.to_thread(find_program, environment)
    if not isinstance(program, ExifToolProgram):
        return program
    own = own.model_copy(update={"max_jobs": MAX_FILES})
    start = partial(start_exiftool, program, folder, own, python=python, supervisor=supervisor)
    pool = WorkerPool(
        own,
        source_types=(),
        max_output_bytes=0,
        start=start,
        supervisor=supervisor,
        # No second attempt: a file that has killed exiftool would kill it again. The fallback reads
        # it instead.
        max_attempts=1,
    )
    try:
        return await pool.__aenter__()
    except ConfigurationError as error:
        return str(error)


def _digest(path: str) -> str:
    """Return the SHA-256 of the trust list; the empty text without one."""
    try:
        return sha256(Path(path).read_bytes()).hexdigest() if path else ""
    except OSError as error:
        raise ConfigurationError([f"metadata.c2pa_trust_list: {error}"]) from error


@asynccontextmanager
async def open_metadata(
    settings: MetadataSettings,
    workers: WorkerSettings,
    *,
    supervisor: TaskSupervisor = UNCOUNTED,
    environment: Mapping[str, str] = os.environ,
    telemetry: ExtractionTelemetry | None = None,
) -> AsyncIterator[MetadataService]:
    """Start the confined processes; end them and remove their folder after the block.

    Raises:
        ConfigurationError: the folder of temporary files is unfit, or no worker starts.
    """
    own = settings.worker_settings(workers)
    python = interpreter(environment)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TempFolder(Path(settings.temp_root)))
        start = partial(_start_worker, settings, own, python, supervisor)
        pool = WorkerPool(
            own,
            source_types=(),
            max_output_bytes=MAX_OUTPUT_BYTES,
            start=start,
            supervisor=supervisor,
            max_attempts=1,
        )
        await stack.enter_async_context(pool)
        engines = await _open_engines(settings, own, folder, python, supervisor, environment)
        if isinstance(engines, WorkerPool):
            stack.push_async_exit(engines)
        else:
            log_event("metadata_engine_missing", category="error", reason=engines)
        admission = Admission(own)
        stack.callback(admission.close)
        service = MetadataService(
            settings,
            folder=folder,
            workers=pool,
            engines=engines,
            admission=admission,
            processes=own.processes,
            trust_list=await asyncio.to_thread(_digest, settings.c2pa_trust_list),
            telemetry=telemetry,
        )
        sweep = partial(asyncio.to_thread, folder.sweep)
        await stack.enter_async_context(
            supervisor.running(
                BackgroundTask.METADATA_SWEEP, sweep, every_s=_SWEEP_S, first_after_s=_SWEEP_S
            )
        )
        yield service
