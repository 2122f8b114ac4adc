"""How many connections the limit of open files allows."""

from __future__ import annotations

import resource

import pytest
from structlog.testing import capture_logs

from proxy.runtime.open_file_limit import max_connections, raise_limit


@pytest.mark.parametrize(
    ("wanted", "open_files", "allowed"),
    [
        (10_000, 1_048_576, 10_000),
        (10_000, resource.RLIM_INFINITY, 10_000),
        (10_000, 4096, 2560),
        (10_000, 64, 16),
        (0, 64, 16),
        (0, 40, 1),
        (20, 1024, 20),
    ],
)
def test_connections_fit_below_the_limit_of_open_files(
    wanted: int, open_files: int, allowed: int
) -> None:
    assert max_connections(wanted, open_files) == allowed


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1000), hard))
    try:
        assert raise_limit(10) == 10
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_fewer_connections_than_wanted_are_logged() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("this machine has no limit")
    with capture_logs() as logs:
        allowed = raise_limit(hard)
    assert allowed < hard
    assert [line["event"] for line in logs] == ["fewer_connections"]
