"""Private media: an unsigned request, however it is spelled, gets the answer to an unknown id."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from yarl import URL

from proxy.domain.embedding import Embedding
from proxy.domain.media import DataType, Visibility
from proxy.domain.signature import Scope
from proxy.domain.urls import image_url, original_url
from proxy.library.import_files import ImportedFile
from proxy.storage.database.embeddings import replace_embedding, row_of
from proxy.web.routes import describe
from tests.domain.test_embedding import rotated, vector
from tests.support.commands import KEY
from tests.support.server import ACCESS, CHROME, SAMPLES, Background, Library, Serve, Serving
from tests.support.uploads import KEYED, signed

BEARER = {"Authorization": f"Bearer {KEY}"}
UNKNOWN = 999_999
PRIVATE = "private"
VARYING = ("date", "x-request-id")


class Guarded:
    """A server whose photo is private."""

    def __init__(self, server: Serving, media_id: int) -> None:
        self.server = server
        self.id = media_id
        self.access = server.services.serving.access

    def signed(self, *, ttl_s: int = 600, media_id: int | None = None, **parameters: Any) -> str:
        """Return a signed path."""
        expires = int(time.time()) + ttl_s

        def sign(media_id: int, covers: str) -> str:
            return self.access.keys.parameters(Scope.RENDITION, media_id, covers, expires=expires)

        return image_url(self.id if media_id is None else media_id, signer=sign, **parameters)

    async def get(self, path: str, *, method: str = "GET", **headers: str) -> Any:
        named = {
            "Accept": CHROME,
            **{key.replace("_", "-"): value for key, value in headers.items()},
        }
        answer = await self.server.client.request(method, URL(path, encoded=True), headers=named)
        await answer.read()
        return answer

    async def set(self, visibility: str) -> Any:
        return await self.server.client.put(
            f"/api/media/{self.id}/visibility", json={"visibility": visibility}, headers=BEARER
        )

    async def like_unknown(self, path: str, *, method: str = "GET", **headers: str) -> None:
        """Check that a path is answered like that of an id that does not exist."""
        answer = await self.get(path, method=method, **headers)
        other = await self.get(
            path.replace(f"/{self.id}", f"/{UNKNOWN}", 1), method=method, **headers
        )
        assert answer.status == HTTPStatus.NOT_FOUND, (path, answer.status)
        assert await answer.read() == await other.read(), path
        assert described(answer.headers) == described(other.headers), path


def described(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in VARYING}


@pytest.fixture
async def guarded(serve: Serve, library: Library) -> Guarded:
    server = await serve(access=ACCESS, admin={"key": KEY})
    found = Guarded(server, library.ids["photo"])
    answer = await found.set("private")
    assert answer.status == 200, await answer.text()
    return found


@pytest.fixture(scope="session")
def _secret(keyed_background: Background) -> int:
    """A private image on the server `keyed`."""

    async def add() -> int:
        async with keyed_background.serving() as keyed:
            path = sorted(SAMPLES.glob("*.jpg"))[1]
            taken = await keyed.services.importer.import_file(
                path, user_id=9, data_type=DataType.PRODUCT
            )
            media_id: int = taken.media_id  # type: ignore[union-attr]
            assert (await Guarded(keyed, media_id).set(PRIVATE)).status == 200
            return media_id

    return keyed_background.portal.call(add)


@pytest.fixture
async def secret(keyed: Serving, _secret: int) -> Guarded:
    """A server with a private image, as `guarded`, for tests that change nothing."""
    return Guarded(keyed, _secret)


async def test_a_private_image_is_like_an_unknown_one_on_every_path(secret: Guarded) -> None:
    media_id = secret.id
    # Rendered and hot for those who may see it.
    for _ in range(3):
        assert (await secret.get(secret.signed(size="thumbnail"))).status == 200
    for path in (
        *(f"/serve/{media_id}", f"/api/images/{media_id}", f"/serve/{media_id}?size=thumbnail"),
        *(f"/serve/{media_id}.jpg", f"/serve/{media_id}.webp?size=thumbnail"),
        *(f"/serve/{media_id}?SIZE=thumbnail", f"/serve/{media_id}?v=1"),
        f"/serve/{media_id}?size=thumbnail&sig={'A' * 43}&exp={int(time.time()) + 60}&kid=a",
        f"/info/{media_id}",
    ):
        for method in ("GET", "HEAD"):
            await secret.like_unknown(path, method=method)
    await secret.like_unknown(f"/serve/{media_id}?size=thumbnail", Range="bytes=0-9")
    await secret.like_unknown(f"/serve/{media_id}?size=thumbnail", If_None_Match="*")


async def test_conditions_do_not_confirm_a_private_image(secret: Guarded) -> None:
    path = secret.signed(size="thumbnail")
    first = await secret.get(path)
    etag, date = first.headers["ETag"], first.headers["Last-Modified"]
    plain = f"/serve/{secret.id}?size=thumbnail"
    await secret.like_unknown(plain, If_None_Match=etag)
    await secret.like_unknown(plain, If_Modified_Since=date)
    await secret.like_unknown(plain, Range="bytes=0-9", If_Range=etag)
    answer = await secret.get(path, If_None_Match=etag)
    assert answer.status == 304
    assert lifetime(answer.headers["Cache-Control"]) <= 600


def lifetime(control: str) -> int:
    assert control.startswith("private, max-age="), control
    assert "stale" not in control
    assert "immutable" not in control
    return int(control.partition("max-age=")[2].partition(",")[0])


async def test_a_signed_image_is_never_fresh_beyond_its_expiry(secret: Guarded) -> None:
    path = secret.signed(size="thumbnail", ttl_s=120, version="1")
    expires = int(path.partition("exp=")[2].partition("&")[0])
    for headers in ({}, {}, {}, {"Range": "bytes=0-9"}, {"If_None_Match": "*"}):
        for method in ("GET", "HEAD"):
            answer = await secret.get(path, method=method, **headers)
            seconds = lifetime(answer.headers["Cache-Control"])
            # The clock of this test is read after the response was made.
            assert 0 < seconds <= 120
            assert time.time() + seconds <= expires + 30
    assert answer.headers["Vary"] == "Accept"


async def test_a_shared_cache_may_keep_signed_images_if_the_settings_say_so(
    serve: Serve, library: Library
) -> None:
    server = await serve(
        access={**ACCESS, "default_visibility": {"product": "private"}},
        lifetimes={"signed_shared": True},
    )
    guarded = Guarded(server, library.ids["photo"])
    for _ in range(3):
        answer = await guarded.get(guarded.signed(size="thumbnail", ttl_s=300))
        control = answer.headers["Cache-Control"]
        assert control.startswith("public, max-age=")
        assert control.endswith(", must-revalidate")
        shared = int(control.partition("s-maxage=")[2].partition(",")[0])
        assert 0 < shared <= 300


async def test_a_hot_signed_answer_is_not_given_to_others(secret: Guarded) -> None:
    path = secret.signed(size="thumbnail")
    for _ in range(4):
        answer = await secret.get(path)
        assert answer.status == 200
    assert "detail=memory" in answer.headers["Cache-Status"]
    head, _, signature = path.rpartition("&sig=")
    for other in (
        head,
        f"{head}&sig=",
        f"{head}&sig={signature[:-1]}",
        f"{head}&sig={signature[:-1]}-",
        f"{head}&sig=%{ord(signature[0]):02x}{signature[1:]}",
        f"{head}&si%67={signature}",
        path.replace("size=thumbnail", "size=detail"),
        path.replace("size=thumbnail", "size=header"),
        path.replace(f"/{secret.id}?", f"/{secret.id}.webp?"),
        path.replace("kid=a", "kid=b"),
        f"{path}&format=webp",
        f"{path}&bg=removed",
        f"{path}&dpr=2",
        f"{path}&size=detail",
    ):
        await secret.like_unknown(other)
    # The same variant: another route, order or tracking parameter does not matter.
    alias = path.replace("/serve/", "/api/images/")
    for same in (alias, f"{path}&utm_source=x", f"{path}&v=2", f"{path}&SIZE=Thumbnail"):
        assert (await secret.get(same)).status == 200


async def test_wrong_signatures_neither_enter_nor_flush_the_caches(guarded: Guarded) -> None:
    path = guarded.signed(size="thumbnail")
    for _ in range(3):
        await guarded.get(path)
    cache = guarded.server.surface.runner
    store = guarded.server.services.storage.renditions
    puts, renders = store.puts, guarded.server.renders()
    await asyncio.gather(
        *(
            guarded.get(f"/serve/{guarded.id}?size=zoom&exp=2000000000&kid=a&sig={number:043d}")
            for number in range(200)
        )
    )
    assert (store.puts, guarded.server.renders()) == (puts, renders)
    assert cache is not None
    answer = await guarded.get(path)
    assert "detail=memory" in answer.headers["Cache-Status"]
    assert guarded.server.metric("smartserve_signature_refusals_total", reason="too_long") == 0
    assert guarded.server.metric("smartserve_signature_refusals_total", reason="wrong") == 200


async def test_a_public_image_ignores_signatures(keyed: Serving, library: Library) -> None:
    guarded = Guarded(keyed, library.ids["photo"])
    plain = await guarded.get(f"/serve/{guarded.id}?size=thumbnail")
    for signature in ("sig=x", f"exp=1&kid=a&sig={'A' * 43}", "sig=x&exp=foo"):
        answer = await guarded.get(f"/serve/{guarded.id}?size=thumbnail&{signature}")
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == plain.headers["Cache-Control"]
        assert answer.headers["ETag"] == plain.headers["ETag"]


async def test_a_change_takes_effect_at_once_and_drops_hot_answers(guarded: Guarded) -> None:
    path = f"/serve/{guarded.id}?size=thumbnail"
    assert (await (await guarded.set("public")).json())["private"] is False
    for _ in range(4):
        assert (await guarded.get(path)).status == 200
    changed = await (await guarded.set("private")).json()
    assert changed["private"] is True
    assert changed["cache_tag"] == f"m-{guarded.id}"
    await guarded.like_unknown(path)
    signed = guarded.signed(size="thumbnail")
    for _ in range(4):
        assert (await guarded.get(signed)).status == 200
    reset = await guarded.server.client.delete(
        f"/api/media/{guarded.id}/visibility", headers=BEARER
    )
    assert (await reset.json())["visibility"] is None
    answer = await guarded.get(path)
    assert answer.headers["Cache-Control"].startswith("public")


async def test_the_description_is_for_holders_of_a_key(secret: Guarded) -> None:
    media_id, key = secret.id, {"Authorization": f"Bearer {KEY}"}
    wrong = {"Authorization": "Bearer wrong-key-of-nobody"}
    await secret.like_unknown(f"/info/{media_id}", **wrong)
    refused = await secret.get(f"/info/{media_id}")
    assert "Authorization" in refused.headers["Vary"]
    answer = await secret.get(f"/info/{media_id}", **key)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    found = await answer.json()
    addresses = [*found["urls"].values(), found["links"]["picture"]]
    for candidates in found["srcset"].values():
        addresses += [one.strip().partition(" ")[0] for one in candidates.split(",")]
    for address in addresses:
        assert "&sig=" in address, address
    for address in (found["urls"]["thumbnail"], found["links"]["picture"], addresses[-1]):
        assert (await secret.get(address)).status == 200


async def test_lists_of_descriptions_hide_private_images(secret: Guarded, library: Library) -> None:
    ids = f"/info?ids={secret.id},{library.ids['badge']},{UNKNOWN}"
    found = await (await secret.get(ids)).json()
    assert [one["id"] for one in found["pictures"]] == [library.ids["badge"]]
    missing = {one["id"]: (one["status"], one["detail"]) for one in found["missing"]}
    assert missing[secret.id] == missing[UNKNOWN]
    posted = await secret.server.client.post("/info", json={"ids": [secret.id]})
    assert [one["status"] for one in (await posted.json())["missing"]] == [404]
    shown = await secret.get(ids, Authorization=f"Bearer {KEY}")
    assert shown.headers["Cache-Control"] == "no-store"
    assert len((await shown.json())["pictures"]) == 2


async def test_oembed_and_the_gallery_hide_private_images(secret: Guarded) -> None:
    base = str(secret.server.client.make_url("/")).rstrip("/")
    for path in (f"/serve/{secret.id}", secret.signed(size="thumbnail")):
        answer = await secret.server.client.get("/oembed", params={"url": f"{base}{path}"})
        unknown = await secret.server.client.get(
            "/oembed", params={"url": f"{base}/serve/{UNKNOWN}"}
        )
        assert answer.status == unknown.status == 404
        assert await answer.read() == await unknown.read()
        assert described(answer.headers) == described(unknown.headers)
    listed = await (await secret.get("/api/gallery")).json()
    assert secret.id not in [one["id"] for one in listed["pictures"]]
    assert listed["pictures"]


async def test_no_route_confirms_a_private_image_to_strangers(secret: Guarded) -> None:
    """Neither without a token, nor with that of a user who does not own the image."""
    client, tried = secret.server.client, set()

    async def answered(route: str, media_id: int, **options: Any) -> tuple[int, str, object]:
        method, path = route.split()
        for name in ("{id}", "{media_id}"):
            path = path.replace(name, str(media_id))
        async with client.request(method, path, **options) as answer:
            text = (await answer.text()).replace(str(media_id), "ID")
            return answer.status, text, described(answer.headers)

    routes = [
        f"{method.upper()} {path.replace('{size}', 'thumbnail')}"
        for path, methods in describe(secret.server.services.settings)["paths"].items()
        for method in methods
        if "{id}" in path or "{media_id}" in path
    ]
    # Only these routes take tokens of users. The others would count one as a wrong key.
    for_users = [route for route in routes if "/api/metadata" in route]
    for headers, some in (({}, routes), (signed(), for_users)):
        for route in some:
            found = await answered(route, secret.id, headers=headers)
            assert found[0] in (401, 403, 404), route
            status, text, sent = await answered(route, UNKNOWN, headers=headers)
            # The lengths of the ids differ.
            assert without_length(found) == without_length((status, text, sent)), route
            tried.add(route)
    assert tried >= {
        "GET /info/{id}",
        "GET /api/media/{id}/original",
        "GET /api/media/{id}/choices",
        "GET /api/media/{id}/near-duplicates",
        "GET /api/media/analysis/{media_id}",
        "GET /api/media/similar/{media_id}",
        "GET /api/metadata/{media_id}",
    }
    for route in ("POST /api/metadata/moderate", "POST /api/extract/jobs"):
        bodies = [
            await answered(route, one, headers=signed(), json={"media_id": one})
            for one in (secret.id, UNKNOWN)
        ]
        assert bodies[0][0] == 404, bodies
        assert without_length(bodies[0]) == without_length(bodies[1])
    anonymous = await client.post("/api/metadata/moderate", json={"media_id": secret.id})
    assert anonymous.status == 404
    listed = await client.get("/api/metadata/search", headers=signed())
    assert (await listed.json())["images"] == []


def without_length(answer: tuple[int, str, object]) -> tuple[int, str, dict[str, str]]:
    status, text, headers = answer
    assert isinstance(headers, dict)
    return status, text, {name: one for name, one in headers.items() if name != "Content-Length"}


async def test_the_page_does_not_name_a_private_file(secret: Guarded, library: Library) -> None:
    public, private = (path.read_bytes() for path in sorted(SAMPLES.glob("*.jpg"))[:2])
    for content, media_id in ((public, library.ids["photo"]), (private, None)):
        known = f"/api/page/known?sha256={sha256(content).hexdigest()}"
        assert (await (await secret.get(known)).json())["id"] == media_id


async def test_similar_private_images_have_signed_addresses_for_holders_of_the_key(
    secret: Guarded, keyed_background: Background, tmp_path: Path
) -> None:
    async def add() -> list[int]:
        public: list[int] = []
        async with keyed_background.serving() as keyed:
            for colour in ("navy", "teal"):
                path = tmp_path / f"{colour}.png"
                Image.new("RGB", (8, 8), colour).save(path)
                taken = await keyed.services.importer.import_file(
                    path, user_id=9, data_type=DataType.PRODUCT
                )
                assert isinstance(taken, ImportedFile)
                public.append(taken.media_id)
            async with keyed.services.storage.repository.transaction() as connection:
                for angle, one in enumerate((public[0], secret.id, public[1])):
                    found = Embedding("private", rotated(vector(1), angle / 9))
                    await replace_embedding(connection, await row_of(one, found))
        return public

    server, public = secret.server, keyed_background.portal.call(add)
    similar = f"/api/media/similar/{public[0]}"
    for headers in ({}, signed(), {"Authorization": "Bearer wrong-key-of-nobody"}):
        refused = await server.client.get(similar, headers=headers)
        assert refused.status == 401
        assert "similar" not in await refused.json()
    answer = await server.client.get(similar, headers=KEYED)
    assert answer.headers["Cache-Control"] == "no-store"
    found = {one["media_id"]: one["url"] for one in (await answer.json())["similar"]}
    assert list(found) == [secret.id, public[1]]
    assert "sig=" not in found[public[1]]
    shown = await secret.get(found[secret.id])
    assert (shown.status, shown.headers["Cache-Control"][:7]) == (200, "private")


async def test_a_private_image_in_progress_is_not_confirmed(serve: Serve, library: Library) -> None:
    server = await serve(access={**ACCESS, "default_visibility": {"product": "private"}})
    guarded = Guarded(server, library.ids["photo"])
    async with server.services.storage.repository.transaction() as connection:
        await connection.exec_driver_sql(
            "UPDATE media_files SET status = 'processing', bulk_path = NULL"
        )
    await guarded.like_unknown(f"/serve/{guarded.id}")
    await guarded.like_unknown(f"/info/{guarded.id}")
    assert (await guarded.get(guarded.signed())).status in (404, 503)


async def test_the_defaults_by_data_type_apply(serve: Serve, library: Library) -> None:
    server = await serve(
        access={**ACCESS, "default_visibility": {"product": "private"}}, admin={"key": KEY}
    )
    guarded = Guarded(server, library.ids["photo"])
    await guarded.like_unknown(f"/serve/{guarded.id}")
    assert (await (await guarded.set("public")).json())["private"] is False
    assert (await guarded.get(f"/serve/{guarded.id}")).status == 200


async def test_the_cache_refuses_a_response_whose_visibility_has_changed_meanwhile(
    guarded: Guarded,
) -> None:
    database = guarded.server.services.storage.database
    await guarded.set("public")
    old = await database.find(guarded.id)
    assert old is not None
    assert old.choices.visibility is Visibility.PUBLIC
    # A request that is being rendered while the image becomes private.
    path = f"/serve/{guarded.id}?w=384"
    rendering = asyncio.ensure_future(guarded.get(path))
    await guarded.set("private")
    await rendering
    for _ in range(3):
        await guarded.like_unknown(path)


def after_once(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], Awaitable[Any]]
) -> None:
    """Let the next call of a coroutine method be followed by an act, before it returns."""
    work, acts = getattr(owner, name), [act]

    async def wrapped(*args: Any, **named: Any) -> Any:
        result = await work(*args, **named)
        while acts:
            await acts.pop()()
        return result

    monkeypatch.setattr(type(owner), name, staticmethod(wrapped))


@pytest.fixture
async def opened(guarded: Guarded) -> Guarded:
    await guarded.set("public")
    return guarded


@pytest.mark.parametrize("query", ["?size=thumbnail", "?size=thumbnail&v=1"])
@pytest.mark.parametrize("route", ["serve", "api/images"])
@pytest.mark.parametrize("stored", [False, True])
async def test_an_image_that_becomes_private_during_its_request_is_not_sent(
    opened: Guarded, monkeypatch: pytest.MonkeyPatch, route: str, query: str, *, stored: bool
) -> None:
    path, services = f"/{route}/{opened.id}{query}", opened.server.services
    if stored:
        await opened.get(path)
        services.storage.renditions.memory.clear()
        cache = opened.server.surface.runner.pipeline._response_cache
        cache.clear()
        after_once(monkeypatch, services.serving.stored_lookup, "find", lambda: opened.set(PRIVATE))
    else:
        after_once(monkeypatch, services.serving.delivery, "fetch", lambda: opened.set(PRIVATE))
    await opened.like_unknown(path)


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-9"}])
async def test_an_image_that_changes_during_its_request_is_looked_up_again_and_not_cached(
    opened: Guarded, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    path, services = f"/serve/{opened.id}?size=thumbnail", opened.server.services

    async def crop() -> None:
        focus = {"x": 0.9, "y": 0.9}
        url = f"/api/media/{opened.id}/focus"
        answer = await opened.server.client.put(url, json=focus, headers=BEARER)
        assert answer.status == 200, await answer.text()

    after_once(monkeypatch, services.serving.delivery, "fetch", crop)
    during = await opened.get(path, **headers)
    later = await opened.get(path)
    assert during.headers["ETag"] == later.headers["ETag"]
    assert during.headers["Cache-Control"] == "no-store"
    assert later.headers["Cache-Control"].startswith("public, max-age=31536000")


@pytest.mark.parametrize("purge", ["/api/media/{}/renditions", "/api/renditions"])
async def test_a_response_that_began_before_a_purge_is_not_cached(
    opened: Guarded, monkeypatch: pytest.MonkeyPatch, purge: str
) -> None:
    async def delete() -> None:
        url = purge.format(opened.id)
        answer = await opened.server.client.delete(url, headers=BEARER)
        assert answer.status == 200, await answer.text()

    after_once(monkeypatch, opened.server.services.serving.delivery, "fetch", delete)
    during = await opened.get(f"/serve/{opened.id}?size=thumbnail")
    assert (during.status, during.headers["Cache-Control"]) == (200, "no-store")


async def test_a_304_that_began_before_a_change_does_not_renew_a_cached_image(
    opened: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, services = f"/serve/{opened.id}?size=thumbnail", opened.server.services
    first = await opened.get(path)
    services.storage.renditions.memory.clear()
    after_once(monkeypatch, services.serving.delivery, "fetch", lambda: opened.set(PRIVATE))
    date = first.headers["Last-Modified"]
    await opened.like_unknown(path, If_Modified_Since=date)


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/info/{}", "describe"),
        ("/info?ids={},3", "describe"),
        ("/oembed?url={base}/serve/{}", "alt_texts"),
    ],
)
async def test_a_description_that_began_before_a_change_is_not_cached(
    opened: Guarded, monkeypatch: pytest.MonkeyPatch, path: str, method: str
) -> None:
    client, services = opened.server.client, opened.server.services
    path = path.format(opened.id, base=f"http://{client.host}:{client.port}")
    after_once(monkeypatch, services.serving.image_info, method, lambda: opened.set(PRIVATE))
    answer = await opened.get(path)
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    await opened.set("public")
    assert (await opened.get(path)).headers["Cache-Control"].startswith("public, ")


async def test_under_overload_a_signed_url_gets_no_other_size(guarded: Guarded) -> None:
    thumbnail = guarded.signed(size="thumbnail")
    for size in ("zoom", "detail"):
        assert (await guarded.get(guarded.signed(size=size))).status == 200
    await guarded.server.services.serving.renderer.drain()
    guarded.server.services.rendering.admission.close()
    answer = await guarded.get(thumbnail)
    assert answer.status == 503


async def test_the_signature_is_not_logged(
    serve: Serve, library: Library, capfd: pytest.CaptureFixture[str]
) -> None:
    server = await serve(access=ACCESS, log={"access": True, "level": "debug"})
    guarded = Guarded(server, library.ids["photo"])
    path = guarded.signed(size="thumbnail")
    value = path.rpartition("=")[2]
    for _ in range(3):
        await guarded.get(path)
    await guarded.get(f"/oembed?url={path.replace('=', '%3D')}")
    assert server.surface.access_log is not None
    server.surface.access_log.flush()
    await server.client.close()
    printed = "".join(capfd.readouterr())
    assert value not in printed


def test_the_original_has_its_own_signature() -> None:
    assert original_url(7, signer=lambda _, covers: f"sig={covers}").endswith("sig=metadata=kept")
