"""Faults of a cluster of three servers, each provoked under load.

``make drill TESTS=tests/cluster`` prints the table: wrong bytes, lost uploads, errors, latency. Add
``-k "S3"`` for some of the faults.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count

import aiohttp
import pytest
import pytest_asyncio

from tests.cluster.faulty_s3 import S3Fault
from tests.cluster.load import HEAD, NAMED, Load, Uploads, check_uploads, colours, plain_images
from tests.cluster.nodes import Cluster, cluster
from tests.faults.server import Sections, Server
from tests.faults.test_clock import WallClock
from tests.platform.ledger import MariaLedger
from tests.support.server import CHROME, SAMPLES
from tests.support.waiting import eventually, pause_between_pieces

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]

_SECONDS = 6.0
_PLAIN = 12
"""So many images that each server has some of them, wherever its port places it."""
_HOUR_S = 3600
_FAIL_TIMEOUT_S = 3
"""Of ``deploy/nginx/cluster.conf``."""
_SLOW_DATABASE_S = 0.1
_CHANGED: Sections = {
    # So small that the disk and the bucket are read as well.
    "renditions": {"memory_max_bytes": 128 * 1024},
    # Enough for a busy machine.
    "database": {"connect_timeout_s": 10, "query_timeout_s": 10},
    # The machine is never idle here. Of 13 named sizes in 4 formats the load requests a few.
    "upgrades": {"idle_priority": False, "all_sizes": False},
    # Whoever is killed is missed soon, and what failed by that is tried again soon.
    "ingest": {
        "poll_interval_s": 2,
        "lease_s": 5,
        "retry_backoff_s": 2,
        "max_retry_backoff_s": 5,
        # Nothing but their processing is asked here, so they are rendered at their first request,
        # and no server starts four processes for metadata.
        "renditions": "none",
        "extract_metadata": False,
    },
}
Change = Callable[[Cluster], Awaitable[None] | None]
Check = Callable[[Cluster, Load], Awaitable[str]]


@dataclass(frozen=True)
class Fault:
    """A fault, how it ends, and which share of requests may fail meanwhile."""

    name: str
    begin: Change
    end: Change
    errors: float = 0.0
    refuses: bool = False
    """Whether uploads may be refused meanwhile."""
    meanwhile: Change | None = None
    """Done under load, which goes on until it is complete."""
    check: Check | None = None
    """Returns what is wrong after the load; empty if nothing."""
    named_only: bool = False


def _blocking(change: Callable[[Cluster], object]) -> Change:
    async def apply(running: Cluster) -> None:
        await asyncio.to_thread(change, running)

    return apply


def _signal(number: int, sent: signal.Signals) -> Change:
    return lambda running: running.nodes[number].signal(sent)


def _nothing(_running: Cluster) -> None:
    return None


def _restart_redis(running: Cluster) -> None:
    running.parts.redis.kill()
    running.parts.redis.start()


def _purge(running: Cluster) -> None:
    folder = running.nodes[0].data_dir.with_name("purge")
    running.command("purge", "--all", data_dir=folder)


def _execute(statement: str) -> Change:
    return _blocking(lambda running: running.parts.mariadb.execute(statement))


def _s3(fault: S3Fault) -> Fault:
    """Return a fault of the S3 server while nothing but small parts is in memory."""

    def begin(running: Cluster) -> None:
        _forget(running)
        running.parts.faulty_s3.injected = 0
        running.parts.faulty_s3.fault = fault

    def end(running: Cluster) -> None:
        running.parts.faulty_s3.fault = S3Fault.NONE

    async def check(running: Cluster, _load: Load) -> str:
        return "" if running.parts.faulty_s3.injected else "the bucket was not read"

    return Fault(f"S3: {_S3_NAMES[fault]}", begin, end, check=check)


_S3_NAMES = {
    S3Fault.SLOW: "slow (0.7 s an answer)",
    S3Fault.DENIED: "403",
    S3Fault.NO_BUCKET: "404, no such bucket",
    S3Fault.TRUNCATED: "truncated objects",
    S3Fault.BROKEN: "connections break",
}


def _forget(running: Cluster) -> None:
    """Delete all renditions on the disks of the servers, as an eviction does."""
    for node in running.nodes:
        for file in (node.data_dir / "renditions").glob("??/*/*"):
            # Another process may have deleted it, as a draft that was replaced.
            file.unlink(missing_ok=True)


def _slow_database(running: Cluster) -> None:
    running.parts.database_link.delay_s = _SLOW_DATABASE_S


def _normal_database(running: Cluster) -> None:
    running.parts.database_link.delay_s = 0.0


def _cut_off(running: Cluster) -> None:
    assert running.parts.host is not None
    running.parts.host.cut_off()


def _connect(running: Cluster) -> None:
    assert running.parts.host is not None
    running.parts.host.connect()


async def _replace(
    node: Server, sections: Sections | None = None, variables: Mapping[str, str] | None = None
) -> None:
    """Stop a server and start it with other settings on the same port."""
    await node.stop()
    node.change(sections or {}, extra=variables)
    await node.start()
    await node.until_ready(60)


async def _set_clock_ahead(running: Cluster) -> None:
    node = running.nodes[-1]
    clock = WallClock(node.data_dir)
    # While it runs: a server with a wrong clock does not start, because S3 refuses its signatures.
    await _replace(node, variables=clock.variables)
    clock.jump(_HOUR_S)


async def _set_clock_right(running: Cluster) -> None:
    await _replace(running.nodes[-1])


async def _upgrade(running: Cluster) -> None:
    """Replace one server after the other by one with another recipe, as `cluster.conf` says."""
    for node in running.nodes:
        await _replace(node, {"encoders__avif__draft": {"quality": 58}})
        await pause_between_pieces(_FAIL_TIMEOUT_S)


async def _empty_one(running: Cluster) -> None:
    """Start a server without its renditions when the others have, and the bucket has, all."""
    await _settled(running)
    node = running.nodes[1]
    await node.stop()
    await asyncio.to_thread(shutil.rmtree, node.data_dir / "renditions")
    await node.start()
    await node.until_ready(60)


async def _filled_from_the_bucket(running: Cluster, _load: Load) -> str:
    node = running.nodes[1]
    renders = await node.metric("smartserve_render_seconds_count")
    hits = await node.metric("smartserve_object_tier_reads_total", outcome="hit")
    # Uploads of the load have widths that nobody has requested.
    return "" if hits and not renders else f"{renders:.0f} renders, {hits:.0f} read from the bucket"


async def _settled(running: Cluster) -> None:
    """Wait until the bucket has all finals of the named sizes."""

    async def settled() -> bool:
        drafts, waiting = 0, 0.0
        async with aiohttp.ClientSession(running.front, headers={"Accept": CHROME}) as client:
            for media_id in running.images.values():
                for size in NAMED:
                    async with client.get(f"/serve/{media_id}?size={size}") as answer:
                        await answer.read()
                        drafts += "max-age=60," in answer.headers["Cache-Control"]
        for node in running.nodes:
            waiting += await node.metric("smartserve_object_tier_queued_bytes")
        return not (drafts or waiting)

    await eventually(settled, timeout_s=240, interval_s=0.5)


async def _kill(running: Cluster) -> None:
    await running.nodes[1].kill()


async def _start_again(running: Cluster) -> None:
    await running.nodes[1].start()


FAULTS = (
    Fault("none", _nothing, _nothing),
    Fault(
        "Redis: down",
        _blocking(lambda one: one.parts.redis.kill()),
        _blocking(lambda one: one.parts.redis.start()),
    ),
    Fault(
        "Redis: hanging",
        lambda one: one.parts.redis.pause(),
        lambda one: one.parts.redis.resume(),
    ),
    Fault("Redis: restarted empty", _blocking(_restart_redis), _nothing),
    Fault(
        "S3: down",
        _blocking(lambda one: one.parts.s3.kill()),
        _blocking(lambda one: one.parts.s3.start()),
    ),
    Fault("S3: hanging", lambda one: one.parts.s3.pause(), lambda one: one.parts.s3.resume()),
    *map(_s3, _S3_NAMES),
    Fault(
        "database: down",
        _blocking(lambda one: one.parts.mariadb.kill()),
        _blocking(lambda one: one.parts.mariadb.start()),
        errors=0.02,
        refuses=True,
    ),
    Fault(
        "database: hanging",
        lambda one: one.parts.mariadb.pause(),
        lambda one: one.parts.mariadb.resume(),
        errors=0.02,
        refuses=True,
    ),
    Fault(f"database: slow ({_SLOW_DATABASE_S:g} s a packet)", _slow_database, _normal_database),
    Fault(
        "database: read-only",
        _execute("SET GLOBAL read_only = 1"),
        _execute("SET GLOBAL read_only = 0"),
        refuses=True,
    ),
    Fault(
        "a server: cold start",
        _empty_one,
        _nothing,
        check=_filled_from_the_bucket,
        named_only=True,
    ),
    Fault("all images purged", _blocking(_purge), _nothing),
    Fault(
        "a server: stopped (SIGSTOP)",
        _signal(2, signal.SIGSTOP),
        _signal(2, signal.SIGCONT),
        refuses=True,
    ),
    Fault("a server: cut off", _cut_off, _connect, refuses=True),
    Fault("a server: clock an hour ahead", _set_clock_ahead, _set_clock_right),
    Fault("a server: killed", _kill, _start_again, errors=0.05, refuses=True),
    # A server that stops may close a connection on which an upload is being sent.
    Fault("rolling upgrade", _nothing, _nothing, refuses=True, meanwhile=_upgrade),
)


async def _apply(change: Change, running: Cluster) -> None:
    done = change(running)
    if done is not None:
        await done


@dataclass
class Drill:
    """The cluster, and the loads that it was under."""

    running: Cluster
    rows: list[tuple[str, Load]] = field(default_factory=list)
    others: list[Load] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)

    def load(self, *, named_only: bool = False) -> Load:
        """Return a load whose uploads differ from those of all other loads."""
        known, images = colours(self.running.images), list(self.running.images.values())
        uploads = Uploads(self._numbers)
        return Load(self.running.front, known, images, uploads, named_only=named_only)

    async def healthy(self) -> bool:
        """Return whether everything succeeds."""
        load = self.load()
        self.others.append(load)
        await load.run(1.0)
        return not (load.errors or load.wrong or load.uploads.refused)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def drill(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> AsyncIterator[Drill]:
    """Start the cluster and fill it; afterwards print the table, and check all uploads."""
    folder = tmp_path_factory.mktemp("cluster")
    images = sorted(one for one in SAMPLES.iterdir() if one.suffix in {".jpg", ".png"})
    images += plain_images(folder / "plain", _PLAIN)
    async with cluster(folder, images, _CHANGED) as running:
        started = Drill(running)
        # A busy machine may answer with 503 at first: all images are new, and no cache has them.
        await eventually(started.healthy, timeout_s=120)
        await started.others[-1].run(2 * _SECONDS)
        yield started
        loads = [*started.others, *(load for _, load in started.rows)]
        await check_uploads(loads, MariaLedger(running.parts.mariadb, running.parts.database))
        capture = pytestconfig.pluginmanager.getplugin("capturemanager")
        with nullcontext() if capture is None else capture.global_and_fixture_disabled():
            print("\n".join(["", HEAD, *(load.line(name) for name, load in started.rows)]))
        # Also those of the times between the faults.
        assert [load.uploads.lost for load in loads if load.uploads.lost] == []
        assert [load.wrong for load in loads if load.wrong] == []


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
async def test_no_fault_causes_wrong_bytes_and_few_cause_errors(drill: Drill, fault: Fault) -> None:
    running = drill.running
    if fault.begin is _cut_off and running.parts.host is None:
        pytest.skip("only root may make a network namespace")
    load, found = drill.load(named_only=fault.named_only), ""
    drill.rows.append((fault.name, load))
    await _apply(fault.begin, running)
    try:
        meanwhile = () if fault.meanwhile is None else (_apply(fault.meanwhile, running),)
        await load.run(_SECONDS, meanwhile)
        if fault.check is not None:
            found = await fault.check(running, load)
    finally:
        await _apply(fault.end, running)
    # Afterwards the cluster is as before: nothing hangs or fails for good.
    await eventually(drill.healthy, timeout_s=120, interval_s=1)
    assert (found, load.wrong) == ("", [])
    assert len(load.errors) <= fault.errors * load.answers, load.errors[:5]
    assert fault.refuses or load.uploads.refused == []
