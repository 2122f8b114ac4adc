"""What editors decide over HTTP: what it changes, on which servers, and who may do it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from pytest_aiohttp.plugin import AiohttpClient
from structlog.testing import capture_logs

from proxy.app.services import open_services
from proxy.app.web import build_http_server
from proxy.domain.errors import DatabaseUnavailable, StorageError
from proxy.domain.media import MAX_MEDIA_ID, DataType
from proxy.storage.database.choices import MAX_TEXTS, ChoicesRepository
from proxy.storage.renditions.tiered_store import TieredStore
from proxy.web.handlers.choices import MAX_ALT
from tests.support.commands import KEY
from tests.support.server import (
    CHROME,
    Background,
    Library,
    Serve,
    Serving,
    SmartServer,
    make_settings,
)
from tests.support.waiting import eventually

BEARER = {"Authorization": f"Bearer {KEY}"}
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
async def server(serve: Serve) -> Serving:
    return await serve(admin={"key": KEY})


@pytest.fixture
async def halves(server: Serving, tmp_path: Path) -> int:
    """An image whose left half is red and whose right half is blue."""
    return await imported(server, tmp_path)


async def imported(server: Serving, folder: Path) -> int:
    taken = await server.services.importer.import_file(
        drawn(folder), user_id=7, data_type=DataType.PRODUCT
    )
    return taken.media_id  # type: ignore[union-attr]


def drawn(folder: Path) -> Path:
    image = Image.new("RGB", (1200, 600), RED)
    image.paste(BLUE, (600, 0, 1200, 600))
    path = folder / "halves.png"
    image.save(path)
    return path


@pytest.fixture(scope="session")
def untouched(keyed_background: Background, tmp_path_factory: pytest.TempPathFactory) -> int:
    """An image of the server `keyed` for which nothing is set, as that of `halves`."""
    path = drawn(tmp_path_factory.mktemp("drawn"))
    importer = keyed_background.services.importer
    add = partial(importer.import_file, path, user_id=9, data_type=DataType.PRODUCT)
    taken = keyed_background.portal.call(add)
    return taken.media_id  # type: ignore[union-attr]


@pytest.fixture(scope="session")
def chosen(keyed_background: Background, tmp_path_factory: pytest.TempPathFactory) -> int:
    """An image of the server `keyed` with a focal point, a background and a text."""
    path = tmp_path_factory.mktemp("drawn") / "other.png"
    Image.new("RGB", (1200, 600), BLUE).save(path)

    async def choose() -> int:
        async with keyed_background.serving() as keyed:
            taken = await keyed.services.importer.import_file(
                path, user_id=9, data_type=DataType.PRODUCT
            )
            media_id: int = taken.media_id  # type: ignore[union-attr]
            for name, body in (
                ("focus", {"x": 0.25, "y": 0.5}),
                ("background", {"value": "removed"}),
                ("alt", {"en": "Two colours"}),
            ):
                assert (await call(keyed, "PUT", f"/api/media/{media_id}/{name}", body))[0] == 200
            return media_id

    return keyed_background.portal.call(choose)


async def call(
    server: Serving, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, Any]:
    sent = {**BEARER, **headers}
    async with server.client.request(method, path, headers=sent, json=body) as answer:
        return answer.status, await answer.json(content_type=None)


async def shown(
    server: Serving, target: str, **headers: str
) -> tuple[Image.Image, Mapping[str, str]]:
    """Return the pixels and the headers of an image."""
    async with server.client.get(target, headers={"Accept": "image/*", **headers}) as answer:
        assert answer.status == 200, await answer.text()
        return Image.open(io.BytesIO(await answer.read())), answer.headers


def colours(image: Image.Image) -> str:
    """Return the colours at the left edge, in the middle, and at the right edge."""
    pixels = image.convert("RGB")
    points = [(2, 9), (pixels.width // 2, 9), (pixels.width - 3, 9)]
    found: list[Any] = [pixels.getpixel(point) for point in points]
    return "".join("r" if red > blue else "b" for red, _, blue in found)


async def info(server: Serving, media_id: int, query: str = "") -> Any:
    async with server.client.get(f"/info/{media_id}{query}") as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_a_focal_point_moves_every_crop_and_is_deleted_again(
    server: Serving, halves: int
) -> None:
    url, media = f"/serve/{halves}?size=thumbnail&format=png", f"/api/media/{halves}"
    automatic, before = await shown(server, url)
    status, told = await call(server, "PUT", f"{media}/focus", {"x": 1, "y": 0.5})
    assert status == 200, told
    assert (status, told["focus"], told["crops"]) == (200, {"x": 1.0, "y": 0.5}, {})
    image, headers = await shown(server, url)
    assert (image.size, colours(image)) == ((300, 300), "bbb")
    assert headers["ETag"] != before["ETag"]
    assert colours((await shown(server, f"{url}&dpr=2"))[0]) == "bbb"

    await call(server, "PUT", f"{media}/focus", {"x": 0, "y": 0})
    assert colours((await shown(server, url))[0]) == "rrr"

    status, told = await call(server, "DELETE", f"{media}/focus")
    assert (status, told["focus"]) == (200, None)
    image, headers = await shown(server, url)
    assert (colours(image), headers["ETag"]) == (colours(automatic), before["ETag"])


async def test_a_crop_is_of_one_size_at_every_density_and_beats_the_focal_point(
    server: Serving, halves: int
) -> None:
    media = f"/api/media/{halves}"
    await call(server, "PUT", f"{media}/focus", {"x": 0, "y": 0.5})
    box = {"x": 0.75, "y": 0.25, "width": 0.25, "height": 0.5}
    status, told = await call(server, "PUT", f"{media}/crops/thumbnail", box)
    assert (status, told["crops"]) == (200, {"thumbnail": box})
    for density in ("", "&dpr=2", "&dpr=3"):
        url = f"/serve/{halves}?size=thumbnail{density}&format=png"
        image, _ = await shown(server, url)
        # The region has 300 x 300 pixels: never enlarged.
        assert (image.size, colours(image)) == ((300, 300), "bbb")
    header, _ = await shown(server, f"/serve/{halves}?size=header&format=png")
    whole, _ = await shown(server, f"/serve/{halves}?size=detail&format=png")
    assert (colours(header), colours(whole)) == ("rbb", "rbb")

    status, told = await call(server, "DELETE", f"{media}/crops/thumbnail")
    assert (status, told["crops"]) == (200, {})
    image, _ = await shown(server, f"/serve/{halves}?size=thumbnail&format=png")
    assert colours(image) == "rrr"


@pytest.mark.parametrize(
    "path", ["choices", "focus", "crops/thumbnail", "background", "visibility", "alt"]
)
async def test_every_route_shows_all_that_is_set(keyed: Serving, chosen: int, path: str) -> None:
    media = f"/api/media/{chosen}"
    status, told = await call(keyed, "GET", f"{media}/{path}")
    version = told.pop("version")
    assert (status, told) == (
        200,
        {
            "media_id": chosen,
            "focus": {"x": 0.25, "y": 0.5},
            "crops": {},
            "background": "removed",
            "visibility": None,
            "private": False,
            "alt": {"en": "Two colours"},
            "cache_tag": f"m-{chosen}",
        },
    )
    assert version == (await info(keyed, chosen))["version"]


async def test_choices_stay_when_the_facts_of_the_image_are_determined_again(
    server: Serving, halves: int
) -> None:
    await call(server, "PUT", f"/api/media/{halves}/focus", {"x": 1, "y": 0.5})
    url = f"/serve/{halves}?size=thumbnail&format=png"
    _, before = await shown(server, url)
    # A purge of all sizes deletes the facts.
    assert (await call(server, "DELETE", f"/api/media/{halves}/renditions"))[0] == 200
    image, after = await shown(server, url)
    assert (colours(image), after["ETag"]) == ("bbb", before["ETag"])


async def test_a_change_deletes_every_rendition_also_of_sizes_that_do_not_crop(
    server: Serving, halves: int
) -> None:
    urls = [f"/serve/{halves}?size={size}&format=png" for size in ("detail", "thumbnail")]
    for url in urls:
        await shown(server, url)
    await server.services.serving.renderer.drain()
    assert len(await server.services.serving.delivery.stored(halves) or ()) == len(urls)
    # No rendition depends on a text.
    await call(server, "PUT", f"/api/media/{halves}/alt", {"en": "Two colours"})
    assert len(await server.services.serving.delivery.stored(halves) or ()) == len(urls)
    await call(server, "PUT", f"/api/media/{halves}/focus", {"x": 1, "y": 0.5})
    assert await server.services.serving.delivery.stored(halves) == frozenset()


@pytest.mark.slow
@pytest.mark.parametrize("directory", ["", "of its own"])
async def test_a_change_reaches_the_memory_of_other_servers(
    serve: Serve, data_dir: Path, aiohttp_client: AiohttpClient, tmp_path: Path, directory: str
) -> None:
    """Those that share the renditions, and those that share nothing but the database."""
    here = await serve(admin={"key": KEY})
    media_id = await imported(here, tmp_path)
    url = f"/serve/{media_id}?size=thumbnail&format=png"
    # Rows are not read again for another reason.
    renditions = {"directory": str(tmp_path / directory) if directory else ""}
    settings = make_settings(data_dir, database={"row_ttl_s": 3600}, renditions=renditions)
    async with open_services(settings) as services:
        surface = build_http_server(services)
        there = Serving(services, surface, await aiohttp_client(SmartServer(surface.runner)))
        for _ in range(3):
            await shown(there, url)
            await services.serving.renderer.drain()
        assert "detail=memory" in (await shown(there, url))[1]["Cache-Status"]
        version = (await info(there, media_id))["version"]

        await call(here, "PUT", f"/api/media/{media_id}/focus", {"x": 1, "y": 0.5})

        async def changed() -> bool:
            return colours((await shown(there, url))[0]) == "bbb"

        # The other server reads the changes every second.
        await eventually(changed)
        described = await info(there, media_id)
        assert described["version"] != version
        await call(here, "PUT", f"/api/media/{media_id}/alt", {"en": "Blue"})

        async def told() -> bool:
            return bool((await info(there, media_id))["alt"] == "Blue")

        await eventually(told)
        await there.client.close()


async def test_an_answer_that_was_under_way_is_not_kept(
    server: Serving, halves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response by the old row may end after the change. It must not be served from memory."""
    url = f"/serve/{halves}?size=thumbnail&format=png"
    await shown(server, url)
    await server.services.serving.renderer.drain()
    cached = await server.services.storage.database.find(halves)
    assert cached is not None
    await call(server, "PUT", f"/api/media/{halves}/focus", {"x": 1, "y": 0.5})
    database = server.services.storage.database
    with monkeypatch.context() as patch:

        async def old(_media_id: int) -> Any:
            # As if the request had read the row before the change.
            await type(database).find(database, halves)
            return cached

        patch.setattr(database, "find", old)
        await shown(server, url)
        await server.services.serving.renderer.drain()
        await shown(server, url)
    assert colours((await shown(server, url))[0]) == "bbb"


async def test_a_browser_that_knows_only_a_date_gets_the_new_version(
    server: Serving, halves: int
) -> None:
    url = f"/serve/{halves}?size=thumbnail&format=png"
    _, before = await shown(server, url)
    dated = {"If-Modified-Since": before["Last-Modified"], "Accept": "image/*"}
    async with server.client.get(url, headers=dated) as answer:
        assert answer.status == 304
    await call(server, "PUT", f"/api/media/{halves}/focus", {"x": 1, "y": 0.5})
    image, chosen = await shown(server, url, **dated)
    assert colours(image) == "bbb"
    # The component of the page recognises a final by its date.
    assert chosen["Last-Modified"] != before["Last-Modified"]
    # Two crops may be set within one second, so this date confirms nothing: not a 304.
    await shown(server, url, **{"If-Modified-Since": chosen["Last-Modified"]})
    # Back to the automatic crop: the date of the crop that was deleted confirms nothing.
    await call(server, "DELETE", f"/api/media/{halves}/focus")
    again, last = await shown(server, url, **{"If-Modified-Since": chosen["Last-Modified"]})
    assert colours(again) != "bbb"
    assert last["Last-Modified"] == before["Last-Modified"]


async def test_addresses_with_v_change_with_every_choice_about_pixels(
    server: Serving, halves: int
) -> None:
    media, versions = f"/api/media/{halves}", [(await info(server, halves))["version"]]
    box = {"x": 0, "y": 0, "width": 0.5, "height": 1}
    for path, body in (
        ("focus", {"x": 1, "y": 0.5}),
        ("crops/thumbnail", box),
        ("background", {"value": "removed"}),
    ):
        await call(server, "PUT", f"{media}/{path}", body)
        found = await info(server, halves)
        versions.append(found["version"])
        assert all(f"v={versions[-1]}" in url for url in found["urls"].values())
        assert f"v={versions[-1]}" in found["srcset"]["auto"]
        async with server.client.get(
            f"/oembed?url={quote(f'http://localhost/serve/{halves}')}",
            headers={"Host": "localhost"},
        ) as answer:
            assert f"v={versions[-1]}" in (await answer.json())["url"]
    assert len(set(versions)) == 4
    for path in ("focus", "crops/thumbnail", "background"):
        await call(server, "DELETE", f"{media}/{path}")
    assert (await info(server, halves))["version"] == versions[0]


async def test_the_default_background_is_that_of_addresses_without_bg(
    server: Serving, library: Library
) -> None:
    logo = library.ids["logo"]
    url = f"/serve/{logo}?size=thumbnail"
    assert (await shown(server, url))[1]["Content-Type"] == "image/jpeg"
    status, told = await call(server, "PUT", f"/api/media/{logo}/background", {"value": "removed"})
    assert (status, told["background"]) == (200, "removed")
    removed, headers = await shown(server, url)
    assert headers["Content-Type"] == "image/png"
    assert removed.convert("RGBA").getpixel((0, 0))[3] == 0  # type: ignore[index]
    _, explicit = await shown(server, f"{url}&bg=removed")
    assert explicit["ETag"] == headers["ETag"]
    # An explicit value wins, also from memory.
    for _ in range(3):
        _, original = await shown(server, f"{url}&bg=original")
        assert original["Content-Type"] == "image/jpeg"
        await server.services.serving.renderer.drain()
        assert (await shown(server, url))[1]["ETag"] == headers["ETag"]
    # JPEG has no transparency: the default does not apply to it.
    assert (await shown(server, f"{url}&format=jpeg"))[1]["Content-Type"] == "image/jpeg"

    found = await info(server, logo)
    assert (found["background"], found["transparent"]) == ("removed", True)
    assert "png" in found["formats"]["served"]
    assert "jpeg" not in found["formats"]["served"]
    assert found["formats"]["ready"]["thumbnail"]["png"]

    status, told = await call(server, "DELETE", f"/api/media/{logo}/background")
    assert (status, told["background"]) == (200, None)
    assert (await shown(server, url))[1]["Content-Type"] == "image/jpeg"


async def test_a_default_that_an_image_does_not_allow_is_the_original(
    server: Serving, library: Library
) -> None:
    photo = library.ids["photo"]
    await call(server, "PUT", f"/api/media/{photo}/background", {"value": "removed"})
    async with server.client.get(f"/serve/{photo}?size=small", headers={"Accept": CHROME}) as found:
        assert found.status == 200
        assert found.headers["Smartserve-Background"].startswith("original")
    assert (await info(server, photo))["transparent"] is False


async def test_texts_of_people_come_before_those_of_models_in_the_wanted_language(
    server: Serving, halves: int
) -> None:
    media = f"/api/media/{halves}"
    assert (await info(server, halves))["alt"] is None
    texts = {"DE-at": " Zwei \n Farben ", "en": "Two colours", "fr": ""}
    status, told = await call(server, "PUT", f"{media}/alt", texts)
    stored = {"de-AT": "Zwei Farben", "en": "Two colours", "fr": ""}
    assert (status, told["alt"]) == (200, stored)
    for query, language in (
        ("", "en"),
        ("?lang=", "en"),
        ("?lang=de-AT", "de-AT"),
        ("?lang=de", "de-AT"),
        ("?lang=en-GB", "en"),
        ("?lang=fr", "fr"),
        ("?lang=it", "en"),
    ):
        found = await info(server, halves, query)
        assert (found["alt"], found["alt_language"]) == (stored[language], language)
        assert found["alts"] == stored
    many = f"?ids={halves}&lang=de"
    async with server.client.get(f"/info{many}") as answer:
        assert (await answer.json())["pictures"][0]["alt"] == "Zwei Farben"
        assert answer.headers["Vary"] == "Authorization"

    status, told = await call(server, "DELETE", f"{media}/alt?lang=en")
    assert told["alt"] == {"de-AT": "Zwei Farben", "fr": ""}
    # The default has no text any more.
    assert (await info(server, halves))["alt_language"] == "de-AT"
    status, told = await call(server, "DELETE", f"{media}/alt")
    assert (status, told["alt"]) == (200, {})
    assert (await info(server, halves))["alt_language"] is None


async def test_the_language_of_requests_that_name_none_is_a_setting(
    serve: Serve, library: Library
) -> None:
    server = await serve(admin={"key": KEY}, server={"language": "DE"})
    photo = library.ids["photo"]
    await call(server, "PUT", f"/api/media/{photo}/alt", {"en": "A house", "de": "Ein Haus"})
    assert (await info(server, photo))["alt"] == "Ein Haus"


async def test_oembed_has_the_text_as_its_title(server: Serving, halves: int) -> None:
    target = f"/oembed?url={quote(f'http://localhost/serve/{halves}')}"

    async def title(query: str = "") -> Any:
        async with server.client.get(f"{target}{query}", headers={"Host": "localhost"}) as answer:
            assert answer.status == 200
            assert answer.headers["Cache-Tag"] == f"m-{halves}"
            return (await answer.json()).get("title", "absent")

    assert await title() == "absent"
    texts = {"de": "Zwei Farben", "en": "Two colours"}
    await call(server, "PUT", f"/api/media/{halves}/alt", texts)
    assert (await title(), await title("&lang=de")) == ("Two colours", "Zwei Farben")
    async with server.client.get(f"{target}&lang=german_", headers={"Host": "localhost"}) as answer:
        assert (answer.status, (await answer.json())["parameter"]) == (400, "lang")


async def test_descriptions_have_the_tag_by_which_a_cdn_purges_them(
    server: Serving, halves: int, library: Library
) -> None:
    photo = library.ids["photo"]
    async with server.client.get(f"/info/{halves}") as answer:
        assert answer.headers["Cache-Tag"] == answer.headers["Surrogate-Key"] == f"m-{halves}"
    async with server.client.get(f"/info?ids={photo},{halves}") as answer:
        assert answer.headers["Cache-Tag"] == f"m-{photo},m-{halves}"
        assert answer.headers["Surrogate-Key"] == f"m-{photo} m-{halves}"


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("focus", {"x": 1.01, "y": 0}, "x"),
        ("focus", {"x": 0, "y": -0.01}, "y"),
        ("focus", {"x": 600, "y": 300}, "not pixels"),
        ("focus", {"x": True, "y": 0}, "x"),
        ("focus", {"x": "0.5", "y": 0}, "x"),
        ("focus", {"x": None, "y": 0}, "x"),
        ("focus", {"x": 10**30, "y": 0}, "x"),
        ("focus", {"x": 0.5}, "x, y"),
        ("focus", {"x": 0.5, "y": 0.5, "z": 1}, "x, y"),
        ("focus", {}, "x, y"),
        ("crops/thumbnail", {"x": 0.5, "y": 0, "width": 0.6, "height": 1}, "within the image"),
        ("crops/thumbnail", {"x": 0, "y": 0.9, "width": 1, "height": 0.2}, "within the image"),
        ("crops/thumbnail", {"x": 0, "y": 0, "width": 0, "height": 1}, "width"),
        ("crops/thumbnail", {"x": 0, "y": 0, "width": 1, "height": 0.009}, "height"),
        ("crops/thumbnail", {"x": 0, "y": 0, "width": 300, "height": 300}, "not pixels"),
        ("crops/thumbnail", {"x": 0, "y": 0}, "width"),
        ("crops/detail", {"x": 0, "y": 0, "width": 1, "height": 1}, "the whole image"),
        ("crops/hero", {"x": 0, "y": 0, "width": 1, "height": 1}, "thumbnail, header"),
        ("background", {"value": "blurred"}, "removed"),
        ("background", {"value": None}, "removed"),
        ("background", {"value": ["removed"]}, "removed"),
        ("background", {}, "removed"),
        ("alt", {}, "1 to"),
        ("alt", {"german_": "x"}, "language tag"),
        ("alt", {"": "x"}, "language tag"),
        ("alt", {"de": "x", "DE": "y"}, "twice"),
        ("alt", {"de": 7}, "a text"),
        ("alt", {"de": "x" * (MAX_ALT + 1)}, f"{MAX_ALT} characters"),
        ("alt", {f"de-x-{at}": "x" for at in range(MAX_TEXTS + 1)}, f"{MAX_TEXTS}"),
    ],
)
async def test_bad_values_are_a_400_that_says_what_is_allowed_and_change_nothing(
    keyed: Serving, untouched: int, path: str, body: object, named: str
) -> None:
    media = f"/api/media/{untouched}"
    _, before = await call(keyed, "GET", f"{media}/choices")
    status, told = await call(keyed, "PUT", f"{media}/{path}", body)
    assert status == 400
    assert named in told["detail"]
    assert (await call(keyed, "GET", f"{media}/choices"))[1] == before


@pytest.mark.parametrize("text", ['{"x": NaN, "y": 0}', '{"x": 1e999, "y": 0}', "[0, 0]", "", "x"])
async def test_a_body_that_is_no_json_object_of_numbers_is_a_400(
    keyed: Serving, untouched: int, text: str
) -> None:
    headers = {**BEARER, "Content-Type": "application/json"}
    url = f"/api/media/{untouched}/focus"
    async with keyed.client.put(url, data=text.encode(), headers=headers) as answer:
        assert answer.status == 400
    async with keyed.client.put(url, data=b"x=1", headers=BEARER) as answer:
        assert answer.status == 415


async def test_texts_in_too_many_languages_are_refused_also_one_by_one(
    server: Serving, halves: int
) -> None:
    url = f"/api/media/{halves}/alt"
    texts = {f"de-x-{at}": "x" for at in range(MAX_TEXTS)}
    assert (await call(server, "PUT", url, texts))[0] == 200
    status, told = await call(server, "PUT", url, {"en": "One more"})
    assert (status, "delete others first" in told["detail"]) == (400, True)
    assert (await call(server, "PUT", url, {"de-x-0": "Replaced"}))[0] == 200


@pytest.mark.parametrize("media_id", [123456, MAX_MEDIA_ID, MAX_MEDIA_ID + 1])
async def test_an_unknown_image_is_a_404(keyed: Serving, media_id: int) -> None:
    media = f"/api/media/{media_id}"
    for method, path, body in (
        ("GET", "choices", None),
        ("PUT", "focus", {"x": 0, "y": 0}),
        ("DELETE", "focus", None),
        ("DELETE", "background", None),
        ("PUT", "visibility", {"visibility": "private"}),
        ("DELETE", "visibility", None),
        ("PUT", "alt", {"en": "x"}),
        ("DELETE", "alt", None),
    ):
        assert (await call(keyed, method, f"{media}/{path}", body))[0] == 404, path


async def test_deleting_what_is_not_set_succeeds(keyed: Serving, untouched: int) -> None:
    for path in ("focus", "crops/thumbnail", "background", "visibility", "alt", "alt?lang=de"):
        assert (await call(keyed, "DELETE", f"/api/media/{untouched}/{path}"))[0] == 200
    assert (await call(keyed, "DELETE", f"/api/media/{untouched}/crops/detail"))[0] == 400
    assert (await call(keyed, "DELETE", f"/api/media/{untouched}/alt?lang=german_"))[0] == 400


async def test_a_crop_of_a_size_that_crops_no_more_can_be_deleted(
    serve: Serve, library: Library
) -> None:
    photo = library.ids["photo"]
    first = await serve(admin={"key": KEY})
    box = {"x": 0, "y": 0, "width": 0.5, "height": 0.5}
    await call(first, "PUT", f"/api/media/{photo}/crops/thumbnail", box)
    sizes = {"detail": {"width": 900}, "thumbnail": {"width": 300}}
    second = await serve(admin={"key": KEY}, sizes=sizes)
    path = f"/api/media/{photo}/crops/thumbnail"
    assert (await call(second, "GET", path))[1]["crops"] == {"thumbnail": box}
    assert (await shown(second, f"/serve/{photo}?size=thumbnail"))[0].width == 300
    assert (await call(second, "DELETE", path))[1]["crops"] == {}
    assert (await call(second, "DELETE", path))[0] == 400


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["focus", "crops/thumbnail", "background", "visibility", "alt"])
async def test_without_the_key_nothing_is_shown_or_changed(
    keyed: Serving, untouched: int, method: str, path: str
) -> None:
    url = f"/api/media/{untouched}/{path}"
    for headers, status in (({}, 401), ({"Authorization": "Bearer wrong"}, 401)):
        async with keyed.client.request(method, url, headers=headers) as answer:
            assert answer.status == status
            assert answer.headers["Cache-Control"] == "no-store"
    _, told = await call(keyed, "GET", f"/api/media/{untouched}/choices")
    assert (told["focus"], told["background"], told["alt"]) == (None, None, {})


async def test_disabled_admin_routes_do_not_exist(serve: Serve) -> None:
    server = await serve(admin={"enabled": False, "key": KEY})
    assert (await call(server, "PUT", "/api/media/1/focus", {"x": 0, "y": 0}))[0] == 404
    async with server.client.get("/openapi.json") as answer:
        assert "/focus" not in await answer.text()


async def test_a_change_is_logged_with_the_tag_to_purge(server: Serving, halves: int) -> None:
    with capture_logs() as logs:
        await call(server, "PUT", f"/api/media/{halves}/focus", {"x": 1, "y": 0.5})
        await call(server, "DELETE", f"/api/media/{halves}/crops/thumbnail")
        await call(server, "PUT", f"/api/media/{halves}/alt", {"en": "Two colours"})
    changes = [one for one in logs if one["event"] == "image_choice_changed"]
    assert [one["cache_tag"] for one in changes] == [f"m-{halves}"] * 3
    assert changes[0]["focus"] == [1.0, 0.5]
    assert (changes[1]["size"], changes[1]["crop"]) == ("thumbnail", None)
    assert changes[2]["languages"] == ["en"]
    assert all(one["client"] for one in changes)


@pytest.mark.parametrize("query", ["fp=1,0.5", "fp-x=1&fp-y=0.5", "focus=1,0.5", "crop=0,0,9,9"])
async def test_no_parameter_of_an_address_moves_a_crop(
    keyed: Serving, untouched: int, query: str
) -> None:
    url = f"/serve/{untouched}?size=thumbnail&format=png"
    _, plain = await shown(keyed, url)
    _, asked = await shown(keyed, f"{url}&{query}")
    assert asked["ETag"] == plain["ETag"]
    assert asked["Smartserve-Ignored"]


async def test_editors_who_set_different_values_at_once_all_succeed(
    server: Serving, halves: int
) -> None:
    media = f"/api/media/{halves}"
    box = {"x": 0, "y": 0, "width": 0.5, "height": 0.5}
    calls = [
        call(server, "PUT", f"{media}/focus", {"x": 1, "y": 0.5}),
        call(server, "PUT", f"{media}/crops/header", box),
        call(server, "PUT", f"{media}/crops/thumbnail", box),
        call(server, "PUT", f"{media}/background", {"value": "removed"}),
        *(call(server, "PUT", f"{media}/alt", {f"de-x-{at}": "x"}) for at in range(4)),
    ]
    assert {status for status, _ in await asyncio.gather(*calls)} == {200}
    _, told = await call(server, "GET", f"{media}/choices")
    assert told["focus"] == {"x": 1.0, "y": 0.5}
    assert told["crops"] == {"header": box, "thumbnail": box}
    assert (told["background"], len(told["alt"])) == ("removed", 4)


async def test_an_animation_is_cropped_page_by_page(server: Serving, tmp_path: Path) -> None:
    pages = [Image.new("RGB", (400, 200), RED) for _ in range(2)]
    for at, page in enumerate(pages):
        page.paste(BLUE, (200 + at, 0, 400, 200))
    pages[0].save(tmp_path / "moving.gif", save_all=True, append_images=pages[1:])
    taken = await server.services.importer.import_file(
        tmp_path / "moving.gif", user_id=7, data_type=DataType.PRODUCT
    )
    media_id = taken.media_id  # type: ignore[union-attr]
    await call(server, "PUT", f"/api/media/{media_id}/focus", {"x": 1, "y": 0})
    image, _ = await shown(server, f"/serve/{media_id}?size=thumbnail&format=webp")
    assert (image.n_frames, image.size) == (2, (200, 200))  # type: ignore[attr-defined]
    for at in range(2):
        image.seek(at)
        assert colours(image)[1:] == "bb"


async def test_a_change_of_visibility_is_applied_returned_and_idempotent(
    server: Serving, halves: int
) -> None:
    image, path = f"/serve/{halves}?w=64", f"/api/media/{halves}/visibility"
    assert (await server.client.get(image)).status == 200
    for _ in range(2):
        status, found = await call(server, "PUT", path, {"visibility": "private"})
        assert (status, found["visibility"], found["private"]) == (200, "private", True)
        assert found["cache_tag"] == f"m-{halves}"
        # Without a key of signed URLs nobody can see it, and it is private nevertheless.
        assert (await server.client.get(image)).status == 404
    _, found = await call(server, "DELETE", path)
    assert (found["visibility"], found["private"]) == (None, False)
    assert (await server.client.get(image)).status == 200


@pytest.mark.parametrize(
    "body",
    [{}, {"visibility": None}, {"visibility": "secret"}, {"visibility": ["private"]}, {"a": 1}],
)
async def test_another_visibility_is_refused_with_the_allowed_ones(
    keyed: Serving, untouched: int, body: dict[str, Any]
) -> None:
    status, found = await call(keyed, "PUT", f"/api/media/{untouched}/visibility", body)
    assert (status, found["allowed"]) == (400, "public or private")


async def test_an_image_is_private_at_once_even_if_the_outcome_of_the_commit_is_unknown(
    server: Serving, halves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This server skips its own announcements, so nothing else would drop the response."""
    image = f"/serve/{halves}?w=64"
    assert (await server.client.get(image)).status == 200
    write = ChoicesRepository.set_visibility

    async def uncertain(self: ChoicesRepository, *values: Any) -> None:
        await write(self, *values)
        raise DatabaseUnavailable("the connection was lost during the commit")

    monkeypatch.setattr(ChoicesRepository, "set_visibility", uncertain)
    path = f"/api/media/{halves}/visibility"
    status, _ = await call(server, "PUT", path, {"visibility": "private"})
    assert status == 503
    assert (await server.client.get(image)).status == 404


async def test_a_disk_that_fails_does_not_undo_a_change(
    server: Serving, halves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def purge(*_: object) -> int:
        raise StorageError("the disk fails")

    monkeypatch.setattr(TieredStore, "purge", purge)
    status, _ = await call(server, "PUT", f"/api/media/{halves}/focus", {"x": 1, "y": 0.5})
    assert status == 200
    url = f"/serve/{halves}?size=thumbnail&format=png"
    assert colours((await shown(server, url))[0]) == "bbb"
