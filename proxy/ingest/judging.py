"""Judging: which failures another attempt may mend, at once or much later; pure."""

from __future__ import annotations

from proxy.errors import (
    CapacityError,
    MainApiForbidden,
    MainApiRefused,
    MainApiUnavailable,
    RenderFault,
    RenderTimeout,
    SmartserveError,
    SourceChanged,
    SourceTimeout,
    SourceUnavailable,
    StorageError,
    UploadGone,
    WorkerEnded,
)
from proxy.pending import Step

_PASSING = (
    MainApiUnavailable,
    CapacityError,
    SourceUnavailable,
    SourceTimeout,
    SourceChanged,
    StorageError,
)
_AGAIN = (*_PASSING, RenderTimeout, RenderFault)
_HEALED = (*_PASSING, MainApiForbidden, WorkerEnded)


def again(error: SmartserveError) -> bool:
    """Whether a step is worth another attempt in a few seconds."""
    return isinstance(error, _AGAIN)


def heals(step: Step, error: SmartserveError) -> bool:
    """Whether an upload that has failed is worth being taken up again, minutes or hours later.

    A wrong key is put right by somebody. A completion that is refused keeps a picture that is
    served from being named, so it is offered until the main API has forgotten the upload.
    """
    if step is Step.UPDATE_CALLBACK and isinstance(error, MainApiRefused):
        return not isinstance(error, UploadGone)
    return isinstance(error, _HEALED)


def reason_of(step: Step, error: SmartserveError) -> str:
    """Why, in a sentence for an operator: what failed, and what the system said."""
    cause = error.__cause__
    told = cause.strerror if isinstance(cause, OSError) else None
    said = f" ({told})" if told and told not in error.detail else ""
    return f"{step}: {error.detail}{said}"
