"""System calls raise the error of the kernel."""

from __future__ import annotations

import errno

import pytest

from proxy.rendering.worker.sandbox.libc import capset, prctl, syscall

_PR_GET_PDEATHSIG_INVALID = 9999
_NO_SUCH_CALL = 100_000


def test_a_refused_prctl_raises() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        prctl(_PR_GET_PDEATHSIG_INVALID)


def test_an_unknown_system_call_raises() -> None:
    with pytest.raises(OSError, match="Function not implemented") as error:
        syscall(_NO_SUCH_CALL)
    assert error.value.errno == errno.ENOSYS


def test_a_bad_pointer_raises() -> None:
    with pytest.raises(OSError, match="Bad address"):
        capset(None, None)
