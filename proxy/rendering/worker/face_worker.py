"""Entry point of the confined process that detects faces, started by a `WorkerPool`.

``python -m proxy.rendering.worker.face_worker <socket descriptor> <options>``. It decodes images as
a render worker does, with the same limits and sandbox, and holds the model as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from proxy.domain.errors import ConfigurationError
from proxy.domain.worker_protocol import FaceJob, WorkerInfo
from proxy.rendering.face_model import checked
from proxy.rendering.worker import sandbox
from proxy.rendering.worker.imaging.libvips import answered, configure, hello, lock_loaders
from proxy.rendering.worker.job_loop import run_worker


class FaceWorker:
    """What the process keeps from one job to the next: the model."""

    def __init__(self) -> None:
        self._detect: Any = None

    def prepare(self, options: Mapping[str, Any]) -> WorkerInfo:
        """Load the model and enter the sandbox, as `proxy.rendering.worker` does.

        Raises:
            ConfigurationError: the process cannot work.
        """
        configure()
        lock_loaders(tuple(options["source_types"]))
        self._load(checked(Path(options["extra"]["model"])))
        if not options["sandbox"]:
            off = dict.fromkeys(sandbox.FEATURES, "switched off by workers.sandbox")
            return replace(hello(), sandbox=off)
        states = sandbox.confine(uid=options["uid"], max_memory_bytes=options["max_memory_bytes"])
        info = hello()
        os.environ.clear()
        return replace(info, sandbox={**states, **sandbox.seal()})

    def _load(self, path: Path) -> None:
        # Here, and not above: a module that is missing is then a reason, not a traceback.
        try:
            from proxy.rendering.worker.imaging.face_detection import (  # noqa: PLC0415
                FaceModel,
                detect,
            )

            self._detect = partial(detect, model=FaceModel(path))
        except (ImportError, ValueError) as error:
            raise ConfigurationError([f"the face detector cannot be loaded: {error}"]) from error

    def run(self, job: Any, source: int, _target: int) -> Any:
        """Run a job and return its reply."""
        if not isinstance(job, FaceJob):
            raise TypeError(job)
        return answered(partial(self._detect, job, source))


if __name__ == "__main__":
    worker = FaceWorker()
    run_worker(worker.prepare, worker.run)
