"""The routes for a browser on the server's own machine."""

from __future__ import annotations

import jwt
import pytest

from tests.support.server import Serve, Serving
from tests.support.uploads import KEYED, MAIN, PHOTO, USERS, form, token, upload
from tests.web.wire import exchange


async def test_a_token_allows_uploads_for_15_minutes(serve: Serve) -> None:
    server = await serve()
    found = await (await server.client.get("/api/page/token")).json()
    claims = jwt.decode(found["token"], options={"verify_signature": False})
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("1", 900)
    bearer = {"Authorization": f"Bearer {found['token']}"}
    data = form({"product_image": PHOTO})
    answer = await server.client.patch("/users/me", data=data, headers=bearer)
    assert answer.status == 200
    (image,) = (await answer.json())["images"]
    progress = await (await server.client.get(f"/api/page/uploads/{image['id']}")).json()
    assert progress == {"id": image["id"], "status": "pending", "media_id": None}


async def test_the_progress_has_the_media_id_and_is_limited_to_the_pages_user(serve: Serve) -> None:
    server = await serve(users=USERS, main=MAIN)
    (image,) = await upload(server)
    assert (await server.client.get(f"/api/page/uploads/{image['id']}")).status == 404
    data = form({"product_image": PHOTO})
    bearer = {"Authorization": f"Bearer {token(1)}"}
    answer = await server.client.patch("/users/me", data=data, headers=bearer)
    (own,) = (await answer.json())["images"]
    url = f"/api/media/complete/{own['id']}"
    await server.client.post(url, json={"media_id": "789"}, headers=KEYED)
    found = await (await server.client.get(f"/api/page/uploads/{own['id']}")).json()
    assert (found["status"], found["media_id"]) == ("processed", 789)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "img.example.org"},
        {"Host": "127.0.0.1.example.org"},
        {"Host": "localhost.example.org:80"},
        {"X-Forwarded-For": "203.0.113.7"},
        {"Forwarded": "for=203.0.113.7"},
        {"Via": "1.1 proxy"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_requests_that_are_not_local_get_a_403(
    headers: dict[str, str], shared: Serving
) -> None:
    for target in ("/api/page/token", "/api/page/uploads/1"):
        answer = await shared.client.get(target, headers=headers)
        assert answer.status == 403
        assert "token" not in await answer.json()


async def test_http_1_0_is_treated_as_a_proxy(server: Serving) -> None:
    request = b"GET /api/page/token HTTP/1.0\r\nHost: localhost\r\n\r\n"
    answer = await exchange(server.client.host, server.client.port or 0, request)
    assert answer.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.8.8.8:1", "[::1]", "[::1]:8080"]
)
async def test_every_loopback_name_is_accepted_in_host(host: str, shared: Serving) -> None:
    answer = await shared.client.get("/api/page/token", headers={"Host": host})
    assert answer.status == 200


@pytest.mark.parametrize(("number", "status"), [("x", 400), ("9" * 20, 400), ("9" * 19, 404)])
async def test_an_unknown_upload_is_a_404_and_an_invalid_id_a_400(
    number: str, status: int, shared: Serving
) -> None:
    assert (await shared.client.get(f"/api/page/uploads/{number}")).status == status
