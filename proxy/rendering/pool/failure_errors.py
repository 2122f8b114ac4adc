"""What a worker's failures and deaths mean, as the errors that they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from proxy.domain.errors import (
    RenderError,
    RenderFault,
    RenderTimeout,
    SmartserveError,
    SourceQuarantined,
    SourceTooLarge,
    SourceUnavailable,
    UndecodableSource,
    UnsupportedSource,
)
from proxy.domain.worker_protocol import JobFailure
from proxy.rendering.pool.process import WorkerDied

_FAILURES: Mapping[str, Callable[[str], SmartserveError]] = {
    "unsupported": UnsupportedSource,
    "undecodable": UndecodableSource,
    "too_large": SourceTooLarge,
    "unreadable": SourceUnavailable,
    "fault": RenderFault,
}


def error_of(failure: JobFailure) -> SmartserveError:
    """A worker's failure as the error that it is."""
    return _FAILURES.get(failure.kind, RenderFault)(failure.detail)


def too_large() -> SourceTooLarge:
    """A rendition grew past what the server keeps."""
    return SourceTooLarge("the rendition would be larger than the server keeps")


def death_of_last(death: WorkerDied) -> RenderError:
    """What the death of a job's last worker says about the picture."""
    if death.reason == "deadline":
        return RenderTimeout("the picture took too long to render")
    return SourceQuarantined("the picture made its workers crash and is refused for a while")


def diverged() -> RenderFault:
    """A second worker's bytes are not those of the first, some of which have gone out."""
    return RenderFault("the picture came out differently when it was tried again")
