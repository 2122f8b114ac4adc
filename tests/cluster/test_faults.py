"""Faults of a cluster of three servers, each provoked under load: wrong bytes, errors, latency.

``make drill TESTS=tests/cluster`` prints the table.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from PIL import Image

from proxy.domain.request import WIDTHS
from tests.cluster.nodes import Cluster, cluster
from tests.support.server import CHROME, SAMPLES
from tests.support.waiting import eventually

pytestmark = pytest.mark.drill

_SECONDS = 6.0
_CLIENTS = 6
# Longer than the proxy_read_timeout of nginx, after which another server answers.
_TIMEOUT_S = 100
_NAMED = ("thumbnail", "grid", "detail")
Change = Callable[[Cluster], object]


@dataclass
class Load:
    """Requests through nginx, most of them for what is known, and what came back."""

    front: str
    images: int
    answers: int = 0
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    bodies: dict[str, str] = field(default_factory=dict)
    """Hashes by ETag: two servers must not use one ETag for different bytes."""

    def target(self) -> str:
        """Return a hit, or one time in ten a rendition that may be new."""
        media_id = random.randint(1, self.images)
        if random.random() < 0.1:
            return f"/serve/{media_id}?w={random.choice(WIDTHS[:12])}"
        return f"/serve/{media_id}?size={random.choice(_NAMED)}"

    async def run(self, seconds: float) -> None:
        """Send requests for a time."""
        limit = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(self.front, timeout=limit) as session:
            until = time.monotonic() + seconds
            await asyncio.gather(*(self._client(session, until) for _ in range(_CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession, until: float) -> None:
        while time.monotonic() < until:
            await self._request(session, self.target())

    async def _request(self, session: aiohttp.ClientSession, target: str) -> None:
        began = time.monotonic()
        self.answers += 1
        try:
            async with session.get(target, headers={"Accept": CHROME}) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.errors.append(repr(error))
            return
        self.seconds.append(time.monotonic() - began)
        if answer.status != 200:
            self.errors.append(f"{answer.status} {target}")
            return
        tag, digest = answer.headers["ETag"], hashlib.sha256(body).hexdigest()
        if self.bodies.setdefault(tag, digest) != digest:
            self.wrong.append(f"{target}: other bytes under {tag}")
        try:
            Image.open(io.BytesIO(body)).load()
        except OSError as error:
            self.wrong.append(f"{target}: {error}")

    def line(self, name: str) -> str:
        """Return the row of the table."""
        ordered = sorted(self.seconds) or [0.0]
        p50, p99 = (1000 * ordered[int(len(ordered) * part)] for part in (0.5, 0.99))
        share = len(self.errors) / max(1, self.answers)
        return f"{name:<34}{self.answers:>8}{share:>9.2%}{len(self.wrong):>7}{p50:>9.0f}{p99:>9.0f}"


@dataclass(frozen=True)
class Fault:
    """A fault, how it ends, and which share of requests may fail meanwhile."""

    name: str
    begin: Change
    end: Change
    errors: float = 0.0


def _signal(number: int, sent: signal.Signals) -> Change:
    return lambda running: os.kill(running.nodes[number].pid, sent)


def _nothing(_running: Cluster) -> None:
    return None


def _restart_redis(running: Cluster) -> None:
    running.redis.kill()
    running.redis.start()


def _purge(running: Cluster) -> None:
    running.command("purge", "--all", data_dir=running.nodes[0].log.with_suffix(".purge"))


FAULTS = (
    Fault("none", _nothing, _nothing),
    Fault("Redis: down", lambda one: one.redis.kill(), lambda one: one.redis.start()),
    Fault("Redis: hanging", lambda one: one.redis.pause(), lambda one: one.redis.resume()),
    Fault("Redis: restarted empty", _restart_redis, _nothing),
    Fault("S3: down", lambda one: one.s3.kill(), lambda one: one.s3.start()),
    Fault("S3: hanging", lambda one: one.s3.pause(), lambda one: one.s3.resume()),
    Fault("database: down", lambda one: one.mariadb.kill(), lambda one: one.mariadb.start(), 0.15),
    Fault(
        "database: hanging", lambda one: one.mariadb.pause(), lambda one: one.mariadb.resume(), 0.15
    ),
    Fault(
        "database: read-only",
        lambda one: one.mariadb.execute("SET GLOBAL read_only = 1"),
        lambda one: one.mariadb.execute("SET GLOBAL read_only = 0"),
    ),
    Fault("all images purged", _purge, _nothing),
    Fault(
        "a server: stopped (SIGSTOP)",
        _signal(2, signal.SIGSTOP),
        _signal(2, signal.SIGCONT),
    ),
    # Last: it does not come back.
    Fault("a server: killed", _signal(1, signal.SIGKILL), _nothing, 0.05),
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    images = sorted(one for one in SAMPLES.iterdir() if one.suffix in {".jpg", ".png"})
    with cluster(tmp_path_factory.mktemp("cluster"), images) as found:
        yield found


async def test_no_fault_causes_wrong_bytes_and_few_cause_errors(
    running: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    images = sum(one.suffix in {".jpg", ".png"} for one in SAMPLES.iterdir())
    warm = Load(running.front, images)
    await warm.run(2 * _SECONDS)
    assert (warm.errors, warm.wrong) == ([], [])
    head = f"{'fault':<34}{'requests':>8}{'errors':>9}{'wrong':>7}{'p50 ms':>9}{'p99 ms':>9}"
    lines, failed = [head], []
    for fault in FAULTS:
        load = Load(running.front, images)
        fault.begin(running)
        try:
            await load.run(_SECONDS)
        finally:
            fault.end(running)
        lines.append(load.line(fault.name))
        if load.wrong or len(load.errors) > fault.errors * load.answers:
            failed.append((fault.name, load.wrong[:3], load.errors[:5]))
        # Afterwards the cluster is as before: nothing hangs or fails for good.
        await eventually(lambda: _healthy(running, images), timeout_s=120, interval_s=1)
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert failed == []


async def _healthy(running: Cluster, images: int) -> bool:
    after = Load(running.front, images)
    await after.run(1.0)
    return not after.errors and not after.wrong
