"""The original: for callers with a key or a signature of its own, and only as an attachment."""

from __future__ import annotations

import io
import os
import time
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from proxy.domain.signature import Scope
from proxy.domain.urls import image_url, original_url
from tests.support.commands import KEY as ADMIN
from tests.support.server import ACCESS, SAMPLES, Library, Serve, Serving
from tests.support.uploads import KEY as MEDIA

BEARER = {"Authorization": f"Bearer {MEDIA}"}


@pytest.fixture
async def server(serve: Serve) -> Serving:
    return await serve(access=ACCESS, admin={"key": ADMIN}, main={"key": MEDIA})


@pytest.fixture
def photo(data_dir: Path) -> Path:
    (found,) = (data_dir / "originals").rglob("kodak-*")
    return found


def signed(server: Serving, media_id: int, metadata: str | None = None, *, ttl_s: int = 60) -> str:
    keys, expires = server.services.serving.access.keys, int(time.time()) + ttl_s
    return original_url(
        media_id,
        metadata=metadata,
        signer=lambda one, covers: keys.parameters(Scope.ORIGINAL, one, covers, expires=expires),
    )


def path_of(library: Library, name: str = "photo", query: str = "") -> str:
    return f"/api/media/{library.ids[name]}/original{query}"


async def test_a_key_or_a_signature_is_needed(keyed: Serving, library: Library) -> None:
    plain = path_of(library)
    missing = await keyed.client.get(plain)
    assert missing.status == 401
    unknown = await keyed.client.get("/api/media/999999/original")
    assert (unknown.status, await unknown.read()) == (401, await missing.read())
    for key in (MEDIA, ADMIN):
        assert (
            await keyed.client.get(plain, headers={"Authorization": f"Bearer {key}"})
        ).status == 200
    wrong = {"Authorization": "Bearer wrong-key-of-nobody"}
    assert (await keyed.client.get(plain, headers=wrong)).status == 401
    address = signed(keyed, library.ids["photo"])
    assert (await keyed.client.get(address)).status == 200
    # HTTP clients add the header to every request.
    assert (await keyed.client.get(address, headers=wrong)).status == 200


async def test_no_other_signature_opens_the_original(keyed: Serving, library: Library) -> None:
    media_id = library.ids["photo"]
    keys, expires = keyed.services.serving.access.keys, int(time.time()) + 60
    rendition = image_url(
        media_id,
        signer=lambda one, covers: keys.parameters(Scope.RENDITION, one, covers, expires=expires),
    ).partition("?")[2]
    kept, stripped = signed(keyed, media_id), signed(keyed, media_id, "stripped")
    unknown = await keyed.client.get(signed(keyed, 999_999))
    for address in (
        f"{path_of(library)}?{rendition}",
        f"{kept}&metadata=stripped",
        stripped.replace("metadata=stripped", "metadata=kept"),
        stripped.replace("metadata=stripped&", ""),
        signed(keyed, media_id, ttl_s=-1),
        kept.replace(f"/{media_id}/", f"/{library.ids['badge']}/"),
        kept[:-1] + ("A" if kept[-1] != "A" else "B"),
    ):
        answer = await keyed.client.get(address)
        assert answer.status == 404, address
        assert await answer.read() == await unknown.read()


async def test_the_file_is_sent_unchanged_as_an_attachment(
    keyed: Serving, library: Library
) -> None:
    answer = await keyed.client.get(path_of(library), headers=BEARER)
    assert await answer.read() == min(SAMPLES.glob("*.jpg")).read_bytes()
    headers = answer.headers
    assert headers["Content-Type"] == "image/jpeg"
    assert headers["Content-Disposition"].startswith("attachment; ")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers


async def test_ranges_and_conditions_resume_a_download(
    server: Serving, library: Library, photo: Path
) -> None:
    path, content = path_of(library), photo.read_bytes()
    head = await server.client.head(path, headers=BEARER)
    assert int(head.headers["Content-Length"]) == len(content)
    etag = head.headers["ETag"]

    async def get(**headers: str) -> Any:
        return await server.client.get(path, headers={**BEARER, **headers})

    part = await get(Range="bytes=100-199", **{"If-Range": etag})
    assert (part.status, await part.read()) == (206, content[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(content)}"
    tail = await get(Range="bytes=-10")
    assert await tail.read() == content[-10:]
    assert (await get(Range=f"bytes={len(content)}-")).status == 416
    other = await get(Range="bytes=0-9", **{"If-Range": '"other"'})
    assert (other.status, await other.read()) == (200, content)
    several = await get(Range="bytes=0-1,5-6")
    assert (several.status, await several.read()) == (200, content)
    assert (await get(**{"If-None-Match": etag})).status == 304
    assert (await get(**{"If-Match": etag, "Range": "bytes=0-9"})).status == 206
    for wrong in ('"0"', f"W/{etag}"):
        assert (await get(**{"If-Match": wrong, "If-None-Match": etag})).status == 412
        assert (await get(**{"If-Match": wrong, "Range": "bytes=0-9"})).status == 412
    # The file was replaced.
    os.utime(photo, (1, 1))
    assert (await get(Range="bytes=0-9", **{"If-Range": etag})).status == 200


async def test_metadata_is_removed_without_encoding(keyed: Serving, library: Library) -> None:
    for name in ("photo", "badge"):
        kept = await keyed.client.get(path_of(library, name), headers=BEARER)
        answer = await keyed.client.get(
            path_of(library, name, "?metadata=stripped"), headers=BEARER
        )
        content = await answer.read()
        assert answer.status == 200, content
        assert len(content) == int(answer.headers["Content-Length"])
        before = Image.open(io.BytesIO(await kept.read()))
        assert before.tobytes() == Image.open(io.BytesIO(content)).tobytes()
        assert answer.headers["ETag"] != kept.headers["ETag"]
        for start, stop in ((0, 1), (0, 40), (1, 700), (len(content) - 5, len(content))):
            part = await keyed.client.get(
                path_of(library, name, "?metadata=stripped"),
                headers={**BEARER, "Range": f"bytes={start}-{stop - 1}"},
            )
            assert await part.read() == content[start:stop]


async def test_a_type_whose_metadata_cannot_be_removed_is_refused_and_still_served(
    server: Serving, library: Library, photo: Path
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "TIFF")
    photo.write_bytes(buffer.getvalue())
    answer = await server.client.get(path_of(library, query="?metadata=stripped"), headers=BEARER)
    assert answer.status == 415
    assert "metadata=kept" in (await answer.json())["detail"]
    kept = await server.client.get(path_of(library), headers=BEARER)
    assert (kept.status, kept.headers["Content-Type"]) == (200, "image/tiff")


async def test_markup_is_never_displayed(server: Serving, library: Library, photo: Path) -> None:
    photo.write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    answer = await server.client.get(path_of(library), headers=BEARER)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment; ")


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("café \u202egnp.exe", "café \u202egnp.jpg"),
        ('a"; filename="evil.html', "a_; filename=_evil.jpg"),
        ("../../etc/passwd", "passwd.jpg"),
        ("x\r\nSet-Cookie: a=b.png", "x"),
        ("", "media-"),
    ],
)
async def test_a_hostile_name_stays_a_name(
    server: Serving, library: Library, stored: str, shown: str
) -> None:
    async with server.services.storage.repository.transaction() as connection:
        await connection.exec_driver_sql(
            "UPDATE media_files SET original_name = ? WHERE id = ?", (stored, library.ids["photo"])
        )
    answer = await server.client.get(path_of(library), headers=BEARER)
    line = answer.headers["Content-Disposition"]
    assert "\r" not in line
    assert "Set-Cookie" not in answer.headers
    message = Message()
    message["Content-Disposition"] = line
    assert message.get_content_disposition() == "attachment"
    name = message.get_filename() or ""
    assert name.endswith(".jpg")
    assert name.startswith(shown[:1])


async def test_storage_that_is_away_is_a_503(
    server: Serving, library: Library, data_dir: Path
) -> None:
    (data_dir / "originals").rename(data_dir / "elsewhere")
    answer = await server.client.get(path_of(library), headers=BEARER)
    assert answer.status == 503
    assert "storage" in (await answer.json())["detail"]
    assert int(answer.headers["Retry-After"]) > 0


async def test_an_unknown_parameter_value_is_named(keyed: Serving, library: Library) -> None:
    answer = await keyed.client.get(path_of(library, query="?metadata=some"), headers=BEARER)
    assert (answer.status, (await answer.json())["parameter"]) == (400, "metadata")
