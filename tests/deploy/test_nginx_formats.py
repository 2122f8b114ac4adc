"""The map of Accept headers in nginx, compared with the server's own negotiation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from yarl import URL

from tests.deploy.accepts import BROWSERS, CORNERS, faults, random_headers
from tests.deploy.front import nginx
from tests.support.ports import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a server that answers with the class of the Accept header and that of the URL."""
    port = free_port()
    answer = 'return 200 "$smartserve_format $smartserve_class"'
    extra = f"server {{ listen 127.0.0.1:{port}; location / {{ {answer}; }} }}"
    folder = tmp_path_factory.mktemp("nginx") / "front"
    with nginx(folder, "cache", upstream=free_port(), extra=extra):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def mapped(base: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(base) as client:
        yield client


async def classes(client: aiohttp.ClientSession, target: str, accept: str) -> list[str]:
    async with client.get(URL(target, encoded=True), headers={"Accept": accept}) as answer:
        return (await answer.text()).split()


async def test_each_header_is_mapped_as_the_server_negotiates(
    mapped: aiohttp.ClientSession,
) -> None:
    headers = [*BROWSERS, *CORNERS, *random_headers(600)]
    found = [(accept, (await classes(mapped, "/", accept))[0]) for accept in headers]
    assert faults(found) == []
    assert {name for _, name in found} == {"both", "avif", "webp", "none"}


@pytest.mark.parametrize(
    ("accept", "name"),
    [
        ("image/avif;q=0.8", "avif"),
        ("image/avif;q=0.9,image/webp;q=0.8,*/*;q=0.5", "both"),
        ("image/avif;q=0.5,*/*", "none"),
        ("image/webp;q=0,image/avif;q=0", "none"),
    ],
)
async def test_weights_below_one_are_respected(
    accept: str, name: str, mapped: aiohttp.ClientSession
) -> None:
    assert (await classes(mapped, "/", accept))[0] == name


@pytest.mark.parametrize(
    "target",
    [
        "/serve/1?format=avif",
        "/serve/1?size=grid&format=webp&v=2",
        "/serve/1.webp",
        "/serve/1.JPG?size=grid",
        "/serve/1?size=detail?format=png",
    ],
)
async def test_a_format_in_the_url_needs_no_class(
    target: str, mapped: aiohttp.ClientSession
) -> None:
    assert (await classes(mapped, target, "image/avif"))[1] == "named"


@pytest.mark.parametrize(
    "target",
    [
        "/serve/1",
        "/serve/1?format=auto",
        "/serve/1?format=",
        "/serve/1.webp?format=auto",
        "/serve/1.webp?format=",
        "/serve/1?format=avif&format=auto",
        "/serve/1?format=avif&%66ormat=auto",
        "/serve/1?format=avif%26format=auto",
        "/serve/1?format=avif?format=auto",
        "/serve/1?xformat=avif",
    ],
)
async def test_a_negotiated_url_has_a_class(target: str, mapped: aiohttp.ClientSession) -> None:
    assert (await classes(mapped, target, "image/avif"))[1] == "avif"
