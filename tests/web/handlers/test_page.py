"""The page: its routes, its files, and the routes for a browser on the server's machine."""

from __future__ import annotations

import gzip
import re
from hashlib import sha256
from typing import Any
from urllib.parse import unquote

import jwt
import pytest

from proxy.settings import Settings, has_local_uploads, has_page
from proxy.web.handlers.page import CSP, STATIC
from tests.support.server import CHROME, SAMPLES, Serve, Serving
from tests.support.uploads import KEYED, MAIN, PHOTO, USERS, form, token, upload
from tests.web.wire import exchange

PAGE = ("/", "/static/page.js", "/api/gallery", "/api/page/accept", "/api/page/accept.gif")


def settings(**sections: dict[str, Any]) -> Settings:
    return Settings.model_validate(sections)


@pytest.mark.parametrize(
    ("sections", "shown"),
    [
        ({}, True),
        ({"server": {"host": "::1"}}, True),
        ({"server": {"host": "0.0.0.0"}}, False),
        ({"server": {"public_url": "https://img.example.org"}}, False),
        ({"database": {"url": "sqlite+aiosqlite:///elsewhere.db"}}, False),
        ({"page": {"enabled": False}}, False),
        ({"page": {"enabled": True}, "server": {"host": "0.0.0.0"}}, True),
    ],
)
def test_the_page_is_enabled_for_local_servers_or_by_the_settings(
    sections: dict[str, Any], *, shown: bool
) -> None:
    assert has_page(settings(**sections)) is shown


@pytest.mark.parametrize(
    ("sections", "given"),
    [
        ({}, True),
        ({"page": {"enabled": True}, "server": {"host": "0.0.0.0"}}, False),
        ({"page": {"enabled": False}}, False),
        ({"main": {"enabled": False}}, False),
        ({"users": {"jwt_public_key_file": "/etc/key.pem"}}, False),
    ],
)
def test_upload_tokens_are_offered_on_local_servers_only(
    sections: dict[str, Any], *, given: bool
) -> None:
    assert has_local_uploads(settings(**sections)) is given


async def test_the_page_forbids_resources_of_other_origins(shared: Serving) -> None:
    answer = await shared.client.get("/")
    assert answer.status == 200
    assert answer.content_type == "text/html"
    assert answer.headers["Content-Security-Policy"] == CSP
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in answer.headers
    for part in ("default-src 'none'", "script-src 'self'", "style-src 'self'"):
        assert part in CSP
    assert "unsafe" not in CSP


async def test_the_page_requests_ect_only_if_client_hints_are_read(
    serve: Serve, shared: Serving
) -> None:
    assert "Accept-CH" not in (await shared.client.get("/")).headers
    server = await serve(client_hints={"enabled": True})
    assert (await server.client.get("/")).headers["Accept-CH"] == "ECT"


async def test_without_the_page_only_the_component_is_served(serve: Serve) -> None:
    server = await serve(page={"enabled": False})
    for target in (*PAGE, "/api/page/token", "/api/page/known", "/api/page/uploads/1"):
        assert (await server.client.get(target)).status == 404
    component = await server.client.get("/static/smart-image.js")
    assert component.status == 200
    assert component.headers["Access-Control-Allow-Origin"] == "*"
    assert component.headers["Cache-Control"].startswith("public, max-age=3600")


async def test_the_pixel_returns_the_accept_header_in_server_timing(shared: Serving) -> None:
    answer = await shared.client.get("/api/page/accept.gif", headers={"Accept": CHROME})
    assert answer.content_type == "image/gif"
    found = re.fullmatch(r'accept;desc="([^"]*)"', answer.headers["Server-Timing"])
    assert found is not None
    assert unquote(found[1]) == CHROME


async def test_a_hostile_accept_header_is_escaped(shared: Serving) -> None:
    hostile = 'image/avif", evil;dur=1, "\\'
    answer = await shared.client.get("/api/page/accept.gif", headers={"Accept": hostile})
    assert answer.headers["Server-Timing"].count('"') == 2
    assert "," not in answer.headers["Server-Timing"]


async def test_bytes_that_are_no_utf8_are_replaced_in_the_explanation(shared: Serving) -> None:
    sent = b"image/webp, a\xff\xc3"
    lines = b"Host: localhost\r\nConnection: close\r\nAccept: " + sent + b"\r\n\r\n"
    host, port = str(shared.client.host), int(shared.client.port or 0)
    for path in (b"/api/page/accept", b"/api/page/accept.gif"):
        told = await exchange(host, port, b"GET " + path + b" HTTP/1.1\r\n" + lines)
        assert told.startswith(b"HTTP/1.1 200 "), told
        head, _, body = told.partition(b"\r\n\r\n")
        shown = unquote(head.decode()) if path.endswith(b"gif") else body.decode()
        assert "image/webp, a\ufffd\ufffd" in shown


async def test_the_chosen_format_is_explained(shared: Serving) -> None:
    found = await (
        await shared.client.get("/api/page/accept", headers={"Accept": "image/webp,*/*"})
    ).json()
    assert found["chosen"] == "webp"
    assert [one["format"] for one in found["formats"]] == ["avif", "webp", "jpeg"]


@pytest.mark.parametrize(
    ("query", "chosen", "formats"),
    [
        ("animated=1", "webp", ["avif", "webp", "gif"]),
        ("transparent=1", "avif", ["avif", "webp", "png"]),
        ("transparent=&animated=0", "avif", ["avif", "webp", "jpeg"]),
    ],
)
async def test_the_explanation_is_about_the_kind_of_image(
    query: str, chosen: str, formats: list[str], shared: Serving
) -> None:
    answer = await shared.client.get(f"/api/page/accept?{query}", headers={"Accept": CHROME})
    found = await answer.json()
    assert found["chosen"] == chosen
    assert [one["format"] for one in found["formats"]] == formats


async def test_a_kind_of_image_that_is_not_0_or_1_is_a_400(shared: Serving) -> None:
    answer = await shared.client.get("/api/page/accept?animated=yes")
    assert answer.status == 400
    assert (await answer.json())["detail"] == "animated must be 0 or 1"


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


async def test_a_known_file_is_named_by_its_content(serve: Serve) -> None:
    server = await serve()
    content = (SAMPLES / "logo.png").read_bytes()
    known = f"/api/page/known?sha256={sha256(content).hexdigest()}"
    found = await (await server.client.get(known)).json()
    assert found == {"id": 3, "name": "logo.png"}
    other = f"/api/page/known?sha256={sha256(content + b'.').hexdigest()}"
    assert await (await server.client.get(other)).json() == {"id": None, "name": None}


@pytest.mark.parametrize("digest", ["", "1", "A" * 64, "0" * 65])
async def test_a_digest_of_another_form_is_a_400(digest: str, shared: Serving) -> None:
    answer = await shared.client.get(f"/api/page/known?sha256={digest}")
    assert answer.status == 400
    assert (await answer.json())["parameter"] == "sha256"


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
    known = f"/api/page/known?sha256={'0' * 64}"
    for target in ("/api/page/token", "/api/page/uploads/1", known):
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


def test_the_files_contain_no_foreign_urls_and_nothing_inline() -> None:
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[\w.-]+", text)) <= {
            "http://www.w3.org",
            "https://img.example.org",  # in how the component is used elsewhere
        }, path
    html = (STATIC / "index.html").read_text()
    assert re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)|javascript:", html) is None


@pytest.mark.parametrize("name", sorted(path.name for path in STATIC.iterdir()))
async def test_each_file_is_served_with_an_etag_and_answers_304(name: str, shared: Serving) -> None:
    url = "/" if name == "index.html" else f"/static/{name}"
    answer = await shared.client.get(url, headers={"Accept-Encoding": "identity"})
    assert await answer.read() == (STATIC / name).read_bytes()
    assert answer.headers["Vary"] == "Accept-Encoding"
    known = {"If-None-Match": answer.headers["ETag"], "Accept-Encoding": "identity"}
    again = await shared.client.get(url, headers=known)
    assert again.status == 304


async def fetched(server: Serving, encoding: str) -> tuple[bytes, bytes]:
    """Head and body of the style sheet as they go over the wire."""
    lines = ["GET /static/page.css HTTP/1.1", "Host: localhost", f"Accept-Encoding: {encoding}"]
    request = ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode()
    answer = await exchange(server.client.host, server.client.port or 0, request)
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    "encoding", ["gzip", "br, gzip;q=0.5", "x-gzip", "gzip, deflate, br, zstd"]
)
async def test_clients_that_accept_gzip_get_it_compressed(encoding: str, shared: Serving) -> None:
    head, body = await fetched(shared, encoding)
    assert b"\r\nContent-Encoding: gzip" in head
    plain = (STATIC / "page.css").read_bytes()
    assert gzip.decompress(body) == plain
    assert len(body) < len(plain) / 2


@pytest.mark.parametrize("encoding", ["identity", "br", "gzip;q=0", "gzip;q=0.000", "gzipped"])
async def test_other_clients_get_it_uncompressed(encoding: str, shared: Serving) -> None:
    head, body = await fetched(shared, encoding)
    assert b"Content-Encoding" not in head
    assert body == (STATIC / "page.css").read_bytes()


async def test_an_unknown_file_is_a_404(shared: Serving) -> None:
    for name in ("nothing.js", "..%2fpage.py", "%2e%2e%2f%2e%2e%2fpage.py"):
        assert (await shared.client.get(f"/static/{name}")).status == 404
