"""The one edge at which a failure inside libvips becomes an answer with a kind and a sentence."""

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
        """Keep the kind and a sentence that is safe to show to anybody."""
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


def answered(work: Callable[[], _T], *, target_fd: int | None = None) -> _T | JobFailure:
    """Do the work, and give what stopped it as a value; real bugs of ours still raise.

    With ``target_fd`` a failure of libvips is blamed on the target where the target is broken.
    When this returns, no traceback holds an image, a source or a target alive any more.
    """
    try:
        return work()
    except SourceRefused as refusal:
        return JobFailure(refusal.kind, refusal.detail)
    except OSError as error:
        return JobFailure("unreadable", f"the source cannot be read: {error.strerror}")
    except pyvips.Error as error:
        if target_fd is not None and not _writable(target_fd):
            return JobFailure("fault", "the target was closed before the picture was written")
        return _decode_failure(error)


def encoding(work: Callable[[], _T]) -> _T:
    """Do work on pixels that are decoded already: what fails in it is our own fault."""
    try:
        return work()
    except OSError as error:
        raise SourceRefused("fault", f"the target cannot be written: {error.strerror}") from error
    except pyvips.Error as error:
        raise SourceRefused(
            "fault", f"the picture cannot be encoded: {_first_line(error)}"
        ) from error


def _decode_failure(error: pyvips.Error) -> JobFailure:
    """Tell a descriptor that fails (libvips says ``unix error``) from bytes that are wrong."""
    if "unix error" in str(error):
        return JobFailure("unreadable", "the source cannot be read")
    return JobFailure("undecodable", f"the source cannot be decoded: {_first_line(error)}")


def _first_line(error: pyvips.Error) -> str:
    """The most telling line of libvips' error buffer: the innermost, which comes first."""
    lines = [line.strip() for line in str(error.detail).splitlines()]
    return next(filter(None, lines), str(error.message))


def _writable(descriptor: int) -> bool:
    """Whether a descriptor is open and its other end still reads; poll(2) tells without writing."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return not any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
