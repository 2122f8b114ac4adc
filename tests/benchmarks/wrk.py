"""wrk: the load generator."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tests.benchmarks.servers import Address, Unmeasurable, program

CONNECTIONS = 32
_TIMEOUT_S = 20
_SUMMARY = re.compile(r"^SUMMARY (\d+) (\d+) (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Load:
    """The result of wrk, without any failure."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def load(
    address: Address,
    target: str,
    *,
    accept: str,
    seconds: int,
    connections: int = CONNECTIONS,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Load:
    """Request one target repeatedly, with one thread.

    Raises:
        Unmeasurable: a response was no success, or a connection failed.
    """
    arguments = ["--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    # By default wrk counts answers after two seconds as errors, and not their latency.
    arguments += ["--timeout", f"{_TIMEOUT_S}s"]
    script = Path(__file__).with_name("summary.lua")
    for name, value in {"Accept": accept, **headers}.items():
        arguments += ["--header", f"{name}: {value}"]
    url = f"http://{address[0]}:{address[1]}{target}"
    done = subprocess.run(
        [program("wrk"), *arguments, "--script", script, url],
        check=False,
        capture_output=True,
        text=True,
    )
    match = _SUMMARY.search(done.stdout)
    if match is None:
        raise Unmeasurable(f"wrk failed: {done.stdout}{done.stderr}")
    requests, microseconds, refused, broken, late = map(int, match.groups()[:5])
    if refused or broken or late or not requests:
        raise Unmeasurable(
            f"of {requests} answers from {url} {refused} were no success; "
            f"{broken} connections failed and {late} answers were late"
        )
    p50_ms, p99_ms = (float(latency) / 1000 for latency in match.groups()[5:])
    return Load(requests, microseconds / 1e6, p50_ms, p99_ms)
