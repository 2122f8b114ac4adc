"""A server in a container that needs no Docker; see `tests.deploy.container`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.benchmarks.processes import family
from tests.benchmarks.servers import environment
from tests.deploy import container
from tests.deploy.programs import run
from tests.faults.responses import fetch
from tests.support.ports import free_port
from tests.support.server import ROOT
from tests.support.unavailable import unavailable
from tests.support.waiting import eventually


@dataclass(frozen=True, slots=True)
class Contained:
    """A running server; it is process 1 of its container."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def base(self) -> str:
        """The server's URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id outside the container."""
        return family(self.process.pid)[1]

    async def until_ready(self, client: aiohttp.ClientSession) -> None:
        """Return when ``/readyz`` answers 200."""

        async def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return (await fetch(client, "/readyz")).status == 200

        await eventually(ready, timeout_s=60)

    async def sandbox_features(self, client: aiohttp.ClientSession) -> set[str]:
        """Return the sandbox features of its workers."""
        metrics = (await fetch(client, "/metrics")).body.decode()
        return set(
            re.findall(r'^smartserve_sandbox\{feature="(\w+)"\} 1.0$', metrics, re.MULTILINE)
        )


@contextmanager
def contained(
    folder: Path,
    data_dir: Path,
    command: Sequence[str],
    *,
    settings: Mapping[str, str],
    only: Collection[str] = (),
) -> Iterator[Contained]:
    """Run a command as process 1 of a container, over a data directory, on a free port.

    ``only`` are the allowed system calls; without it those of Docker are allowed.
    """
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False)
    if os.geteuid() != 0 or tried.returncode:
        unavailable("a namespace of mounts and processes cannot be created here")
    port = free_port()
    (folder / "root").mkdir()
    run("chown", "-R", f"{container.UID}:{container.UID}", data_dir)
    given = dict(settings) | {
        "SMARTSERVE_SERVER__PORT": str(port),
        "SMARTSERVE_ADMIN__ENABLED": "false",
        "SMARTSERVE_WORKERS__REQUIRE_SANDBOX": "true",
        "SMARTSERVE_WORKERS__COUNT": "2",
        "SMARTSERVE_UPGRADES__ENABLED": "false",
    }
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    inside = [sys.executable, "-m", "tests.deploy.container", f"--only={','.join(only)}"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*apart, *inside, str(folder / "root"), str(data_dir), "--", *command],
            env=environment() | given,
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    try:
        yield Contained(process, port, log)
    finally:
        process.kill()
        process.wait()
