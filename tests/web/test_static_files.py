"""The files of the page: compression, ETags, and what they contain."""

from __future__ import annotations

import gzip
import re

import pytest

from proxy.web.static_files import STATIC
from tests.support.server import Serving
from tests.web.wire import exchange


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
