"""Uploads as images before they are processed: who may see them, in which form, and until when."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from PIL import Image

from proxy.domain.worker_protocol import ProbeJob, RenditionSet
from proxy.serving.job_dispatch import JobDispatcher
from tests.support.server import CHROME, WEBP_ONLY, Serve, Serving
from tests.support.uploads import KEYED, LOGO, MAIN, PHOTO, USERS, signed, temp_files, upload


@pytest.fixture
async def server(serve: Serve) -> Serving:
    return await serve(main=MAIN, users=USERS)


async def view(server: Serving, target: str, **headers: str) -> tuple[int, str, bytes]:
    async with server.client.get(target, headers=headers) as answer:
        return answer.status, answer.headers.get("Content-Type", ""), await answer.read()


async def test_an_upload_is_shown_as_an_image_before_it_is_processed(server: Serving) -> None:
    """The JSX of the requirements document: the path of the profile, with a size appended."""
    (image,) = await upload(server)
    target = f"{image['image_path']}?size=thumbnail"
    async with server.client.get(target, headers={"Accept": CHROME}) as answer:
        body = await answer.read()
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "image/avif"
        assert answer.headers["Cache-Control"] == "private, max-age=30"
        assert answer.headers["Vary"] == "Accept"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        etag = answer.headers["ETag"]
    async with server.client.get(target, headers={"Accept": WEBP_ONLY}) as answer:
        assert Image.open(io.BytesIO(await answer.read())).size == (300, 300)
    status, _, _ = await view(server, target, **{"Accept": CHROME, "If-None-Match": etag})
    assert status == 304
    async with server.client.head(target, headers={"Accept": CHROME}) as answer:
        assert answer.headers["Content-Length"] == str(len(body))


async def test_the_bytes_of_an_upload_never_reach_a_browser(server: Serving) -> None:
    """Encoded again: what is appended to the file, or hidden in its metadata, is gone."""
    secret = b"<script>alert(1)</script>"
    (image,) = await upload(server, {"profile_image": PHOTO + secret})
    status, kind, body = await view(server, image["image_path"], Accept="image/jpeg")
    assert (status, kind) == (200, "image/jpeg")
    assert secret not in body
    status, _, file = await view(server, image["image_path"], **KEYED)
    assert (status, file) == (200, PHOTO + secret)


async def test_transparent_uploads_and_their_backgrounds_are_shown(server: Serving) -> None:
    (image,) = await upload(server, {"logo_image": LOGO})
    for query in ("", "?bg=removed", "?size=detail?size=small", "?format=png", "?w=64"):
        status, _, body = await view(server, f"{image['image_path']}{query}", Accept=CHROME)
        assert status == 200, query
        assert body
    status, _, _ = await view(server, f"{image['image_path']}?size=huge")
    assert status == 400


@pytest.mark.parametrize("name", ["456-profile-1700000000-123456789012.jpg", "456-profile-789.jpg"])
async def test_a_name_that_can_be_guessed_needs_the_key(server: Serving, name: str) -> None:
    """Names of earlier versions and of other programs: few random digits, or none."""
    (image,) = await upload(server)
    (path,) = temp_files(server)
    path.rename(path.with_name(name))
    target = f"/temp_images/profiles/{name}"
    assert (await view(server, target))[0] == 401
    assert (await view(server, target, **KEYED))[0] == 200
    assert (await view(server, image["image_path"]))[0] == 404
    assert (await view(server, image["image_path"], Authorization="Bearer wrong"))[0] == 401


@pytest.mark.parametrize("end", ["failed", "complete", "deleted", "row deleted"])
async def test_an_upload_that_has_ended_is_not_shown_any_more(server: Serving, end: str) -> None:
    """Also not from memory: the name is revoked at once."""
    (image,) = await upload(server)
    target = image["image_path"]
    assert (await view(server, target))[0] == 200
    main = server.main
    assert main is not None
    if end == "failed":
        await main.queue.fail(image["id"])
    elif end == "complete":
        await main.queue.complete(image["id"], "1")
        assert (await view(server, target))[0] == 200
        await main.replacer.run()
    elif end == "deleted":
        temp_files(server)[0].unlink()
    else:
        async with main.queue.database.transaction() as connection:
            await connection.exec_driver_sql("DELETE FROM pending_images")
    assert (await view(server, target))[0] == 404


async def test_equal_requests_share_one_render_and_its_result(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[object] = []
    run = JobDispatcher.run_file

    async def counted(self: JobDispatcher, key: str, descriptor: int, job: Any, *more: Any) -> Any:
        jobs.append(type(job))
        return await run(self, key, descriptor, job, *more)

    monkeypatch.setattr(JobDispatcher, "run_file", counted)
    (image,) = await upload(server)
    target = f"{image['image_path']}?size=grid"
    answers = await asyncio.gather(*(view(server, target, Accept=CHROME) for _ in range(20)))
    answers.append(await view(server, target, Accept=CHROME))
    assert {status for status, _, _ in answers} == {200}
    assert len({body for _, _, body in answers}) == 1
    assert jobs == [ProbeJob, RenditionSet]


async def test_a_file_that_cannot_be_decoded_is_a_fault_of_the_image(server: Serving) -> None:
    (image,) = await upload(server, {"profile_image": PHOTO[:300]})
    for _ in range(2):
        status, kind, _ = await view(server, image["image_path"])
        assert (status, kind) == (422, "application/problem+json")


async def test_the_profile_has_the_address_of_the_preview_then_of_the_medium(
    serve: Serve,
) -> None:
    """Section 5 of the requirements document."""
    base = "https://api2.onlineartfestival.com"
    main = {**MAIN, "smart_media_base_url": f"{base}/api/images"}
    server = await serve(main=main, users=USERS)

    async def profile() -> dict[str, object]:
        async with server.client.get("/users/me", headers=signed()) as answer:
            assert answer.status == 200
            assert answer.headers["Cache-Control"] == "no-store"
            told: dict[str, object] = await answer.json()
        return told

    empty: dict[str, object] = {
        "success": True,
        "user_id": 456,
        "profile_image_path": None,
        "header_image_path": None,
        "logo_path": None,
        "site_media": [],
    }
    assert await profile() == empty
    files = dict.fromkeys(("profile_image", "header_image", "logo_image", "site_image"), PHOTO)
    shown = await upload(server, files)
    face, header, logo, site = (f"{base}{one['image_path']}" for one in shown)
    pending = {"profile_image_path": face, "header_image_path": header, "logo_path": logo}
    assert await profile() == {**empty, **pending, "site_media": [site]}
    queue = server.main
    assert queue is not None
    await queue.queue.complete(shown[0]["id"], "789")
    await queue.queue.fail(shown[1]["id"])
    done = {"profile_image_path": f"{base}/api/images/789?size=detail", "header_image_path": None}
    ended = {**empty, **pending, **done, "site_media": [site]}
    assert await profile() == ended
    await queue.replacer.run()
    assert await profile() == ended
    # Without an address that users can reach: paths, which browsers resolve.
    queue.replacer.reachable = False
    changed = await profile()
    assert changed["logo_path"] == shown[2]["image_path"]
    assert changed["site_media"] == [shown[3]["image_path"]]
    async with server.client.get("/users/me") as answer:
        assert answer.status == 401
