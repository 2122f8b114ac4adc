"""Uploads over HTTP: what is accepted, what is rejected, and what remains."""

from __future__ import annotations

import asyncio
import gzip
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from aiohttp import FormData

from proxy.domain.errors import UploadStorageError
from proxy.domain.worker_protocol import WorkerInfo
from proxy.rendering.pool.pool import WorkerPool
from proxy.storage.upload_files import IncomingFile
from tests.support.server import Serve, Serving
from tests.support.uploads import (
    BOUNDED,
    KEYED,
    LOGO,
    MAIN,
    PHOTO,
    USERS,
    form,
    nothing_is_left,
    parts,
    queue,
    signed,
    temp_files,
    upload,
)
from tests.web.wire import answers, exchange, until

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><rect/></svg>'
PDF = b"%PDF-1.7\n" + bytes(600)


@pytest.fixture
async def server(serve: Serve) -> Serving:
    main = {**MAIN, "max_file_bytes": 1_000_000, "upload_stall_s": 5}
    return await serve(main=main, users=USERS)


async def refused(server: Serving, data: object, **headers: str) -> tuple[int, str]:
    """Return status and detail of a rejected upload; assert that nothing remains."""
    before = await left(server)
    async with server.client.patch(
        "/users/me", data=data, headers={**signed(), **headers}
    ) as answer:
        told = await answer.json()
        assert answer.headers.get("Connection") == ("close" if data else None)
        assert answer.headers["Content-Type"] == "application/problem+json"
    await until(lambda: temp_files(server) == before[0])
    assert await left(server) == before
    return answer.status, told["detail"]


async def left(server: Serving) -> tuple[list[Path], int]:
    """Return the files of uploads, and the number of rows."""
    return temp_files(server), (await queue(server))["total"]


async def test_an_upload_is_stored_queued_and_described(server: Serving) -> None:
    (image,) = await upload(server)
    assert image["field"] == "profile_image"
    assert image["status"] == "pending"
    assert image["byte_size"] == len(PHOTO)
    assert image["mime_type"] == "image/jpeg"
    assert re.fullmatch(
        r"/temp_images/profiles/456-profile-[0-9]{10}-[0-9]{38}\.jpg", image["image_path"]
    )
    (path,) = temp_files(server)
    assert image["image_path"].endswith(f"/{path.parent.name}/{path.name}")
    assert path.read_bytes() == PHOTO
    (row,) = (await queue(server))["images"]
    assert row["id"] == image["id"]
    assert row["user_id"] == 456
    assert row["original_name"] == "profile_image.jpg"
    assert server.metric("smartserve_uploads_total") == 1
    assert server.metric("smartserve_upload_bytes_total") == len(PHOTO)


async def test_a_form_may_have_several_files_and_texts(server: Serving) -> None:
    fields = ["profile_image", "header_image", "logo_image", "site_image", "product_image"]
    files = dict.fromkeys([*fields, "event_image"], PHOTO) | {"logo_image": LOGO}
    data = form(files, bio="x" * 10_000, name="Åsa")
    async with server.client.patch("/users/me", data=data, headers=signed()) as answer:
        images = (await answer.json())["images"]
    assert [image["field"] for image in images] == list(files)
    folders = [image["image_path"].split("/")[2] for image in images]
    assert folders == ["profiles", "profiles", "profiles", "sites", "profiles", "profiles"]
    assert images[2]["image_path"].endswith(".png")
    assert (await queue(server))["total"] == len(temp_files(server)) == 6


async def test_an_upload_wakes_the_embedded_worker(server: Serving) -> None:
    assert not server.services.upload_arrived.is_set()
    await upload(server)
    assert server.services.upload_arrived.is_set()


@pytest.mark.parametrize(("body", "kind"), [(PDF, "not an image"), (b"x", "not an image")])
async def test_the_type_is_detected_from_the_bytes(keyed: Serving, body: bytes, kind: str) -> None:
    before = keyed.metric("smartserve_upload_refusals_total", reason="unsupported")
    status, detail = await refused(keyed, form({"profile_image": PHOTO, "logo_image": body}))
    assert status == 415
    assert f"is {kind}" in detail
    assert keyed.metric("smartserve_upload_refusals_total", reason="unsupported") == before + 1


async def test_an_svg_is_accepted_unless_the_settings_exclude_it(serve: Serve) -> None:
    strict = await serve(main=MAIN, users=USERS, limits={"source_types": ["jpeg", "png"]})
    status, detail = await refused(strict, form({"logo_image": SVG}))
    assert (status, "is svg. Accepted: jpeg, png" in detail) == (415, True)
    server = await serve(main=MAIN, users=USERS)
    await upload(server, {"logo_image": SVG})
    assert [path.suffix for path in temp_files(server)] == [".svg"]


async def test_a_file_that_no_worker_can_decode_is_rejected(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    hello = WorkerInfo("8.18.7", ("jpeg", "png"), {})
    monkeypatch.setattr(WorkerPool, "hello", property(lambda _: hello))
    server = await serve(main=MAIN, users=USERS)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(600)
    status, detail = await refused(server, form({"profile_image": heic}))
    assert (status, detail) == (415, "A file is heic. Accepted: jpeg, png.")


async def test_a_file_of_the_limit_is_accepted_and_one_byte_more_is_not(server: Serving) -> None:
    exact = PHOTO.ljust(1_000_000, b"\0")
    await upload(server, {"profile_image": exact})
    async with server.client.patch(
        "/users/me", data=form({"profile_image": exact + b"\0"}), headers=signed()
    ) as answer:
        assert answer.status == 413
    assert [path.stat().st_size for path in temp_files(server)] == [1_000_000]


async def test_an_endless_file_is_rejected_at_the_limit(keyed: Serving) -> None:
    """Without a length and an end: the response comes as soon as the file is too large."""

    async def endless() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="profile_image"; filename="x"\r\n\r\n'
        yield PHOTO
        while True:
            yield bytes(50_000)
            await asyncio.sleep(0)

    status, detail = await refused(keyed, endless(), **BOUNDED)
    assert (status, detail) == (413, "A file exceeds the limit of 1000000 bytes.")


@pytest.mark.parametrize("encoding", ["gzip", "br", "x"])
async def test_a_compressed_body_is_rejected(keyed: Serving, encoding: str) -> None:
    headers = {**BOUNDED, "Content-Encoding": encoding}
    status, _ = await refused(keyed, gzip.compress(bytes(5_000_000)), **headers)
    assert status == 415


_FILE = 'form-data; name="profile_image"; filename="x"'
_TEXT = {"Content-Disposition": 'form-data; name="x"'}
MALFORMED: dict[str, tuple[int, object]] = {
    "no file": (400, form({}, bio="x")),
    "an unknown field": (400, form({"avatar": PHOTO})),
    "an empty file": (400, form({"profile_image": b""})),
    "too many files": (400, parts(*[{"Content-Disposition": _FILE}] * 11)),
    "too many texts": (
        400,
        parts(*[_TEXT] * 101, body=b"x"),
    ),
    "a long text": (413, form({"profile_image": PHOTO}, bio="x" * 70_000)),
    "no name": (400, parts({"Content-Disposition": "form-data"})),
    "a bad disposition": (400, parts({"Content-Disposition": "form-data; name=\x80;;="})),
    "no disposition": (400, parts({"X": "y"})),
    "base64": (415, parts({"Content-Disposition": _FILE, "Content-Transfer-Encoding": "base64"})),
    "a packed part": (415, parts({"Content-Disposition": _FILE, "Content-Encoding": "gzip"})),
    "a form in the form": (400, parts({"Content-Type": "multipart/mixed; boundary=c"})),
    "a charset as long as a file": (
        413,
        parts({"Content-Disposition": 'form-data; name="_charset_"'}),
    ),
    "JSON": (415, '{"bio": "x"}'),
    "fields in the URL's form": (415, FormData({"bio": "x"})),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_an_invalid_form_is_rejected_completely(keyed: Serving, name: str) -> None:
    status, data = MALFORMED[name]
    headers = BOUNDED if isinstance(data, bytes) else {}
    assert (await refused(keyed, data, **headers))[0] == status


_HEAD = b'--b\r\nContent-Disposition: form-data; name="profile_image"; filename="x"\r\n\r\n'
CUT: dict[str, bytes] = {
    "nothing": b"",
    "no boundary": b"x" * 1000,
    "another boundary": _HEAD.replace(b"--b", b"--c") + PHOTO + b"\r\n--c--\r\n",
    "in the head": _HEAD[:40],
    "in the file": _HEAD + PHOTO[:5000],
    "before the end": _HEAD + PHOTO + b"\r\n--b",
    "a long line": b"--b\r\nX: " + b"y" * 100_000,
    "many headers": b"--b\r\n" + b"X: y\r\n" * 500,
    "no colon": b"--b\r\nX\r\n\r\nx\r\n--b--\r\n",
    "a trick": _HEAD + PHOTO + b"\r\n--bx\r\n" + _HEAD,
}


@pytest.mark.parametrize("name", CUT)
async def test_a_truncated_form_is_rejected(keyed: Serving, name: str) -> None:
    assert (await refused(keyed, CUT[name], **BOUNDED))[0] == 400


def raw(body: bytes, *lines: bytes, token: str = "") -> bytes:
    head = [
        b"PATCH /users/me HTTP/1.1",
        b"Host: x",
        f"Authorization: {token or signed()['Authorization']}".encode(),
        b"Content-Type: multipart/form-data; boundary=b",
        *lines,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


WHOLE = _HEAD + PHOTO + b"\r\n--b--\r\n"


def open_temp_files(server: Serving) -> list[str]:
    """Return the open files below the root of uploads; an incomplete file has no name there."""
    root = str(server.services.settings.temp_root)
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            links.append(str(descriptor.readlink()))
    return [link for link in links if link.startswith(root)]


async def test_a_disconnect_leaves_no_file_and_no_row(server: Serving) -> None:
    reader, writer = await asyncio.open_connection(server.client.host, server.client.port)
    writer.write(raw(b"", b"Content-Length: %d" % len(WHOLE)))
    pieces = (WHOLE[at : at + 200] for at in range(0, len(WHOLE), 200))

    def file_is_open() -> bool:
        # aiohttp's parser returns a chunk only after the next one has arrived.
        writer.write(next(pieces))
        return bool(open_temp_files(server))

    await until(file_is_open)
    writer.transport.abort()
    await until(lambda: not open_temp_files(server))
    assert await nothing_is_left(server)
    del reader


async def test_a_stalled_body_times_out(serve: Serve) -> None:
    server = await serve(main={**MAIN, "upload_stall_s": 0.3}, users=USERS)
    sent = raw(WHOLE[:50_000], b"Content-Length: %d" % len(WHOLE))
    (told,) = answers(await exchange(server.client.host, server.client.port or 0, sent))
    assert told.status == 408
    assert await nothing_is_left(server)
    assert server.metric("smartserve_upload_refusals_total", reason="slow") == 1


@pytest.mark.slow
async def test_a_slow_body_times_out_as_a_whole(serve: Serve) -> None:
    main = {**MAIN, "upload_stall_s": 1, "upload_timeout_s": 0.5}
    server = await serve(main=main, users=USERS, server={"header_timeout_s": 0.2})
    pieces = [WHOLE[at : at + 1000] for at in range(0, 30_000, 1000)]
    sent = raw(b"", b"Content-Length: %d" % len(WHOLE))
    told = await exchange(server.client.host, server.client.port or 0, sent, *pieces, pause_s=0.03)
    assert [one.status for one in answers(told)] == [408]
    assert await nothing_is_left(server)


@pytest.mark.slow
async def test_the_upload_timeout_does_not_include_the_database(serve: Serve) -> None:
    server = await serve(main={**MAIN, "upload_timeout_s": 0.5}, users=USERS)
    file = server.services.settings.main_url.removeprefix("sqlite+aiosqlite:///")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        sending = asyncio.create_task(upload(server))
        await until(lambda: any(path.suffix == ".jpg" for path in temp_files(server)))
        # Longer than the timeout of the upload.
        done, _ = await asyncio.wait([sending], timeout=0.8)
        assert not done
        other.execute("ROLLBACK")
        await sending
    assert (await queue(server))["total"] == len(temp_files(server)) == 1


@pytest.mark.slow
async def test_an_upload_may_take_longer_than_the_header_timeout(serve: Serve) -> None:
    limits = {"header_timeout_s": 0.2, "keepalive_s": 0.3}
    server = await serve(main=MAIN, users=USERS, server=limits)
    step = len(WHOLE) // 10 + 1
    pieces = [WHOLE[at : at + step] for at in range(0, len(WHOLE), step)]
    sent = raw(b"", b"Content-Length: %d" % len(WHOLE))
    told = await exchange(server.client.host, server.client.port or 0, sent, *pieces, pause_s=0.1)
    assert [one.status for one in answers(told)] == [200]


async def test_100_continue_is_sent_to_authenticated_clients_only(server: Serving) -> None:
    expect = (b"Expect: 100-continue", b"Content-Length: %d" % len(WHOLE))
    reader, writer = await asyncio.open_connection(server.client.host, server.client.port)
    writer.write(raw(b"", *expect))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(WHOLE)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    sent = raw(b"", *expect, token="Bearer wrong")
    (told,) = answers(await exchange(server.client.host, server.client.port or 0, sent))
    assert told.status == 401


async def test_input_after_the_body_is_discarded(server: Serving) -> None:
    second = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    for lines, body in (
        ((b"Content-Length: %d" % len(WHOLE),), WHOLE),
        ((b"Transfer-Encoding: chunked",), b"%x\r\n%b\r\n0\r\n\r\n" % (len(WHOLE), WHOLE)),
    ):
        for step in (10_000, 10_000_000):
            sent = raw(body + second + second, *lines)
            pieces = [sent[at : at + step] for at in range(0, len(sent), step)]
            told = await exchange(server.client.host, server.client.port or 0, *pieces, pause_s=0)
            (answer,) = answers(told)
            assert answer.status == 200
            assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhello\r\nxyz\r\n",
        b"fffffffffffffffff\r\nx",
        b"%x\r\n%b;\r\n0\r\n\r\n" % (len(WHOLE), WHOLE),
    ],
)
@pytest.mark.parametrize("pause_s", [0, 0.05])
async def test_malformed_chunks_are_rejected(keyed: Serving, body: bytes, pause_s: float) -> None:
    before = await left(keyed)
    sent = raw(b"", b"Transfer-Encoding: chunked")
    (told,) = answers(
        await exchange(keyed.client.host, keyed.client.port or 0, sent, body, pause_s=pause_s)
    )
    assert told.status == 400
    assert await left(keyed) == before


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Content-Length: 5", b"Content-Length: 6"),
        (b"Transfer-Encoding: identity",),
    ],
)
async def test_ambiguous_body_lengths_are_rejected(
    keyed: Serving, lines: tuple[bytes, ...]
) -> None:
    sent = raw(b"0\r\n\r\n", *lines)
    (told,) = answers(await exchange(keyed.client.host, keyed.client.port or 0, sent))
    assert told.status == 400


async def test_concurrent_uploads_are_independent(server: Serving) -> None:
    async def one(user: int) -> str:
        data = form({"profile_image": PHOTO + user.to_bytes(2, "big")})
        async with server.client.patch("/users/me", data=data, headers=signed(user)) as answer:
            return str((await answer.json())["images"][0]["image_path"])

    paths = await asyncio.gather(*(one(user) for user in range(1, 41)))
    assert len(set(paths)) == len(temp_files(server)) == 40
    for path in temp_files(server):
        user = int(path.name.partition("-")[0])
        assert path.read_bytes()[-2:] == user.to_bytes(2, "big")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("C:\\fakepath\\Bild 1.jpg", "Bild 1.jpg"),
        ("../../etc/passwd", "passwd"),
        ("Überfahrt 🚢.jpg", "Überfahrt 🚢.jpg"),
        ("x" * 400 + ".jpg", ("x" * 400 + ".jpg")[-255:]),
    ],
)
async def test_the_clients_file_name_is_stored_but_never_part_of_a_path(
    keyed: Serving, name: str, kept: str
) -> None:
    disposition = f'form-data; name="profile_image"; filename="{name}"'.replace("\\", "\\\\")
    body = parts({"Content-Disposition": disposition})
    headers = {**signed(), **BOUNDED}
    before = temp_files(keyed)
    async with keyed.client.patch("/users/me", data=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        (image,) = (await answer.json())["images"]
    (row,) = (one for one in (await queue(keyed))["images"] if one["id"] == image["id"])
    assert row["original_name"] == kept
    (added,) = set(temp_files(keyed)) - set(before)
    assert re.fullmatch(r"456-profile-[0-9]+-[0-9]+\.jpg", added.name)
    cleanup = f"/api/media/cleanup/{image['id']}"
    async with keyed.client.delete(cleanup, headers=KEYED) as answer:
        assert answer.status == 200, await answer.text()


async def test_without_uploads_the_routes_do_not_exist(serve: Serve) -> None:
    server = await serve(main={"enabled": False})
    for method, target in (
        ("PATCH", "/users/me"),
        ("GET", "/api/media/pending/all"),
        ("POST", "/api/media/complete/1"),
        ("GET", "/temp_images/profiles/x.jpg"),
    ):
        async with server.client.request(method, target, headers=KEYED) as answer:
            assert answer.status == 404
    async with server.client.patch("/users/me", data=PHOTO) as answer:
        assert answer.status == 404
    async with server.client.get("/openapi.json") as answer:
        assert "/users/me" not in (await answer.json())["paths"]


async def test_form_fields_that_are_not_stored_are_named_in_the_response(server: Serving) -> None:
    """A client that sends its whole profile must not believe that all of it was stored."""
    texts = {"bio": "x" * 10_000, "display_name": "Åsa", "header_image": "/old.jpg"}
    data = form({"profile_image": PHOTO}, logo_image="", **texts)
    data.add_field("bio", "again")
    async with server.client.patch("/users/me", data=data, headers=signed()) as answer:
        told = await answer.json()
    assert told["success"] is True
    assert told["ignored_fields"] == [*texts]
    async with server.client.patch(
        "/users/me", data=form({"profile_image": PHOTO}), headers=signed()
    ) as answer:
        assert (await answer.json())["ignored_fields"] == []


async def test_a_user_who_has_uploaded_enough_today_is_told_when_to_come_back(serve: Serve) -> None:
    main = {**MAIN, "max_uploads_per_day": 2}
    server = await serve(main=main, users=USERS)
    await upload(server)
    for files in ({"profile_image": PHOTO, "logo_image": LOGO}, {"profile_image": PHOTO}):
        async with server.client.patch("/users/me", data=form(files), headers=signed()) as answer:
            told = await answer.json()
            if len(files) == 1:
                assert answer.status == 200, "the refused form was not counted"
            else:
                assert (answer.status, told["detail"]) == (
                    429,
                    "You may upload 2 files per day. Retry after midnight UTC.",
                )
                assert 0 < int(answer.headers["Retry-After"]) <= 86_400
    async with server.client.patch(
        "/users/me", data=form({"profile_image": PHOTO}), headers=signed()
    ) as answer:
        assert answer.status == 429
    assert len(temp_files(server)) == 2
    assert server.metric("smartserve_upload_refusals_total", reason="quota") == 2
    # Others are not affected.
    async with server.client.patch(
        "/users/me", data=form({"profile_image": PHOTO}), headers=signed(457)
    ) as answer:
        assert answer.status == 200


async def test_a_failed_upload_costs_the_user_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve(main={**MAIN, "max_bytes_per_day": len(PHOTO)}, users=USERS)

    async def fail(_incoming: IncomingFile) -> None:
        raise UploadStorageError("no disk")

    with monkeypatch.context() as patch:
        patch.setattr(IncomingFile, "publish", fail)
        for _ in range(3):
            async with server.client.patch(
                "/users/me", data=form({"profile_image": PHOTO}), headers=signed()
            ) as answer:
                assert answer.status == 503
    await upload(server)
    async with server.client.patch(
        "/users/me", data=form({"profile_image": PHOTO}), headers=signed()
    ) as answer:
        assert answer.status == 429
