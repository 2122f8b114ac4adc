"""The serving subsystem of a running process."""

from __future__ import annotations

from pathlib import Path

from proxy.app.serving import open_leases
from tests.support.server import Library, Serve, Serving, make_settings


async def test_a_write_invalidates_all_caches_of_the_subsystem(
    shared: Serving, library: Library
) -> None:
    services = shared.services
    forget = {
        services.storage.database.invalidate,
        services.serving.finals_queue.forget,
        services.serving.image_info.forget,
    }
    assert forget <= set(services.storage.invalidators)


async def test_finals_in_the_background_use_workers_of_their_own(shared: Serving) -> None:
    rendering = shared.services.rendering
    assert rendering.background_pool is not rendering.pool
    assert rendering.background_dispatcher is not rendering.dispatcher


async def test_a_server_that_shares_nothing_has_no_leases(shared: Serving) -> None:
    assert shared.services.serving.leases is None
    assert shared.metric("smartserve_render_waits_total") == 0


def test_several_processes_of_one_machine_have_the_locks_of_their_directory(
    tmp_path: Path,
) -> None:
    several = make_settings(tmp_path, server={"processes": 2})
    assert open_leases(several, None) is not None
    assert open_leases(make_settings(tmp_path, server={"processes": 1}), None) is None
    off = make_settings(tmp_path, server={"processes": 2}, cluster={"render_once": False})
    assert open_leases(off, None) is None


async def test_servers_that_share_a_directory_have_its_locks_if_a_setting_says_so(
    serve: Serve, library: Library
) -> None:
    server = await serve(cluster={"render_once": True})
    async with server.client.get(f"/serve/{library.ids['photo']}?w=64") as answer:
        assert answer.status == 200
    directory = server.services.settings.rendition_directory
    assert (directory / "locks").exists()
    assert server.services.serving.leases is not None
    assert server.renders() == 1
