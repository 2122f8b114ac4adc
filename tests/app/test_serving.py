"""The serving subsystem of a running process."""

from __future__ import annotations

from tests.support.server import Library, Serve, Serving


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
