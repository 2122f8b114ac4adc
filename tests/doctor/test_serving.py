"""A real server, asked at its own address: well, not running, not ready, and not ours."""

from __future__ import annotations

import inspect
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy import __version__
from proxy.doctor import Verdict, looked, running
from proxy.doctor.http_client import ProbeResponse
from proxy.doctor.http_client.client import AiohttpProbe
from proxy.doctor.http_client.figures import read_figures
from proxy.doctor.serving import ImageProbe, look, look_at_picture
from proxy.doctor.table import PICTURE, RUNNING, SERVER
from proxy.doctor.touring import allowed_types
from proxy.domain.media import Media
from proxy.settings import Settings
from tests.benchmarks.servers import free_port
from tests.doctor.conftest import Diagnoses, diagnoses
from tests.support.server import Serve, Serving, make_settings


def unwell(found: Diagnoses) -> list[str]:
    return [name for name, one in found.items() if one.verdict in (Verdict.WARN, Verdict.FAIL)]


async def test_a_server_that_is_well(direct: AiohttpProbe) -> None:
    found = diagnoses(SERVER, await look(direct))
    assert unwell(found) == []
    assert found["server readiness"].seen == "ready: database, storage, renditions, workers"
    figures = await running.look(direct)
    assert running.version_of(figures) == __version__


async def test_pictures_of_a_server_that_is_well(
    direct: AiohttpProbe, settings: Settings, photo: Media, mark: str
) -> None:
    found = diagnoses(PICTURE, await look_at_picture(direct, settings, photo, mark))
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    told = "chrome image/avif, safari image/webp, anything image/jpeg"
    assert told in found["picture formats"].seen
    assert "public, max-age=31536000" in found["picture lifetime"].seen


async def test_a_server_that_is_not_running_is_told() -> None:
    async with AiohttpProbe(f"http://127.0.0.1:{free_port()}", timeout_s=5) as visitor:
        found = diagnoses(SERVER, await looked(look(visitor)))
        figures = diagnoses(RUNNING, await looked(running.look(visitor)))
    assert found["server"].verdict is Verdict.FAIL
    assert "Connection refused" in found["server"].seen
    assert "systemctl status smartserve" in found["server"].advice
    assert found["server readiness"].verdict is Verdict.SKIPPED
    assert {one.verdict for one in figures.values()} == {Verdict.SKIPPED}


def visitor_of(serving_: Serving) -> AiohttpProbe:
    return AiohttpProbe(str(serving_.client.make_url("/")), timeout_s=20)


async def test_a_part_that_is_not_ready_is_named(serve: Serve, data_dir: Path) -> None:
    server = await serve()
    shutil.rmtree(data_dir / "originals")
    async with visitor_of(server) as visitor:
        found = diagnoses(SERVER, await look(visitor))
    assert unwell(found) == ["server readiness"]
    assert found["server readiness"].seen.startswith("storage: ")
    assert found["server readiness"].advice == "see the checks of the originals"


async def test_a_server_that_is_being_stopped_is_told(server: Serving) -> None:
    server.surface.health.drain()
    async with visitor_of(server) as visitor:
        found = diagnoses(SERVER, await look(visitor))["server readiness"]
    assert (found.verdict, "draining" in found.seen) == (Verdict.FAIL, True)


async def test_a_picture_that_is_not_served_is_told_with_the_reason(
    serve: Serve, settings: Settings, photo: Media, mark: str, data_dir: Path
) -> None:
    server = await serve()
    shutil.rmtree(data_dir / "originals")
    async with visitor_of(server) as visitor:
        seen = await looked(look_at_picture(visitor, settings, photo, mark))
    found = diagnoses(PICTURE, seen)["picture formats"]
    assert found.verdict is Verdict.FAIL
    assert f"/serve/{photo.id} is answered 503: the storage of originals" in found.seen
    assert "answer_failed" in found.advice


async def test_without_a_picture_none_is_asked_for(
    direct: AiohttpProbe, settings: Settings, mark: str
) -> None:
    seen = await looked(look_at_picture(direct, settings, None, mark))
    assert {one.verdict for one in diagnoses(PICTURE, seen).values()} == {Verdict.SKIPPED}


async def test_another_program_at_that_address_is_told() -> None:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    async with TestServer(app) as server, AiohttpProbe(str(server.make_url("/")), timeout_s=5) as v:
        found = diagnoses(SERVER, await look(v))["server"]
        figures = diagnoses(RUNNING, await looked(running.look(v)))
    assert (found.verdict, "--url" in found.advice) == (Verdict.FAIL, True)
    assert {one.verdict for one in figures.values()} == {Verdict.SKIPPED}


async def test_settings_that_changed_since_the_start_are_told(
    direct: AiohttpProbe, tmp_path: Path, photo: Media, mark: str
) -> None:
    changed = make_settings(
        tmp_path, encoders={"order": ["webp", "jpeg"]}, lifetimes={"serve_s": 77}
    )
    found = diagnoses(PICTURE, await look_at_picture(direct, changed, photo, mark))
    assert unwell(found) == ["picture formats", "picture lifetime"]
    assert "restart" in found["picture formats"].advice
    assert "[lifetimes]" in found["picture lifetime"].advice


async def test_another_version_than_the_one_installed_is_told(direct: AiohttpProbe) -> None:
    seen = replace(await look(direct), version="0.0.1")
    found = diagnoses(SERVER, seen)["server version"]
    assert (found.verdict, "restart" in found.advice) == (Verdict.WARN, True)


@pytest.mark.parametrize(
    ("ahead_s", "verdict"), [(0, Verdict.OK), (-10, Verdict.WARN), (3600, Verdict.FAIL)]
)
async def test_a_clock_that_differs_is_told(ahead_s: float, verdict: Verdict) -> None:
    async def page(_request: web.Request) -> web.Response:
        date = formatdate(time.time() + ahead_s, usegmt=True)
        return web.json_response({"status": "alive"}, headers={"Date": date})

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    async with TestServer(app) as server, AiohttpProbe(str(server.make_url("/")), timeout_s=5) as v:
        found = diagnoses(SERVER, await look(v))["server clock"]
    assert (found.verdict, "NTP" in found.advice) == (verdict, verdict is not Verdict.OK)


Changed = Callable[[ImageProbe], ImageProbe]


def without(name: str, *, of: str) -> Changed:
    """A tour on which something in between took a header out of one answer."""

    def change(seen: ImageProbe) -> ImageProbe:
        answer: ProbeResponse = getattr(seen.tour, of)
        kept = {key: value for key, value in answer.headers.items() if key != name}
        cut = replace(answer, headers=kept)
        return replace(seen, tour=replace(seen.tour, **{of: cut}))

    return change


def whole_for_a_part(seen: ImageProbe) -> ImageProbe:
    return replace(seen, tour=replace(seen.tour, part=seen.tour.named))


def always_anew(seen: ImageProbe) -> ImageProbe:
    return replace(seen, tour=replace(seen.tour, again=seen.tour.named))


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (without("Vary", of="chrome"), "picture Vary"),
        (without("Content-Length", of="head"), "picture HEAD"),
        (always_anew, "picture 304"),
        (whole_for_a_part, "picture Range"),
    ],
)
async def test_what_stands_before_the_servers_own_address_is_noticed(
    change: Changed, check: str, direct: AiohttpProbe, settings: Settings, photo: Media, mark: str
) -> None:
    seen = change(await look_at_picture(direct, settings, photo, mark))
    found = diagnoses(PICTURE, seen)
    assert unwell(found) == [check]
    assert "what stands before it at --url" in found[check].advice


def test_what_a_transparent_or_unknown_picture_may_come_as(photo: Media) -> None:
    encoders = make_settings(Path("unused")).encoders
    assert photo.facts is not None
    clear = replace(photo, facts=replace(photo.facts, has_alpha=True))
    assert allowed_types(encoders, clear)["anything"] == ("image/png",)
    unknown = allowed_types(encoders, replace(photo, facts=None))
    assert set(unknown["anything"]) == {"image/jpeg", "image/png", "image/gif"}
    assert "image/avif" not in unknown["safari"]


def histogram(name: str, below: Mapping[str, int], labels: str = "") -> str:
    """The buckets of a histogram, by their bounds; none is above the last."""
    buckets = {**below, "+Inf": max(below.values())}
    before = f"{labels}," if labels else ""
    lines = [f'{name}_bucket{{{before}le="{at}"}} {count}' for at, count in buckets.items()]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("page", "check", "seen", "advice"),
    [
        (
            'smartserve_worker_restarts_total{reason="crash"} 3',
            "server workers",
            "ended by crash 3",
            "worker_died",
        ),
        ("smartserve_workers 0", "server workers", "0 up", "worker_start_failed"),
        ('smartserve_sandbox{feature="seccomp"} 0', "server sandbox", "seccomp", "sandbox_incom"),
        (
            'smartserve_requests_total{status="422",source="none"} 2',
            "refused pictures",
            "2 answers were 422",
            "quarantine",
        ),
        (
            'smartserve_rejections_total{reason="pressure"} 5',
            "rejections",
            "pressure 5",
            "smartserve warm",
        ),
        (
            'smartserve_cache_failures_total{kind="no_space"} 1',
            "disk failures",
            "no_space 1",
            "disk_max_bytes",
        ),
        ("smartserve_cache_corrupt_total 1", "disk failures", "damaged files 1", "dmesg"),
        (
            "smartserve_database_errors_total 4",
            "database failures",
            "4 of 0 queries failed",
            "max_connections",
        ),
        (
            'smartserve_source_errors_total{kind="timeout"} 1',
            "source failures",
            "timeout 1",
            "mount",
        ),
        ("smartserve_ingest_steps_hanging 2", "upload steps", "2 given up", "step_hangs"),
        (
            'smartserve_requests_total{status="500",source="none"} 1',
            "errors",
            "500 1",
            "request_failed",
        ),
        (
            'smartserve_connections_closed_total{reason="over_limit"} 9',
            "errors",
            "connections over the limit 9",
            "server.max_connections",
        ),
        (
            histogram("smartserve_loop_lag_seconds", {"0.1": 90, "1.0": 100}),
            "loop",
            "late by less than 1 s",
            "workers.count",
        ),
        (
            'smartserve_requests_total{status="200",source="disk"} 500\n'
            + histogram("smartserve_first_byte_seconds", {"0.1": 10, "0.25": 500}, 'source="disk"'),
            "hits",
            "below 250 ms",
            "quicker disk",
        ),
    ],
)
def test_figures_that_are_not_well_are_told(page: str, check: str, seen: str, advice: str) -> None:
    sound = ["smartserve_workers 2", 'smartserve_sandbox{feature="landlock"} 1']
    kept = [line for line in sound if line.split()[0] != page.split(maxsplit=1)[0]]
    found = diagnoses(RUNNING, read_figures("\n".join([*kept, page, ""]).encode()))
    assert unwell(found) == [check]
    assert seen in found[check].seen
    assert advice in found[check].advice


async def test_the_figures_of_a_live_server_are_well(server: Serving) -> None:
    async with visitor_of(server) as visitor:
        for _ in range(2):
            await visitor.ask("/serve/1?w=16&format=jpeg")
        found = diagnoses(RUNNING, await running.look(visitor))
    assert unwell(found) == []
    assert found["hits"].seen.startswith("50.0% of 2 pictures were there")
    assert found["server sandbox"].verdict is Verdict.OK


async def test_the_figures_that_are_looked_at_are_exported(server: Serving) -> None:
    """Else a check would be well for ever."""
    families = {family.name for family in server.rooms.metrics.registry.collect()}
    named = set(re.findall(r"smartserve_[a-z_]+", inspect.getsource(running)))
    assert len(named) > 12
    assert {name.removesuffix("_total") for name in named} <= families
