"""Translates failures inside libvips into `JobFailure`: the only place that does so."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import TypeVar

import pyvips

from proxy.domain.worker_protocol import JobFailure

_T = TypeVar("_T")


class SourceRefused(Exception):
    """The source is not rendered; ``kind`` is one of `worker_protocol.FAILURE_KINDS`."""

    def __init__(self, kind: str, detail: str) -> None:
        """Store the kind and a sentence that is safe to show to clients."""
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


def answered(work: Callable[[], _T], *, target_fd: int | None = None) -> _T | JobFailure:
    """Do the work and return its result, or the failure that stopped it; our own bugs still raise.

    With ``target_fd`` an error of libvips is attributed to the target if the target is broken.
    On return no traceback keeps an image, a source or a target alive.
    """
    try:
        return work()
    except SourceRefused as refusal:
        return JobFailure(refusal.kind, refusal.detail)
    except OSError as error:
        return JobFailure("unreadable", f"the source cannot be read: {error.strerror}")
    except pyvips.Error as error:
        if target_fd is not None and not _writable(target_fd):
            return JobFailure("fault", "the target was closed before the image was written")
        # libvips reports a failed read of the descriptor as "unix error".
        if "unix error" in str(error):
            return JobFailure("unreadable", "the source cannot be read")
        return JobFailure("undecodable", f"the source cannot be decoded: {_first_line(error)}")


def encoding(work: Callable[[], _T]) -> _T:
    """Do work on pixels that are already decoded: an error is a fault of this server."""
    try:
        return work()
    except OSError as error:
        raise SourceRefused("fault", f"the target cannot be written: {error.strerror}") from error
    except pyvips.Error as error:
        raise SourceRefused(
            "fault", f"the image cannot be encoded: {_first_line(error)}"
        ) from error


def _first_line(error: pyvips.Error) -> str:
    """Return the first line of libvips' error buffer, which is the innermost error."""
    lines = [line.strip() for line in str(error.detail).splitlines()]
    return next(filter(None, lines), str(error.message))


def _writable(descriptor: int) -> bool:
    """Return whether a descriptor is open and still has a reader; poll(2) does not write."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return not any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
