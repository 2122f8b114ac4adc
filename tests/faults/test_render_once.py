"""Row 20 on three nodes: equal misses cost one render, whatever happens to the node that has it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Launch
from tests.faults.herd import HERD, ClientGroup, ClientResponse, gathered, response
from tests.faults.server import Sections, Server
from tests.faults.table import Figure, Record
from tests.support.redis import RedisServer
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_NODES = 3
_LIMIT_S = 60.0
_RUNS = 20
_FEW_RUNS = 3
_QUERIES = [
    f"w={width}&format={form}"
    for form in ("webp", "jpeg", "avif")
    for width in (640, 384, 256, 128, 96, 64, 32)
]
"""As many different renditions as there are runs."""


@dataclass(frozen=True)
class Cluster:
    """Three servers with the same images."""

    nodes: Sequence[Server]
    library: Library
    redis: RedisServer | None

    def target(self, query: str) -> str:
        return f"/serve/{self.library.ids['large']}?{query}"

    async def renders(self, nodes: Sequence[Server] | None = None) -> float:
        """Return how many renders the nodes have had together."""
        counts = [
            await node.metric("smartserve_render_seconds_count") for node in nodes or self.nodes
        ]
        return sum(counts)

    async def herd(self, query: str, count: int = HERD) -> set[ClientResponse]:
        """Return the different responses to equal requests, spread over the nodes."""
        async with AsyncExitStack() as stack:
            groups = [
                await stack.enter_async_context(
                    gathered(node, self.target(query), -(-count // len(self.nodes)))
                )
                for node in self.nodes
            ]
            asking = [one for group in groups for one in group.send()]
            async with asyncio.timeout(_LIMIT_S):
                return set(await asyncio.gather(*(response(reader) for reader, _ in asking)))


@pytest.fixture(params=["directory", "redis", "redis, own directories"])
async def cluster(
    request: pytest.FixtureRequest, launch: Launch, library: Library, tmp_path: Path
) -> Cluster:
    """Start servers that share database and originals, and the renditions or a Redis, or both."""
    shared = library.copy(tmp_path / "shared")
    (shared / "renditions").mkdir(exist_ok=True)
    redis: RedisServer | None = None
    sections: dict[str, dict[str, Any]] = {
        "database": {"url": f"sqlite+aiosqlite:///{shared / 'smartserve.db'}"},
        "storage": {"root": shared / "originals"},
        "workers": {"count": 1},
        "cluster": {"render_once": True},
    }
    if request.param != "redis, own directories":
        sections["renditions"] = {"directory": shared / "renditions"}
    if request.param != "directory":
        redis = request.getfixturevalue("redis")
        sections["cluster"] = {"redis_url": redis.url}
    nodes = [
        await launch(sections, data_dir=tmp_path / f"node{number}") for number in range(_NODES)
    ]
    return Cluster(nodes, library, redis)


async def _one_render_each(cluster: Cluster, runs: int) -> None:
    for run, query in enumerate(islice(_QUERIES, runs), 1):
        answers = await cluster.herd(query)
        assert len(answers) == 1
        assert {answer.status for answer in answers} == {200}
        assert await cluster.renders() == run


async def test_equal_misses_on_three_nodes_cost_one_render(cluster: Cluster) -> None:
    await _one_render_each(cluster, _FEW_RUNS)


async def test_equal_misses_on_the_processes_of_one_server_cost_one_render(
    launch: Launch, library: Library
) -> None:
    """Nothing has to be configured for it: the processes share the rendition directory."""
    sections: Sections = {"server": {"processes": _NODES}, "workers": {"count": _NODES}}
    server = await launch(sections)

    async def all_serve() -> bool:
        return await server.metric("smartserve_processes") == _NODES

    await eventually(all_serve)
    await _one_render_each(Cluster([server], library, None), _FEW_RUNS)


@pytest.mark.drill
async def test_equal_misses_on_three_nodes_cost_one_render_in_all_of_twenty_runs(
    cluster: Cluster, request: pytest.FixtureRequest, record: Record
) -> None:
    await _one_render_each(cluster, _RUNS)
    way = request.node.callspec.params["cluster"]
    record(Figure(20, f"three nodes, {way}", HERD * _RUNS, 0, f"1 render in {_RUNS} of {_RUNS}"))


Harm = Callable[[Server], Awaitable[None]]


async def killed(node: Server) -> None:
    await node.kill()


async def stopped(node: Server) -> None:
    node.signal(signal.SIGSTOP)


@pytest.mark.drill
@pytest.mark.parametrize("harm", [killed, stopped], ids=["killed", "stopped"])
@pytest.mark.parametrize(
    "query", ["w=1920&format=avif", "w=1920&format=jpeg"], ids=["at its end", "streamed"]
)
async def test_a_node_that_ends_in_a_render_leaves_whole_answers_to_the_others(
    cluster: Cluster, harm: Harm, query: str, record: Record
) -> None:
    """The clients of the dead node get no answer; those of the others wait 1.5 s at most."""
    leader, *others = cluster.nodes
    target = cluster.target(query)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(gathered(leader, target, 1))
        groups = [await stack.enter_async_context(gathered(one, target, 50)) for one in others]
        await _begun(leader, first)
        asking = [one for group in groups for one in group.send()]
        await harm(leader)
        try:
            async with asyncio.timeout(_LIMIT_S):
                answers = set(await asyncio.gather(*(response(reader) for reader, _ in asking)))
        finally:
            if harm is stopped:
                leader.signal(signal.SIGCONT)
    assert {answer.status for answer in answers} == {200}
    assert len(answers) == 1
    renders = await cluster.renders(others)
    assert renders <= len(others)
    name = f"the rendering node is {harm.__name__}"
    record(Figure(20, name, len(asking), 0, f"{renders:.0f} renders by the others"))


async def _begun(leader: Server, group: ClientGroup) -> None:
    """Send a request; return when the node's worker has begun the render, or even ended it."""
    group.send(1)

    async def reached() -> bool:
        busy = await leader.metric("smartserve_renders_in_flight")
        return busy + await leader.metric("smartserve_render_seconds_count") >= 1

    await eventually(reached)


@pytest.mark.drill
@pytest.mark.parametrize("cluster", ["redis", "redis, own directories"], indirect=True)
@pytest.mark.parametrize("fault", ["killed", "hanging", "emptied"])
async def test_without_redis_each_node_renders_once_at_worst(
    cluster: Cluster, fault: str, record: Record
) -> None:
    redis = cluster.redis
    assert redis is not None
    assert len(await cluster.herd("w=384&format=webp")) == 1
    before = await cluster.renders()
    match fault:
        case "killed":
            redis.kill()
        case "hanging":
            redis.pause()
        case "emptied":
            redis.execute("FLUSHALL")
    answers = await cluster.herd("w=640&format=webp")
    assert {answer.status for answer in answers} == {200}
    assert len(answers) == 1
    renders = await cluster.renders() - before
    assert 1 <= renders <= _NODES
    record(Figure(20, f"three nodes, Redis {fault}", HERD, 0, f"{renders:.0f} renders"))


async def test_one_node_makes_each_final(launch: Launch, library: Library, tmp_path: Path) -> None:
    shared = library.copy(tmp_path / "shared")
    (shared / "renditions").mkdir(exist_ok=True)
    sections: Sections = {
        "database": {"url": f"sqlite+aiosqlite:///{shared / 'smartserve.db'}"},
        "storage": {"root": shared / "originals"},
        "renditions": {"directory": shared / "renditions"},
        "workers": {"count": 1},
        "cluster": {"render_once": True},
        # On a busy machine idle priority could mean never.
        "upgrades": {
            "enabled": True,
            "budget_s": 0,
            "all_sizes": False,
            "idle_priority": False,
        },
        "encoders__avif__final": {"effort": 1},
    }
    nodes = [
        await launch(sections, data_dir=tmp_path / f"node{number}") for number in range(_NODES)
    ]
    target = f"/serve/{library.ids['photo']}?size=grid&format=avif"

    async def final(node: Server) -> bool:
        async with node.client() as client, client.get(target) as answer:
            assert answer.status == 200
            return "draft" not in answer.headers["Cache-Status"]

    async def final_everywhere() -> bool:
        return all([await final(node) for node in nodes])

    await eventually(final_everywhere, timeout_s=240)
    made = [await node.metric("smartserve_upgrade_seconds_count") for node in nodes]
    assert sum(made) == 1
