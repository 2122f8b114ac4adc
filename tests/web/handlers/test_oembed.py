"""``/oembed``: photos by their URLs."""

from __future__ import annotations

import io
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from PIL import Image
from yarl import URL

from tests.support.server import Library, Serve, Serving

ELSEWHERE = "http://elsewhere.example/serve/2"


def base(server: Serving) -> str:
    return f"http://{server.client.host}:{server.client.port}"


async def photo(server: Serving, url: str, more: str = "") -> dict[str, Any]:
    answer = await server.client.get(f"/oembed?url={quote(url, safe='')}{more}")
    assert answer.status == 200, await answer.text()
    told: dict[str, Any] = await answer.json()
    return told


@pytest.mark.parametrize(
    "path", ["/serve/2", "/serve/2.webp?size=grid", "/api/images/2", "/info/2"]
)
async def test_the_photo_matches_what_is_served(path: str, shared: Serving) -> None:
    told = await photo(shared, base(shared) + path, "&format=json")
    assert (told["version"], told["type"]) == ("1.0", "photo")
    assert told["provider_url"] == base(shared)
    for prefix in ("", "thumbnail_"):
        answer = await shared.client.get(
            urlsplit(told[f"{prefix}url"])._replace(scheme="", netloc="").geturl(),
            headers={"Accept": "image/webp"},
        )
        picture = Image.open(io.BytesIO(await answer.read()))
        assert picture.size == (told[f"{prefix}width"], told[f"{prefix}height"])
        assert "immutable" in answer.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("target", "width", "title"),
    [
        ("{base}/serve/2%3Fformat%3Dwebp", 768, "B"),
        ("{base}/serve/2%3Fw%3D64%26format%3Dxml%26maxwidth%3D64%26lang%3Dde", 768, "B"),
        ("{base}/serve/2?size=grid&lang=de", 768, "Boot"),
        ("{base}/serve/2%3Flang%3Den&lang=de&maxwidth=640", 640, "Boot"),
        ("{base}/serve/2&amp;maxwidth=640&amp;LANG=de", 640, "Boot"),
        ("{base}/serve/2&URL={base}/serve/2&format=json", 768, "B"),
    ],
)
async def test_parameters_within_the_url_are_not_those_of_the_request(
    serve: Serve, target: str, width: int, title: str
) -> None:
    server = await serve()
    await server.services.storage.alt_texts.set_texts(2, {"en": "B", "de": "Boot"})
    address = target.replace("{base}", base(server).replace(":", "%3A"))
    answer = await server.client.get(URL(f"/oembed?url={address}", encoded=True))
    told = await answer.json()
    assert answer.status == 200, told
    assert (told["width"], told["title"]) == (width, title)


@pytest.mark.parametrize(
    ("more", "width"),
    [
        ("", 768),
        ("&maxwidth=9999", 768),
        ("&maxwidth=640", 640),
        ("&maxwidth=639", 384),
        ("&maxheight=200", 256),
        ("&maxwidth=300&maxheight=9999", 256),
        ("&maxwidth=3", 16),
        ("&maxwidth=", 768),
    ],
)
async def test_the_photo_is_the_largest_within_the_limits(
    more: str, width: int, shared: Serving
) -> None:
    told = await photo(shared, f"{base(shared)}/serve/2", more)
    assert told["width"] == width
    assert told["thumbnail_width"] == min(width, 384)


@pytest.mark.parametrize(
    ("prefix", "quoted"),
    [
        ("/caf%C3%A9", "/caf%C3%A9"),
        ("/caf%25C3%25A9%25FF", "/caf%C3%A9%FF"),
        ("/%2525/a+b;c,d", "/%25/a%20b;c,d"),
        ('/"<x>', "/%22%3Cx%3E"),
    ],
)
async def test_the_prefix_of_the_url_is_kept_as_a_url_can_have_it(
    prefix: str, quoted: str, shared: Serving
) -> None:
    target = f"/oembed?url={base(shared)}{prefix}/serve/2"
    answer = await shared.client.get(URL(target, encoded=True))
    told = await answer.json()
    assert answer.status == 200, told
    assert told["provider_url"] == base(shared) + quoted
    for name in ("url", "thumbnail_url"):
        assert told[name].startswith(f"{base(shared)}{quoted}/serve/2?")


async def test_urls_with_the_public_host_are_accepted(serve: Serve) -> None:
    server = await serve(server={"public_url": "https://img.example.org"})
    told = await photo(server, "https://img.example.org/serve/2")
    assert told["url"].startswith("https://img.example.org/serve/2?w=")


@pytest.mark.parametrize(
    ("url", "status"),
    [
        (ELSEWHERE, 404),
        ("{base}/serve/99", 404),
        ("{base}/photo.jpg", 404),
        ("{base}/serve/x", 404),
        ("", 400),
        ("/serve/2", 400),
        ("ftp://elsewhere.example/serve/2", 400),
        ("http://[::1/serve/2", 400),
    ],
)
async def test_urls_of_no_image_of_this_server_are_problems(
    url: str, status: int, shared: Serving
) -> None:
    asked = quote(url.format(base=base(shared)), safe="")
    answer = await shared.client.get(f"/oembed?url={asked}")
    assert answer.status == status
    assert answer.content_type == "application/problem+json"


async def test_xml_is_not_implemented(shared: Serving) -> None:
    answer = await shared.client.get("/oembed?url=http://localhost/serve/1&format=xml")
    assert answer.status == 501


@pytest.mark.parametrize(
    "more", ["maxwidth=0", "maxwidth=x", "maxheight=-1", "maxwidth=123456", "format=yaml"]
)
async def test_an_invalid_parameter_is_a_400(more: str, shared: Serving) -> None:
    answer = await shared.client.get(f"/oembed?url={base(shared)}/serve/2&{more}")
    assert answer.status == 400


async def test_the_photo_may_be_cached_and_read_by_all_origins(
    server: Serving, library: Library
) -> None:
    url = f"/oembed?url={base(server)}/serve/{library.ids['badge']}"
    answer = await server.client.get(url)
    assert answer.headers["Cache-Control"] == "public, max-age=3600"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    again = await server.client.get(url, headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status == 304
    assert server.metric("smartserve_requests_total", route="oembed") == 2
