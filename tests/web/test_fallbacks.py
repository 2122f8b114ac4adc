"""What stands in for a picture whose original is gone: sizes that another system made of it."""

from __future__ import annotations

import asyncio
import io
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from aiohttp import ClientResponse
from PIL import Image

from proxy.app.services import open_services
from proxy.domain.errors import CapacityError
from proxy.web.server.load_shedding import LoadShedder
from tests.library.adoption.trees import BULK, LIBRARY, LOGOS, adopt, adopted, whole_tree
from tests.support.mariadb import MariaDB
from tests.support.server import CHROME, WEBP_ONLY, Serve, Serving, make_settings
from tests.support.waiting import eventually
from tests.web.substitutes import ROUTES, Substitute, check_matrix

pytestmark = pytest.mark.slow  # adopts a storage tree for each test

LOGO, PHOTO = 1, 2
YEAR = "public, max-age=31536000"
BRIEF = "public, max-age=30"
FALLBACK = "smartserve; hit; detail=fallback"
DUE = {
    "thumbnail": (300, 300),
    "small": (480, 320),
    "grid": (500, 333),
    "detail": (1200, 800),
    # Of the header's shape, as large as the largest size has it; and no larger than that.
    "header": (1200, 375),
    "zoom": (1200, 800),
}


@pytest.fixture(scope="session")
def adopted_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose originals are an adopted tree, its reserve made."""
    directory = tmp_path_factory.mktemp("adopted") / "data"
    asyncio.run(_adopt(directory))
    return directory


async def _adopt(directory: Path) -> None:
    settings = make_settings(directory)
    whole_tree(settings.storage_root)
    async with open_services(settings) as services:
        found = adopted(await adopt(services, settings.storage_root, reserve=True))
    assert [one.media_id for one in found] == [LOGO, PHOTO]


@pytest.fixture
def data_dir(adopted_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(adopted_dir, tmp_path / "data")


def original(server: Serving, name: str = "sunset-123.jpg") -> Path:
    return server.services.settings.storage_root / BULK / name


def forget_renditions(server: Serving) -> None:
    shutil.rmtree(server.services.settings.rendition_directory)


async def get(
    server: Serving, path: str, *, accept: str = CHROME, **headers: str
) -> tuple[ClientResponse, Image.Image]:
    answer = await server.client.get(path, headers={"Accept": accept, **headers})
    body = await answer.read()
    assert answer.status == 200, body
    picture = Image.open(io.BytesIO(body))
    picture.load()
    return answer, picture


def stood_in(answer: ClientResponse) -> bool:
    told = (answer.headers["Cache-Status"], answer.headers["Cache-Control"])
    if told == (FALLBACK, BRIEF):
        return "Last-Modified" not in answer.headers
    assert told[1] == YEAR
    return False


async def test_a_picture_whose_original_is_there_is_made_of_it(server: Serving) -> None:
    for size in DUE:
        assert not stood_in((await get(server, f"/serve/{PHOTO}?size={size}"))[0])


@pytest.mark.parametrize("size", DUE)
@pytest.mark.parametrize(
    ("accept", "media_type"),
    [(CHROME, "image/avif"), (WEBP_ONLY, "image/webp"), ("*/*", "image/jpeg")],
)
async def test_a_size_stands_in_for_a_missing_original(
    server: Serving, size: str, accept: str, media_type: str
) -> None:
    original(server).unlink()
    answer, picture = await get(server, f"/serve/{PHOTO}?size={size}", accept=accept)
    assert stood_in(answer)
    assert answer.headers["Content-Type"] == media_type
    assert Image.MIME[str(picture.format)] == media_type
    assert picture.size == DUE[size]
    assert server.metric("smartserve_requests_total", source="fallback") == 1


@pytest.mark.parametrize("fmt", ["avif", "webp", "jpeg", "png"])
async def test_a_format_that_is_asked_for_is_given(server: Serving, fmt: str) -> None:
    original(server).unlink()
    answer, picture = await get(server, f"/serve/{PHOTO}?size=grid&format={fmt}")
    assert (stood_in(answer), str(picture.format).lower()) == (True, fmt)


@pytest.mark.parametrize("known", [True, False])
async def test_a_corrupt_original_is_stood_in_for(server: Serving, *, known: bool) -> None:
    path = original(server)
    path.write_bytes(b"\xff\xd8\xff" + bytes(path.stat().st_size - 3))
    if not known:
        await server.services.storage.purger.medium(PHOTO)
    answer, picture = await get(server, f"/serve/{PHOTO}?size=detail")
    assert (stood_in(answer), picture.size) == (True, DUE["detail"])


async def test_it_stands_in_where_nothing_is_known_of_the_original(server: Serving) -> None:
    original(server).unlink()
    await server.services.storage.purger.medium(PHOTO)
    for size, due in DUE.items():
        answer, picture = await get(server, f"/serve/{PHOTO}?size={size}")
        assert (stood_in(answer), picture.size) == (True, due)
    etag = answer.headers["ETag"]
    path = f"/serve/{PHOTO}?size=zoom"
    again = await server.client.get(path, headers={"Accept": CHROME, "If-None-Match": etag})
    assert (again.status, again.headers["Cache-Control"]) == (304, BRIEF)
    head = await server.client.head(path, headers={"Accept": CHROME})
    assert (head.status, head.headers["ETag"], stood_in(head)) == (200, etag, True)


@pytest.mark.parametrize("known", [True, False])
async def test_descriptions_are_of_a_lesser_file_for_a_short_time(
    server: Serving, *, known: bool
) -> None:
    original(server).unlink()
    if not known:
        await server.services.storage.purger.medium(PHOTO)
    host = f"http://{server.client.host}:{server.client.port}"
    found = []
    for path in (f"/info/{PHOTO}", f"/info?ids={PHOTO}", f"/oembed?url={host}/serve/{PHOTO}"):
        answer = await server.client.get(path)
        told = await answer.json()
        assert answer.status == 200, told
        found.append((answer.headers["Cache-Control"], told))
    lifetimes, (one, many, photo) = zip(*found, strict=True)
    assert many == {"pictures": [one], "missing": []}
    assert lifetimes[:2] == (BRIEF, BRIEF)
    if not known:
        assert (lifetimes[2], photo["cache_age"]) == (BRIEF, 30)
        assert (one["width"], photo["width"]) == (1200, 1200)


@pytest.mark.parametrize("route", ROUTES)
async def test_a_lesser_file_is_never_confirmed_as_the_final(server: Serving, route: str) -> None:
    original(server).unlink()
    served = Substitute(server, PHOTO, "size=zoom")
    await (await served.send(route, cached=False)).read()
    await check_matrix(served, route, same=False)


async def test_a_logo_keeps_its_transparency(server: Serving) -> None:
    original(server, "456-logo-789.png").unlink()
    for accept in (CHROME, WEBP_ONLY, "*/*"):
        answer, picture = await get(server, f"/serve/{LOGO}?size=grid", accept=accept)
        assert stood_in(answer)
        alpha = picture.convert("RGBA").getchannel("A")
        assert alpha.getextrema() == (0, 255)


async def test_the_next_size_stands_in_where_one_is_gone_too(server: Serving) -> None:
    original(server).unlink()
    forget_renditions(server)
    library = server.services.settings.storage_root / LIBRARY
    for path in library.glob("*-grid.*"):
        path.unlink()
    answer, picture = await get(server, f"/serve/{PHOTO}?size=grid")
    assert (stood_in(answer), picture.size) == (True, DUE["grid"])
    for path in library.glob("*-detail.*"):
        path.unlink()
    answer, picture = await get(server, f"/serve/{PHOTO}?size=detail")
    assert (stood_in(answer), picture.size) == (True, DUE["small"])


async def test_where_all_is_gone_the_original_is_what_is_missing(server: Serving) -> None:
    original(server).unlink()
    forget_renditions(server)
    shutil.rmtree(server.services.settings.storage_root / LIBRARY)
    answer = await server.client.get(f"/serve/{PHOTO}")
    assert answer.status == 404
    assert "missing" in (await answer.json())["detail"]


async def test_the_original_counts_again_once_it_is_back(server: Serving) -> None:
    path = original(server)
    away = path.rename(path.with_suffix(".away"))
    assert stood_in((await get(server, f"/serve/{PHOTO}?size=grid"))[0])
    away.rename(path)
    assert not stood_in((await get(server, f"/serve/{PHOTO}?size=grid"))[0])


@asynccontextmanager
async def no_worker_free(server: Serving) -> AsyncIterator[None]:
    """Every worker is taken, and every place in the queue.

    Event-loop lag does not count as overload meanwhile, because a busy machine causes it.
    """
    admission = server.services.rendering.admission

    async def wait() -> None:
        async with admission.enter():
            await asyncio.Future()

    waiting = []
    async with AsyncExitStack() as stack:
        while admission.free_places > 0:
            waiting.append(asyncio.create_task(wait()))
            await asyncio.sleep(0)
        stack.push_async_callback(_cancelled, waiting)
        stack.enter_context(patch.object(LoadShedder, "late_s", 0.0))
        yield


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, CapacityError):
            await task


async def test_the_nearest_size_goes_out_while_no_worker_is_free(serve: Serve) -> None:
    server = await serve(workers={"count": 1, "max_queue": 1})
    sizes = ("thumbnail", "grid", "detail", "zoom")
    paths = [*(f"/serve/{PHOTO}?size={size}" for size in sizes), f"/serve/{LOGO}?size=grid"]
    async with no_worker_free(server):
        answers = [await _in_time(server, path) for path in paths]
        # Looked at afterwards: a loop that decodes is late, and then nothing stands in.
        bodies = [await answer.read() for answer in answers]
    assert all(map(stood_in, answers))
    pictures = [Image.open(io.BytesIO(body)) for body in bodies]
    assert [picture.size for picture in pictures[:-1]] == [DUE[size] for size in sizes]
    assert [picture.format for picture in pictures] == ["JPEG"] * len(sizes) + ["PNG"]


async def _in_time(server: Serving, path: str) -> ClientResponse:
    """Return the first response that is not rejected because the event loop is late.

    On a busy machine it may be late for several requests.
    """
    responses: list[ClientResponse] = []

    async def sent() -> bool:
        response = await server.client.get(path, headers={"Accept": CHROME})
        responses.append(response)
        if response.status != 200:
            assert (await response.json())["detail"] == "the server is overloaded"
        return response.status == 200

    await eventually(sent, timeout_s=30)
    return responses[-1]


async def test_a_purge_of_one_size_takes_what_stands_in_for_it(server: Serving) -> None:
    original(server).unlink()
    await get(server, f"/serve/{PHOTO}?size=grid")
    boxes = [server.services.settings.size_specs()["grid"]]
    # Also the square of 300 pixels, which has that size in the box of a grid: each in JPEG, and
    # what was just made.
    purger = server.services.storage.purger
    assert (await purger.medium(PHOTO, boxes)).dropped >= 2
    assert (await purger.medium(PHOTO, boxes)).dropped == 0


async def test_it_is_all_the_same_on_mariadb(
    serve: Serve, mariadb: MariaDB, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "data" / "renditions")
    server = await serve(database={"url": mariadb.url(mariadb.create_database())})
    found = adopted(await adopt(server.services, server.services.settings.storage_root))
    assert [one.media_id for one in found] == [LOGO, PHOTO]
    original(server).unlink()
    shutil.rmtree(server.services.settings.storage_root / LOGOS)
    # A response during which it notices the new fallbacks would have `no-store`.
    await server.services.storage.purge_feed.sync()
    for size, due in DUE.items():
        answer, picture = await get(server, f"/serve/{PHOTO}?size={size}")
        assert (stood_in(answer), picture.size) == (True, due)
