"""The checks of the Images MVP's requirements: formats, quality, insights, fallback, progress."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from typing import Any

import aiohttp
import pytest
from aiohttp import FormData
from anyio.from_thread import start_blocking_portal
from PIL import Image

from proxy.metadata.formats import (
    FORMATS,
    SUPPORTED_IMAGE_EXTENSIONS,
    SUPPORTED_IMAGE_MIMES,
    UNSUPPORTED_FORMAT,
)
from proxy.metadata.service import MetadataService
from tests.metadata.files import MODEL, jpeg, require_exiftool
from tests.support.server import Serving, Standing, connected, make_settings, standing
from tests.support.uploads import USERS, signed

pytestmark = pytest.mark.slow

EXTRACT = "/api/images_mvp/extract"
NAMED = (
    *("jpg", "jpeg", "png", "webp", "heic", "heif", "tiff", "bmp", "gif", "ico", "svg"),
    *("cr2", "nef", "arw", "dng", "orf", "raf", "pef", "x3f", "srw", "rw2"),
)
RAW_TYPES = (
    *("canon-cr2", "nikon-nef", "sony-arw", "adobe-dng", "olympus-orf", "fuji-raf"),
    *("pentax-pef", "sigma-x3f", "samsung-srw", "panasonic-rw2"),
)
DRAWN = ("jpeg", "png", "webp", "tiff", "bmp", "gif", "ico")
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="3"/>'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any, Standing]]:
    require_exiftool()
    root = tmp_path_factory.mktemp("mvp")
    metadata = {"temp_root": str(root / "metaextract"), "engines": 1, "timeout_s": 600}
    settings = make_settings(root / "data", users=USERS, metadata=metadata)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(standing(settings)) as opened,
    ):
        yield opened


@pytest.fixture
async def server(running: tuple[Any, Any, Standing]) -> AsyncIterator[Serving]:
    services, surface, behind = running
    async with connected(behind) as client:
        yield Serving(services, surface, client)


async def extract(
    server: Serving, content: bytes, name: str, session: str = ""
) -> tuple[int, dict[str, Any]]:
    data = FormData({"sessionId": session} if session else {}, default_to_multipart=True)
    data.add_field("file", BytesIO(content), filename=name)
    async with server.client.post(EXTRACT, data=data, headers=signed()) as answer:
        return answer.status, await answer.json(content_type=None)


def drawn(image_format: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (32, 24), "teal").save(buffer, image_format)
    return buffer.getvalue()


def test_all_named_formats_are_supported() -> None:
    assert {f".{name}" for name in NAMED} <= set(SUPPORTED_IMAGE_EXTENSIONS)
    assert {f"image/x-{name}" for name in RAW_TYPES} <= set(SUPPORTED_IMAGE_MIMES)
    assert len(FORMATS) >= 20


@pytest.mark.parametrize("name", [*DRAWN, "svg"])
async def test_a_file_of_each_format_that_can_be_drawn_is_extracted(
    server: Serving, name: str
) -> None:
    status, found = await extract(server, SVG if name == "svg" else drawn(name), f"a.{name}")
    assert status == 200, found
    assert found["format"] == found["metadata"]["format"] == name
    assert found["metadata"]["mime_type"] in SUPPORTED_IMAGE_MIMES
    assert found["quality_metrics"]["format_support_level"] != "unsupported"


async def test_quality_metrics_and_insights_are_complete(server: Serving) -> None:
    status, found = await extract(server, jpeg(), "photo.jpg")
    assert status == 200
    quality, insights = found["quality_metrics"], found["processing_insights"]
    for name in ("confidence_score", "extraction_completeness", "processing_efficiency"):
        assert 0 <= quality[name] <= 1
    assert quality["format_support_level"] == "comprehensive"
    assert quality["enhanced_extraction"] is True
    assert quality["streaming_enabled"] is insights["streaming_enabled"] is True
    assert insights["total_fields_extracted"] > 10
    assert insights["processing_time_ms"] > 0
    assert insights["memory_usage_mb"] is None or insights["memory_usage_mb"] > 0
    assert insights["fallback_extraction"] is False


async def test_the_fields_of_the_first_version_are_where_they_were(server: Serving) -> None:
    _, found = await extract(server, jpeg(), "photo.jpg")
    assert (found["filename"], found["mime_type"]) == ("photo.jpg", "image/jpeg")
    assert (found["width"], found["height"]) == (40, 30)
    assert found["exif"]["model"] == MODEL
    assert found["gps"]["longitude"] == pytest.approx(151.2)


async def test_a_file_of_another_type_is_refused_with_the_new_sentence(server: Serving) -> None:
    status, found = await extract(server, b"%PDF-1.7 and so on", "a.jpg")
    assert (status, found["error"]) == (400, UNSUPPORTED_FORMAT)


async def test_the_fallback_has_the_same_shape(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(_self: MetadataService, _file: Any, _options: Any, run: Any) -> None:
        run.fallback_reason = "died"

    _, before = await extract(server, jpeg(comment=b"before"), "photo.jpg")
    monkeypatch.setattr(MetadataService, "_run_engine", dies)
    status, found = await extract(server, jpeg(comment=b"after"), "photo.jpg")
    assert status == 200
    assert found["processing_insights"]["fallback_extraction"] is True
    assert found["quality_metrics"]["enhanced_extraction"] is False
    for part in ("metadata", "quality_metrics", "processing_insights"):
        assert set(found[part]) == set(before[part])
    assert found["exif"]["model"] == MODEL


async def test_progress_is_followed_over_a_socket(server: Serving) -> None:
    session = "session-of-the-mvp-test"
    path = f"/api/images_mvp/progress/{session}"
    async with server.client.ws_connect(path) as socket:
        assert (await socket.receive_json())["type"] == "connected"
        status, found = await extract(server, jpeg(comment=b"progress"), "photo.jpg", session)
        assert status == 200
        messages: list[dict[str, Any]] = []
        while not messages or messages[-1]["type"] != "complete":
            message = await socket.receive()
            assert message.type is aiohttp.WSMsgType.TEXT
            messages.append(message.json())
    seen = [one["progress"] for one in messages if one["type"] == "progress"]
    assert seen == sorted(seen)
    assert seen[-1] == 100
    assert messages[-2]["quality_metrics"] == found["quality_metrics"]


async def test_the_health_of_the_server_is_monitored(server: Serving) -> None:
    await extract(server, jpeg(), "photo.jpg")
    async with server.client.get("/api/health") as answer:
        assert answer.status == 200
        found = await answer.json()
    assert found["status"] == "healthy"
    assert found["services"]["extraction"] == "ok"
