"""Checks of the running server: a real one in this process, and fakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from proxy import __version__
from proxy.doctor.check import Verdict
from proxy.doctor.probe import ProbeResponse
from proxy.domain.media import Media
from proxy.settings import Settings
from tests.doctor.conftest import FakeProbe, Findings, problems, response, run_area
from tests.support.server import Serve, Serving, make_settings


async def check(server: Serving, settings: Settings, media: Media | None) -> Findings:
    url = str(server.client.make_url("/"))
    return await run_area("server", settings, url=url, media=media)


async def test_a_sound_server_passes_all_checks(
    shared: Serving, settings: Settings, photo: Media
) -> None:
    found = await check(shared, settings, photo)
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert found["server readiness"].seen == "ready: database, storage, renditions, purges, workers"
    assert found["server version"].seen == f"{__version__} runs, and is installed"
    types = "chrome image/avif, safari image/webp, anything image/jpeg"
    assert types in found["served formats"].seen


async def test_other_encoders_than_those_of_the_settings_fail(
    shared: Serving, tmp_path: Path, photo: Media
) -> None:
    changed = make_settings(tmp_path, encoders={"order": ["webp", "jpeg"]})
    found = await check(shared, changed, photo)
    assert problems(found) == {"served formats": Verdict.FAIL}
    assert "restart" in found["served formats"].advice


async def test_a_part_that_is_not_ready_is_named(
    serve: Serve, settings: Settings, photo: Media, data_dir: Path
) -> None:
    server = await serve()
    shutil.rmtree(data_dir / "originals")
    found = await check(server, settings, photo)
    assert found["server readiness"].seen.startswith("storage: ")
    assert "see the checks" in found["server readiness"].advice
    assert (
        f"/serve/{photo.id} answers 503: the storage of originals" in found["served formats"].seen
    )
    assert "answer_failed" in found["served formats"].advice


async def test_without_an_image_none_is_requested(shared: Serving, settings: Settings) -> None:
    found = await check(shared, settings, None)
    assert found["served formats"].verdict is Verdict.SKIPPED


async def test_a_server_that_is_not_running_blocks_the_other_checks(settings: Settings) -> None:
    found = await run_area("server", settings, server=FakeProbe(lambda *_: None))
    assert problems(found) == {"server": Verdict.FAIL}
    assert "Connection refused" in found["server"].seen
    assert "systemctl status smartserve" in found["server"].advice


async def test_another_program_at_the_address_fails(settings: Settings) -> None:
    page = response(b"<html>", headers={"Content-Type": "text/html"})
    found = await run_area("server", settings, server=FakeProbe(lambda *_: page))
    assert problems(found) == {"server": Verdict.FAIL}
    assert "--url" in found["server"].advice


def server_with(**answers: ProbeResponse) -> FakeProbe:
    """Return a server that is alive, with other answers by path."""
    sound = {"healthz": response(b'{"status": "alive"}'), "readyz": response(b"{}")} | answers

    return FakeProbe(lambda _method, target: sound.get(target.strip("/"), response()))


async def test_a_server_that_is_being_stopped_fails(settings: Settings) -> None:
    draining = response(b'{"status": "draining"}', status=503)
    found = await run_area("server", settings, server=server_with(readyz=draining))
    assert found["server readiness"].seen == "/readyz answers 503: draining"


async def test_a_worker_that_is_missing_is_explained(settings: Settings) -> None:
    body = json.dumps({"checks": {"workers": "none is up", "database": "ok"}}).encode()
    found = await run_area(
        "server", settings, server=server_with(readyz=response(body, status=503))
    )
    assert found["server readiness"].seen == "workers: none is up"
    assert "worker_start_failed" in found["server readiness"].advice


@pytest.mark.parametrize(
    ("page", "verdict"),
    [
        (b'smartserve_build_info{version="0.0.1"} 1.0\n', Verdict.WARN),
        (b"<html>", Verdict.SKIPPED),
    ],
)
async def test_the_version_that_runs_is_compared_with_the_installed_one(
    page: bytes, verdict: Verdict, settings: Settings
) -> None:
    found = await run_area("server", settings, server=server_with(metrics=response(page)))
    assert found["server version"].verdict is verdict


async def test_a_fallback_warns(settings: Settings, photo: Media) -> None:
    def answer(_method: str, target: str) -> ProbeResponse:
        if target == "/healthz":
            return response(b'{"status": "alive"}')
        return response(
            headers={"Content-Type": "image/png", "Cache-Status": "smartserve; detail=fallback"}
        )

    found = await run_area("server", settings, server=FakeProbe(answer), media=photo)
    assert (found["served formats"].verdict, "fallback" in found["served formats"].advice) == (
        Verdict.WARN,
        True,
    )
