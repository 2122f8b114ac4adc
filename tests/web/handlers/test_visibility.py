"""Who may see an image is changed with the admin key only, and applies at once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.server import Library, Serve, Serving

ADMIN = "admin-key-of-the-test"
BEARER = {"Authorization": f"Bearer {ADMIN}"}


@pytest.fixture
async def server(serve: Serve) -> Serving:
    return await serve(admin={"key": ADMIN})


def path_of(library: Library) -> str:
    return f"/api/media/{library.ids['photo']}/visibility"


async def test_the_admin_key_is_needed(server: Serving, library: Library) -> None:
    path, body = path_of(library), {"visibility": "private"}
    for headers in ({}, {"Authorization": "Bearer wrong-key-of-nobody"}):
        assert (await server.client.put(path, json=body, headers=headers)).status == 401
        assert (await server.client.delete(path, headers=headers)).status == 401
    assert (await server.client.get(f"/serve/{library.ids['photo']}?w=64")).status == 200


async def test_a_change_is_applied_returned_and_idempotent(
    server: Serving, library: Library
) -> None:
    media_id = library.ids["photo"]
    image = f"/serve/{media_id}?w=64"
    assert (await server.client.get(image)).status == 200
    for _ in range(2):
        answer = await server.client.put(
            path_of(library), json={"visibility": "private"}, headers=BEARER
        )
        found = await answer.json()
        assert (found["id"], found["visibility"], found["private"]) == (media_id, "private", True)
        assert found["tag"] == f"m-{media_id}"
        # Without a key nobody can see it, and it is private nevertheless.
        assert (await server.client.get(image)).status == 404
    answer = await server.client.delete(path_of(library), headers=BEARER)
    found = await answer.json()
    assert (found["visibility"], found["private"]) == (None, False)
    assert (await server.client.get(image)).status == 200


@pytest.mark.parametrize(
    "body", [{}, {"visibility": None}, {"visibility": "secret"}, {"visibility": ["private"]}]
)
async def test_another_value_is_refused_with_the_allowed_ones(
    server: Serving, library: Library, body: dict[str, Any]
) -> None:
    answer = await server.client.put(path_of(library), json=body, headers=BEARER)
    assert answer.status == 400
    assert (await answer.json())["allowed"] == "public or private"


@pytest.mark.parametrize("media_id", [999_999, 10**19 - 1])
async def test_an_unknown_image_is_a_404(server: Serving, media_id: int) -> None:
    path = f"/api/media/{media_id}/visibility"
    body = {"visibility": "private"}
    assert (await server.client.put(path, json=body, headers=BEARER)).status == 404
    assert (await server.client.delete(path, headers=BEARER)).status == 404
