"""The sockets of a whole server: real uploads and images, real engines, and their owners."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import FormData

from tests.support.server import Library, Serve, Serving
from tests.support.uploads import KEYED, MAIN, PHOTO, USERS, signed, upload
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow  # starts the confined processes

SESSION = "session-0123456789"
OWNER = 7
"""The user whose images the library has."""


@pytest.fixture
async def server(serve: Serve, tmp_path: Path) -> Serving:
    metadata = {"engine": "pillow", "engines": 1, "temp_root": str(tmp_path / "metadata")}
    return await serve(main=MAIN, users=USERS, metadata=metadata)


async def analysed(
    server: Serving, headers: Mapping[str, str], **named: object
) -> list[dict[str, Any]]:
    """Return all messages of one analysis."""
    messages: list[dict[str, Any]] = []
    async with server.client.ws_connect("/ws/analysis", headers=headers) as socket:
        await socket.send_json({"type": "analyze", "sessionId": SESSION, **named})
        while not messages or messages[-1]["type"] in ("analysis_started", "progress"):
            messages.append(await socket.receive_json(timeout=60))
    return messages


async def refused(server: Serving, headers: Mapping[str, str], **named: object) -> str:
    started, failed = await analysed(server, headers, **named)
    assert started["type"] == "analysis_started"
    assert failed["type"] == "analysis_error"
    return str(failed["error"])


def left_files(server: Serving) -> list[Path]:
    root = Path(server.services.settings.metadata.temp_root)
    return [path for path in root.rglob("*") if path.is_file()]


async def test_an_upload_is_analysed_for_its_owner_with_real_progress(server: Serving) -> None:
    (image,) = await upload(server)
    for named in ({"imagePath": image["image_path"]}, {"uploadId": image["id"]}):
        messages = await analysed(server, signed(), **named)
        # The second result comes from the cache, so the stages between are not claimed.
        stages = [10, 30, 50, 80, 100] if "imagePath" in named else [10, 100]
        assert [one.get("progress") for one in messages[1:-1]] == stages
        assert messages[-1]["type"] == "analysis_complete"
        metadata = messages[-1]["metadata"]
        assert (metadata["format"], metadata["engine"]["name"]) == ("jpeg", "pillow")
        assert metadata["ai_generation"]["source"] == "unknown"
        assert metadata["width"] > 0
    assert left_files(server) == []


async def test_the_key_of_the_media_api_may_analyse_any_upload(server: Serving) -> None:
    (image,) = await upload(server)
    messages = await analysed(server, KEYED, uploadId=str(image["id"]))
    assert messages[-1]["type"] == "analysis_complete"


async def test_uploads_of_others_and_other_paths_are_not_found(server: Serving) -> None:
    (image,) = await upload(server)
    stored = server.services.settings.temp_root / image["image_path"].removeprefix("/temp_images/")
    assert stored.is_file()
    not_found = "There is no such upload of yours."
    for named in ({"imagePath": image["image_path"]}, {"uploadId": image["id"]}):
        assert await refused(server, signed(457), **named) == not_found
    for path in (
        str(stored),
        "/etc/passwd",
        f"/temp_images/profiles/../profiles/{stored.name}",
        f"/temp_images//profiles/{stored.name}",
        f"{image['image_path']}?size=thumbnail",
        "/temp_images/profiles/456-profile-1.jpg",
        ["/etc/passwd"],
    ):
        assert await refused(server, signed(), imagePath=path) == not_found
    assert await refused(server, signed(), uploadId=10**18) == not_found


async def test_an_image_is_analysed_for_its_owner_and_the_key_only(
    server: Serving, library: Library
) -> None:
    media_id = library.ids["photo"]
    for headers in (signed(OWNER), KEYED):
        messages = await analysed(server, headers, mediaId=media_id)
        assert messages[-1]["type"] == "analysis_complete"
    assert [one["progress"] for one in messages[1:-1]] in ([10, 30, 50, 80, 100], [10, 100])
    not_found = "There is no such image of yours."
    assert await refused(server, signed(), mediaId=media_id) == not_found
    assert await refused(server, signed(OWNER), mediaId=10**18) == not_found
    assert left_files(server) == []


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ({}, "Name one file"),
        ({"mediaId": 1, "uploadId": 1}, "Name one file"),
        ({"mediaId": "x"}, "mediaId must be a number"),
        ({"mediaId": True}, "mediaId must be a number"),
        ({"uploadId": -1}, "uploadId must be a number"),
    ],
)
async def test_a_message_that_names_no_file_says_what_is_allowed(
    server: Serving, named: dict[str, Any], sentence: str
) -> None:
    assert sentence in await refused(server, signed(), **named)


async def test_without_a_token_only_this_machine_may_connect_and_has_no_files(
    server: Serving, library: Library
) -> None:
    assert "no such image" in await refused(server, {}, mediaId=library.ids["photo"])
    with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
        await server.client.ws_connect("/ws/analysis", headers={"X-Forwarded-For": "192.0.2.7"})
    assert raised.value.status == 401


async def test_progress_is_reported_to_whoever_has_the_session_id(server: Serving) -> None:
    assert server.services.metadata is not None
    hub = server.services.metadata.progress
    path = f"/api/images_mvp/progress/{SESSION}"
    async with server.client.ws_connect(path, headers={"X-Forwarded-For": "192.0.2.7"}) as socket:
        assert (await socket.receive_json(timeout=20))["type"] == "connected"
        with hub.reporting(SESSION) as report:
            report(10, "received")
        assert (await socket.receive_json(timeout=20))["percentage"] == 10
        assert server.metric("smartserve_metadata_sockets") == 1
    await eventually(lambda: server.metric("smartserve_metadata_sockets") == 0)
    assert server.metric("smartserve_metadata_sockets_accepted_total") == 1


def form(image: bytes) -> FormData:
    # The id comes before the file, so that a refused file can be reported.
    made = FormData({"sessionId": SESSION}, default_to_multipart=True)
    made.add_field("file", image, filename="x.jpg", content_type="image/jpeg")
    return made


async def test_an_upload_is_followed_from_its_receipt_to_its_end(server: Serving) -> None:
    messages: list[dict[str, Any]] = []
    async with server.client.ws_connect(f"/api/images_mvp/progress/{SESSION}") as socket:
        sent = server.client.post("/api/images_mvp/extract", data=form(PHOTO), headers=signed())
        async with sent as answer:
            assert answer.status == 200, await answer.text()
            quality = (await answer.json())["quality_metrics"]
        while not messages or messages[-1]["type"] != "complete":
            messages.append(await socket.receive_json(timeout=60))
    assert [one.get("percentage") for one in messages] == [None, 10, 30, 50, 80, 100, None]
    assert messages[-2]["quality_metrics"] == quality
    assert "metadata" not in messages[-1]


async def test_an_upload_that_is_refused_is_an_error_for_its_follower(server: Serving) -> None:
    async with server.client.ws_connect(f"/api/images_mvp/progress/{SESSION}") as socket:
        sent = server.client.post("/api/images_mvp/extract", data=form(b"text"), headers=signed())
        async with sent as answer:
            assert answer.status == 400
            sentence = (await answer.json())["error"]
        assert (await socket.receive_json(timeout=60))["type"] == "connected"
        error = await socket.receive_json(timeout=60)
        assert error == {"type": "error", "error": sentence, "sessionId": SESSION}


async def test_pages_of_this_server_may_connect_and_others_may_not(server: Serving) -> None:
    own = f"http://{server.client.host}:{server.client.port}"
    for path in ("/ws/analysis", f"/api/images_mvp/progress/{SESSION}"):
        async with server.client.ws_connect(path, origin=own, headers=signed()):
            pass
        for origin in ("https://elsewhere.example", "null", f"{own}0"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
                await server.client.ws_connect(path, origin=origin, headers=signed())
            assert raised.value.status == 403
