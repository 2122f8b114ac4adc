"""Fixtures of the fault tests: real servers, and the table of results."""

from __future__ import annotations

import fcntl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest

from tests.faults.server import Sections, Server
from tests.faults.table import PROPERTY, Figure, Record, packed, table, unpacked


class Launch(Protocol):
    """Starts a server over the test's data directory."""

    async def __call__(
        self,
        sections: Sections | None = None,
        *,
        data_dir: Path | None = None,
        prefix: Sequence[str] = (),
        extra: Mapping[str, str] | None = None,
    ) -> Server: ...


@pytest.fixture
async def launch(data_dir: Path) -> AsyncIterator[Launch]:
    """Start servers over a copy of the library; kill those that run at the end of the test."""
    async with AsyncExitStack() as stack:

        async def start(
            sections: Sections | None = None,
            *,
            data_dir: Path = data_dir,
            prefix: Sequence[str] = (),
            extra: Mapping[str, str] | None = None,
        ) -> Server:
            server = Server(data_dir, sections or {}, prefix=prefix, extra=extra)
            stack.push_async_callback(server.stop)
            await server.start()
            return server

        yield start  # type: ignore[misc]  # None selects the default


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Record:
    """Record a figure for the table; call it after all assertions about it."""

    def take(figure: Figure) -> None:
        assert figure.times > 0
        record_property(PROPERTY, packed(figure))

    return take


@pytest.fixture(autouse=True)
def _the_machine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Iterator[None]:
    """Give the machine to one test alone if it measures times, otherwise to several.

    Drills mostly wait, so two run at once (xdist); a test marked ``alone`` waits for the others.
    """
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent
    alone = request.node.get_closest_marker("alone") is not None
    with (base / "machine").open("w") as machine:
        # One test at a time passes this gate: otherwise others would overtake a test that waits.
        with (base / "gate").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of the drills that passed, if none was deselected by its mark."""
    if terminalreporter.config.option.markexpr:
        return
    figures = [
        unpacked(str(value))
        for report in terminalreporter.stats.get("passed", ())
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    terminalreporter.section("drills")
    for line in table(figures):
        terminalreporter.write_line(line)
