"""Entry point of a worker process, started by the pool.

``python -m proxy.rendering.worker <socket descriptor> <options>``. The options are those of
`proxy.rendering.pool.worker_start.WorkerStartOptions` as a JSON object.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from proxy.domain.worker_protocol import (
    HOLDS,
    AnalyseJob,
    Job,
    ProbeJob,
    RemovalJob,
    RenditionSet,
    WorkerInfo,
)
from proxy.rendering.worker import sandbox
from proxy.rendering.worker.imaging import fonts
from proxy.rendering.worker.imaging.analysis.analyse import analyse
from proxy.rendering.worker.imaging.libvips import answered, configure, hello, lock_loaders
from proxy.rendering.worker.imaging.load import use_decoders
from proxy.rendering.worker.imaging.probe import probe
from proxy.rendering.worker.imaging.render import render_set
from proxy.rendering.worker.job_loop import run_worker
from proxy.rendering.worker.metadata_removal import plan_removal


def prepare(options: Mapping[str, Any]) -> WorkerInfo:
    """Enable the configured loaders, warm up every codec, and enter the sandbox.

    Raises:
        ConfigurationError: the process cannot work.
    """
    configure()
    lock_loaders(tuple(options["source_types"]))
    draws = "svg" in options["source_types"]
    font_files = fonts.find(system=options["system_fonts"]) if draws else ()
    if options["extra"].get("decoders"):
        # Here, because a module cannot be imported in the sandbox.
        from proxy.rendering.worker.imaging.decoders import open_decoded  # noqa: PLC0415

        use_decoders(open_decoded)
    if not options["sandbox"]:
        off = dict.fromkeys(sandbox.FEATURES, "switched off by workers.sandbox")
        if draws:
            fonts.use(font_files)
        return replace(hello(), sandbox=off)
    states = sandbox.confine(
        uid=options["uid"], max_memory_bytes=options["max_memory_bytes"], readable=font_files
    )
    # `hello` decodes a sample of each type. That starts the threads of libvips, which must inherit
    # Landlock, and shows that no codec has to open a file later. So it runs between the two steps.
    info = hello()
    os.environ.clear()
    # Without Landlock every file could be read.
    limited = states["landlock"] == HOLDS
    if draws:
        fonts.use(font_files, refused=None if limited else f"no Landlock: {states['landlock']}")
    reading = bool(font_files) and limited
    return replace(info, sandbox={**states, **sandbox.seal(reading=reading)})


def run(job: Job[Any], source: int, target: int) -> Any:
    """Run a job and return its reply.

    Afterwards libvips holds no duplicate of either descriptor, so the reader of a pipe sees its end
    as soon as the caller closes the target.
    """
    match job:
        case RenditionSet():
            return answered(partial(render_set, job, source, target), target_fd=target)
        case ProbeJob():
            return answered(partial(probe, job, source))
        case AnalyseJob():
            return answered(partial(analyse, job, source))
        case RemovalJob():
            return answered(partial(plan_removal, source))
        case _:
            raise TypeError(job)


if __name__ == "__main__":
    run_worker(prepare, run)
