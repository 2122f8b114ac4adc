"""Old URLs of imgproxy, imagor and thumbor, at a live nginx between two servers."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from PIL import Image
from yarl import URL

from tests.benchmarks.servers import command as smartserve_command
from tests.benchmarks.servers import environment, smartserve
from tests.deploy.front import installed, started
from tests.deploy.programs import DEPLOY, replaced
from tests.support.ports import free_port
from tests.support.server import SAMPLES, Library

pytestmark = pytest.mark.slow

SOURCE = "https://www.example.org/pictures/"
NAME = "2024/caps at noon.jpg"
PLAIN = f"{SOURCE}2024/caps%20at%20noon.jpg"
ENCODED = base64.urlsafe_b64encode((SOURCE + NAME).encode()).decode().rstrip("=")
CHROME = "image/avif,image/webp,*/*"


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports of smartserve, its nginx, the nginx under the old name, and the old server."""

    server: int
    now: int = field(default_factory=free_port)
    old_site: int = field(default_factory=free_port)
    before: int = field(default_factory=free_port)


@dataclass(frozen=True, slots=True)
class Crossing:
    """nginx between an old server and smartserve, which has one of the images."""

    ports: Ports
    picture: int

    def url(self, target: str) -> URL:
        """Return a URL of the old site."""
        return URL(f"http://127.0.0.1:{self.ports.old_site}{target}", encoded=True)


@pytest.fixture(scope="module")
def crossing(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crossing]:
    place = tmp_path_factory.mktemp("crossing")
    pictures = place / "pictures"
    (pictures / "2024").mkdir(parents=True)
    shutil.copy(SAMPLES / "kodak-03.jpg", pictures / NAME)
    data_dir = library.copy(place / "data")
    settings = {"UPGRADES__ENABLED": "false", "WORKERS__COUNT": "2"}
    with smartserve(data_dir, settings=settings) as running:
        folder = place / "front"
        folder.mkdir()
        ports = Ports(running.address[1])
        command = configured(folder, ports)
        (folder / "smartserve-ids.map").write_text(ids(pictures, data_dir))
        with started(command, folder, ports.old_site):
            yield Crossing(ports, library.ids["photo"])


def ids(pictures: Path, data_dir: Path) -> str:
    """Create the map of ids as the configuration describes."""
    taken = subprocess.run(
        smartserve_command("import", "--json", pictures, "--data-dir", data_dir),
        check=True,
        capture_output=True,
        env=environment(),
    )
    return mapped(taken.stdout.decode(), pictures).stdout


def mapped(text: str, pictures: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEPLOY / "nginx" / "ids.py", pictures, "--source", SOURCE],
        input=text,
        check=True,
        capture_output=True,
        text=True,
    )


def configured(folder: Path, ports: Ports) -> list[str]:
    """Return the command that starts nginx with ``cache.conf`` and ``migrate.conf``."""
    old = f"listen 127.0.0.1:{ports.before}; location / {{ return 200 $request_uri; }}"
    extra = f"include smartserve/migrate.conf; server {{ {old} }}"
    command = installed(folder, "cache", port=ports.now, upstream=ports.server, extra=extra)
    file = folder / "smartserve" / "migrate.conf"
    text = replaced(file.read_text(), "listen 80;", f"listen 127.0.0.1:{ports.old_site};")
    text = replaced(text, "http://img.example.org", f"http://127.0.0.1:{ports.now}")
    file.write_text(replaced(text, "127.0.0.1:8081", f"127.0.0.1:{ports.before}"))
    (room,) = re.findall(r"echo '(map_hash[^']*)' > /etc/nginx/conf.d/00-", text)
    config = folder / "nginx.conf"
    config.write_text(replaced(config.read_text(), "access_log off;", f"access_log off; {room}"))
    return command


@pytest.fixture
async def old_site(crossing: Crossing) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as client:
        yield client


ALIKE = [
    # imgproxy, plain
    (f"/unsafe/rs:fill:300:300/plain/{PLAIN}", "size=thumbnail"),
    (f"/c2lnbmF0dXJl/resize:fill:300:300:0/g:sm/q:80/plain/{PLAIN}", "size=thumbnail"),
    (f"/c2lnbmF0dXJl/rs:fit:640:0/plain/{PLAIN}@webp", "w=640&format=webp"),
    (f"/unsafe/rs:fit:500:400/cb:3/plain/{PLAIN}", "w=500"),
    (f"/unsafe/w:300/f:avif/plain/{PLAIN}", "w=300&format=avif"),
    # imgproxy, Base64
    (f"/c2lnbmF0dXJl/rs:fit:640/{ENCODED}", "w=640"),
    (f"/c2lnbmF0dXJl/rs:fill:300:300/{ENCODED}.png", "size=thumbnail&format=png"),
    # imagor and thumbor
    ("/unsafe/300x300/smart/2024/caps%20at%20noon.jpg", "size=thumbnail"),
    (f"/unsafe/fit-in/640x480/{PLAIN.removeprefix('https://')}", "w=640"),
    (
        "/c2lnbmF0dXJl=/640x0/filters:quality(70):format(webp)/2024/caps%20at%20noon.jpg",
        "w=640&format=webp",
    ),
    ("/unsafe/640x/2024/caps%20at%20noon.jpg", "w=640"),
]
UNLIKE = [
    f"/unsafe/rs:fill:300:300/plain/{SOURCE}unknown.jpg",
    f"/unsafe/rs:fill:300:300/blur:5/plain/{PLAIN}",
    f"/unsafe/rs:fit:300:0:1/plain/{PLAIN}",
    f"/unsafe/h:300/plain/{PLAIN}",
    f"/unsafe/rs:fit:4000:4000/plain/{PLAIN}",
    f"/unsafe/w:3841/plain/{PLAIN}",
    "/unsafe/4000x0/2024/caps%20at%20noon.jpg",
    "/unsafe/fit-in/3900x3900/2024/caps%20at%20noon.jpg",
    f"/unsafe/rs:fill:200:100/plain/{PLAIN}",
    f"/c2lnbmF0dXJl/wm:0.5/rs:fit:640/{ENCODED}",
    "/unsafe/10x10:90x90/640x0/2024/caps%20at%20noon.jpg",
    "/unsafe/640x0/filters:blur(7)/2024/caps%20at%20noon.jpg",
    "/unsafe/-640x0/2024/caps%20at%20noon.jpg",
    "/unsafe/2024/caps%20at%20noon.jpg",
    "/health",
]


@pytest.mark.parametrize(("target", "query"), ALIKE)
async def test_equivalent_urls_are_redirected(
    target: str, query: str, crossing: Crossing, old_site: aiohttp.ClientSession
) -> None:
    url = crossing.url(target)
    async with old_site.get(url, allow_redirects=False) as answer:
        assert answer.status == 302
        location = answer.headers["Location"]
    assert location == f"http://127.0.0.1:{crossing.ports.now}/serve/{crossing.picture}?{query}"


@pytest.mark.parametrize("target", UNLIKE)
async def test_other_urls_reach_the_old_server_unchanged(
    target: str, crossing: Crossing, old_site: aiohttp.ClientSession
) -> None:
    url = crossing.url(target)
    async with old_site.get(url, allow_redirects=False) as answer:
        assert (answer.status, await answer.text()) == (200, target)


@pytest.mark.parametrize(
    ("target", "size", "type_"),
    [
        (f"/unsafe/rs:fill:300:300/plain/{PLAIN}", (300, 300), "image/avif"),
        (f"/unsafe/rs:fit:640/{ENCODED}.webp", (640, 427), "image/webp"),
        ("/unsafe/fit-in/600x600/2024/caps%20at%20noon.jpg", (640, 427), "image/avif"),
    ],
)
async def test_a_browser_receives_the_image(
    target: str,
    size: tuple[int, int],
    type_: str,
    crossing: Crossing,
    old_site: aiohttp.ClientSession,
) -> None:
    url = crossing.url(target)
    async with old_site.get(url, headers={"Accept": CHROME}) as answer:
        assert answer.status == 200
        assert answer.content_type == type_
        picture = Image.open(io.BytesIO(await answer.read()))
    assert picture.size == size


def test_urls_that_nginx_cannot_distinguish_are_omitted(tmp_path: Path) -> None:
    text = "\n".join(
        f'{{"path": "{tmp_path}/{name}", "id": {number}}}'
        for number, name in ((1, "a.jpg"), (2, "A.jpg"), (3, "~b.jpg"))
    )
    done = mapped(text + '\n{"path": "x.txt", "error": "is no picture"}\n', tmp_path)
    lines = done.stdout.splitlines()
    assert not any("a.jpg" in line.lower() for line in lines)
    assert '"\\~b.jpg" 3;' in lines
    assert f"several: {SOURCE}a.jpg" in done.stderr
