"""The dashboard: valid as a file, and every query answered by a live Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from io import BytesIO
from itertools import combinations, count, cycle
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from proxy.domain.request import WIDTHS
from proxy.domain.upload import UPLOAD_FIELDS
from tests.deploy.conftest import TWO_STAGES, Started
from tests.deploy.programs import DEPLOY
from tests.deploy.watch import Prometheus, board, panels, prometheus, queries
from tests.faults.responses import fetch
from tests.platform.pictures import Picture, jpeg
from tests.platform.sending import SECRET, send, token
from tests.support.server import CHROME, Library
from tests.support.waiting import eventually

_WITHIN_S = 100.0
_UNITS = {"s", "ops", "reqps", "percentunit", "bytes", "Bps", "none", "bool_yes_no"}


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition is true; metrics change with each scrape."""
    await eventually(done, timeout_s=_WITHIN_S, interval_s=0.5)


@pytest.fixture
async def watched(started: Started, library: Library, tmp_path: Path) -> AsyncIterator[Prometheus]:
    """Run a Prometheus that watches a server under continuous requests and uploads."""
    metadata = {"temp_root": tmp_path / "metaextract", "engines": 1}
    server = await started({**TWO_STAGES, "users": {"jwt_secret": SECRET}, "metadata": metadata})
    with prometheus(tmp_path / "prometheus", target=server.port) as one:
        users = [
            asyncio.create_task(_visit(server.base, sorted(library.ids.values()))),
            asyncio.create_task(_upload(server.base)),
            asyncio.create_task(_extract(server.base)),
        ]
        yield one
        assert not [user for user in users if user.done()]
        for user in users:
            user.cancel()
        await asyncio.gather(*users, return_exceptions=True)


async def _visit(base: str, ids: list[int]) -> None:
    """Send ten misses a second, in formats that have two stages, and a hit after each."""
    kinds = [
        (f"/serve/{media_id}?w={width}", accept)
        for width in WIDTHS
        for media_id in ids
        for accept in (CHROME, "image/webp", "*/*")
    ]
    async with aiohttp.ClientSession(base) as client:
        for target, accept in cycle(kinds):
            for _ in range(2):
                await fetch(client, target, Accept=accept)
            await asyncio.sleep(0.1)


async def _upload(base: str) -> None:
    """Upload a small image each second, of all purposes in turn."""
    for number, field in enumerate(cycle(UPLOAD_FIELDS), start=1):
        await send(
            base, number, Picture("small.jpg", field, jpeg(160, 120, seed=number), servable=True)
        )
        await asyncio.sleep(1)


async def _extract(base: str) -> None:
    """Have the metadata of another image extracted each second."""
    headers = {"Authorization": f"Bearer {token(1)}"}
    async with aiohttp.ClientSession(base) as client:
        for number in count():
            form = aiohttp.FormData()
            form.add_field("file", BytesIO(jpeg(160, 120, seed=number)), filename="small.jpg")
            async with client.post("/api/extract", data=form, headers=headers) as answer:
                assert answer.status == 200
            await asyncio.sleep(1)


@pytest.mark.slow
async def test_every_query_of_the_dashboard_returns_data(watched: Prometheus) -> None:
    left = queries()
    assert len(left) >= 80

    async def all_answered() -> bool:
        for name, query in list(left.items()):
            if await watched.values(query):
                del left[name]
        return not left

    try:
        await until(all_answered)
    except TimeoutError:
        pytest.fail(f"without an answer: {left}")
    await _assert_healthy(watched)


async def _assert_healthy(watched: Prometheus) -> None:
    """Assert that all targets are up, all rules evaluate, and no alert fires."""
    targets = (await watched.fetch("targets"))["activeTargets"]
    assert {(one["labels"]["job"], one["health"]) for one in targets} == {
        ("smartserve", "up"),
        ("smartserve-readyz", "up"),
    }

    async def probed() -> bool:
        # On a busy machine a single probe may be late.
        return await watched.values('probe_success{job="smartserve-readyz"}') == [1]

    await until(probed)
    rules = [rule for group in (await watched.fetch("rules"))["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    # Answers are slow where other programs use all processors; `rules_test.yml` shows that this
    # alert does not fire otherwise.
    assert await _firing(watched) - {"SmartserveSandboxGap", "SmartserveAnswersSlow"} == set()
    names = [rule["name"] for rule in rules if rule["type"] == "recording"]

    async def all_recorded() -> bool:
        """Rules are evaluated at their own times, some before there is a rate."""
        return all([await watched.values(name) for name in names])

    await until(all_recorded)


async def _firing(watched: Prometheus) -> set[str]:
    alerts = (await watched.fetch("alerts"))["alerts"]
    return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}


def test_the_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in board()["panels"]]
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
    assert max(place["x"] + place["w"] for place in places) == 24


def test_each_panel_has_a_title_an_id_and_a_unit() -> None:
    assert len({panel["id"] for panel in board()["panels"]}) == len(board()["panels"])
    assert len({panel["title"] for panel in panels()}) == len(panels())
    assert {panel["fieldConfig"]["defaults"]["unit"] for panel in panels()} <= _UNITS


def test_every_panel_uses_the_selected_source_and_servers() -> None:
    names = {variable["name"] for variable in board()["templating"]["list"]}
    assert names == {"datasource", "instance"}
    for panel in panels():
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'instance=~"$instance"' in target["expr"]


def test_grafana_finds_source_and_dashboards_where_compose_mounts_them() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    sources: Any = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())
    providers: Any = yaml.safe_load((folder / "dashboards" / "smartserve.yaml").read_text())
    assert sources["datasources"][0]["url"] == "http://prometheus:9090"
    assert providers["providers"][0]["options"]["path"] == "/etc/grafana/dashboards"
