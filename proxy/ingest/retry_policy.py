"""Judging: which failures another attempt may mend, at once or much later; pure."""

from __future__ import annotations

from proxy.domain.errors import (
    CapacityError,
    MainApiForbidden,
    MainApiRefused,
    MainApiUnavailable,
    RenderFault,
    RenderTimeout,
    SmartserveError,
    SourceChanged,
    SourceQuarantined,
    SourceTimeout,
    SourceUnavailable,
    StepOverdue,
    StorageError,
    UploadGone,
    WorkerEnded,
)
from proxy.domain.pending_image import Step

_PASSING = (
    MainApiUnavailable,
    CapacityError,
    SourceUnavailable,
    SourceTimeout,
    SourceChanged,
    StorageError,
)
_AGAIN = (*_PASSING, RenderTimeout, RenderFault)
_HEALED = (*_PASSING, MainApiForbidden, WorkerEnded, StepOverdue)
"""What hangs is left alone for a while: another attempt at once would only hang as well."""
_DOUBTFUL = (SourceQuarantined, RenderTimeout, RenderFault, UploadGone)
"""The picture's own doing, or that of whoever killed its workers, as a system out of memory does; a
404 may be that of a main API that is just being replaced."""
_DOUBTS = 3
"""How often an upload has the benefit of the doubt."""


def again(error: SmartserveError) -> bool:
    """Whether a step is worth another attempt in a few seconds."""
    return isinstance(error, _AGAIN)


def heals(step: Step, error: SmartserveError, *, times: int = 0) -> bool:
    """Whether an upload that has failed is worth being taken up again, minutes or hours later.

    ``times`` it was already.

    A wrong key is put right by somebody. A completion that is refused keeps a picture that is
    served from being named, so it is offered until the main API has forgotten the upload.
    """
    if isinstance(error, _DOUBTFUL):
        return times < _DOUBTS
    if step is Step.UPDATE_CALLBACK and isinstance(error, MainApiRefused):
        return True
    return isinstance(error, _HEALED)


def reason_of(step: Step, error: SmartserveError) -> str:
    """Why, in a sentence for an operator: what failed, and what the system said."""
    cause = error.__cause__
    told = cause.strerror if isinstance(cause, OSError) else None
    said = f" ({told})" if told and told not in error.detail else ""
    return f"{step}: {error.detail}{said}"
