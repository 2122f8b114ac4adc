"""The serving subsystem of a running process."""

from __future__ import annotations

from tests.support.server import Library, Serving


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
