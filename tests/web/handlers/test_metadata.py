"""The synchronous metadata routes of a real server, with real engines and files."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from aiohttp.test_utils import make_mocked_request
from anyio.from_thread import start_blocking_portal
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from structlog.testing import capture_logs

from proxy.domain.errors import ConfigurationError, ExtractionFailed
from proxy.metadata.extractor import Extractor
from proxy.metadata.formats import UNSUPPORTED_FORMAT
from proxy.metadata.progress import ProgressState
from proxy.metadata.service import MetadataService
from proxy.settings import MetadataSettings
from proxy.web.handlers import metadata as handlers
from proxy.web.handlers.metadata import MetadataHealthHandler
from proxy.web.routes import describe
from tests.metadata.files import (
    MAKE,
    MODEL,
    gif,
    jpeg,
    png,
    require_exiftool,
    text_chunk,
    ztxt_bomb,
)
from tests.support.server import Serve, Serving, Standing, connected, make_settings, standing
from tests.support.uploads import BOUNDED, KEYED, MAIN, USERS, parts, token
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

ANALYZE, QUICK = "/api/standalone-metadata/analyze", "/api/analyze"
EXTRACT, BATCH, ADVANCED = "/api/extract", "/api/extract/batch", "/api/extract/advanced"
MVP = "/api/images_mvp/extract"
INFOTEXT = (
    "a lighthouse at dusk\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7.5,"
    " Seed: 18446744073709551615, Size: 512x512, Model: dreamshaper_8"
)
GENERATED = png(text_chunk("parameters", INFOTEXT))
BMP = b"BM" + bytes(12) + (40).to_bytes(4, "little") + bytes(44)
LONG_S = 600.0


def sections(root: Path, **metadata: Any) -> dict[str, Mapping[str, Any]]:
    values = {"temp_root": str(root / "metaextract"), "engines": 2, "timeout_s": LONG_S}
    return {"users": USERS, "main": MAIN, "metadata": {**values, **metadata}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any, Standing]]:
    require_exiftool()
    root = tmp_path_factory.mktemp("metadata")
    settings = make_settings(root / "data", **sections(root))
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
        assert left(services.settings.metadata.temp_root) == []


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine the engines need more than ten seconds to start.
    monkeypatch.setattr(handlers, "_HEALTH_S", LONG_S)


def left(root: str) -> list[Path]:
    return [path for path in Path(root).rglob("*") if path.is_file()]


def form(
    content: bytes | None = None, name: str = "a.jpg", field: str = "file", **texts: str
) -> FormData:
    made = FormData(texts, default_to_multipart=True)
    if content is not None:
        made.add_field(field, BytesIO(content), filename=name, content_type="image/jpeg")
    return made


async def post(
    server: Serving,
    path: str,
    data: Any = None,
    *,
    user: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """Return status and JSON; ``user`` are claims of a token."""
    sent = dict(headers or {})
    if user is not None:
        sent["Authorization"] = f"Bearer {token(456, **user)}"
    async with server.client.post(path, data=data, headers=sent) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_a_file_is_extracted_with_its_quality_and_insights(server: Serving) -> None:
    content = jpeg()
    status, found = await post(server, EXTRACT, form(content, "photo.jpg"), user={})
    assert status == 200, found
    assert found["success"] is True
    assert (found["filename"], found["filesize"]) == ("photo.jpg", len(content))
    assert found["tier"] == "enterprise"
    assert found["metadata"]["exif"]["model"] == MODEL
    assert found["metadata"]["gps"]["longitude"] == pytest.approx(151.2)
    assert found["metadata"]["withheld"] is None
    assert found["metadata"]["engine"]["name"] == "exiftool"
    assert found["quality_metrics"]["confidence_score"] == 1
    assert found["quality_metrics"]["streaming_enabled"] is True
    assert found["processing_insights"]["fallback_extraction"] is False
    assert found["request_id"]
    assert "advanced" not in found


@pytest.mark.parametrize(
    ("declared", "matches"),
    [
        ("image/png", False),
        ("image/pjpeg", True),
        ("application/octet-stream", True),
    ],
)
async def test_the_type_that_a_form_declares_is_compared_with_the_content(
    server: Serving, declared: str, *, matches: bool
) -> None:
    for route, field in ((EXTRACT, "file"), (BATCH, "files")):
        sent = FormData(default_to_multipart=True)
        sent.add_field(field, BytesIO(jpeg()), filename="a.jpg", content_type=declared)
        status, found = await post(server, route, sent, user={})
        assert status == 200, found
        answer = found["results"][0] if route == BATCH else found
        assert answer["metadata"]["extension_matches"] is matches
        reason = answer["metadata"]["reasons"].get("extension_matches")
        assert reason == (None if matches else "the declared type is image/png")


@pytest.mark.parametrize(
    "content", [gzip.compress(b"a tar archive" * 100), b"BMW is a car maker. " * 20]
)
async def test_what_only_begins_like_an_image_is_no_image(server: Serving, content: bytes) -> None:
    status, problem = await post(server, EXTRACT, form(content), user={})
    assert (status, problem["code"]) == (400, "INVALID_FILE_TYPE")


async def test_a_compressed_drawing_is_read(server: Serving) -> None:
    content = gzip.compress(b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"/>')
    sent = FormData(default_to_multipart=True)
    sent.add_field("file", BytesIO(content), filename="a.svgz", content_type="image/svg+xml")
    status, found = await post(server, EXTRACT, sent, user={})
    assert status == 200, found
    metadata = found["metadata"]
    assert (metadata["format"], metadata["width"], metadata["height"]) == ("svg", 40, 30)
    assert (metadata["extension_matches"], metadata["warnings"]) == (True, [])


async def test_responses_are_counted_by_route_tier_and_code(server: Serving) -> None:
    def count(**labels: str) -> float:
        return server.metric("smartserve_metadata_requests_total", **labels)

    labels = {"route": "metadata_extract", "tier": "free"}
    good, bad = count(**labels, code="OK"), count(**labels, code="INVALID_FILE_TYPE")
    unknown = count(route="metadata_batch", tier="", code="UNAUTHORIZED")
    await post(server, EXTRACT, form(jpeg(), tier="free"), user={})
    await post(server, EXTRACT, form(b"plain text"), user={"tier": "free"})
    await post(server, BATCH, form(jpeg(), field="files"))

    def counts() -> tuple[float, ...]:
        return (
            count(**labels, code="OK"),
            count(**labels, code="INVALID_FILE_TYPE"),
            count(route="metadata_batch", tier="", code="UNAUTHORIZED"),
        )

    # A response is counted once it is written: the client may have it before.
    await eventually(lambda: counts() == (good + 1, bad + 1, unknown + 1))


async def test_the_request_id_of_the_answer_is_that_of_the_header(server: Serving) -> None:
    headers = {"Authorization": f"Bearer {token()}"}
    async with server.client.post(EXTRACT, data=form(jpeg()), headers=headers) as answer:
        assert (await answer.json())["request_id"] == answer.headers["X-Request-Id"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_the_lowest_tier_is_told_what_is_withheld_and_where(server: Serving) -> None:
    _, whole = await post(server, EXTRACT, form(jpeg(), tier="enterprise"), user={})
    status, found = await post(server, EXTRACT, form(jpeg(), tier="free"), user={})
    assert status == 200
    assert found["tier"] == "free"
    groups, hidden = found["metadata"]["groups"], found["metadata"]["withheld"]
    assert groups["IFD0"]["Make"] == MAKE
    if hidden is not None:
        assert not set(hidden["groups"]) & set(groups)
        assert hidden["needs"] == "professional"
    assert set(whole["metadata"]["groups"]) == {*groups, *(hidden or {"groups": []})["groups"]}


@pytest.mark.parametrize("path", [EXTRACT, BATCH, ADVANCED, MVP])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
async def test_a_token_is_needed(server: Serving, path: str, headers: dict[str, str]) -> None:
    status, found = await post(server, path, form(jpeg()), headers=headers)
    assert (status, found["code"], found["status"]) == (401, "UNAUTHORIZED", 401)
    assert found["error"] == found["detail"]


async def test_the_media_key_and_the_session_cookie_are_accepted(server: Serving) -> None:
    assert (await post(server, EXTRACT, form(jpeg()), headers=KEYED))[0] == 200
    ours = str(server.client.make_url("/")).rstrip("/")
    for origin, expected in ((ours, 200), ("https://evil.test", 401)):
        headers = {"Cookie": f"smartserve_session={token()}", "Origin": origin}
        assert (await post(server, EXTRACT, form(jpeg()), headers=headers))[0] == expected


async def test_a_generated_image_is_analyzed_without_a_token_on_this_machine(
    server: Serving,
) -> None:
    status, found = await post(server, ANALYZE, form(GENERATED, "a.png", "image"))
    assert status == 200, found
    expected = {
        "success": True,
        "filename": "a.png",
        "filesize": len(GENERATED),
        "width": 1,
        "height": 1,
        "is_ai_generated": True,
        "ai_generator_type": "stable_diffusion",
        "prompt": "a lighthouse at dusk",
        "negative_prompt": "blurry",
        "steps": 20,
        "cfg_scale": 7.5,
        "sampler": "Euler a",
        "seed": "18446744073709551615",
        "checkpoint_model_name": "dreamshaper_8",
        "mj_version": None,
        "comfy_node_count": None,
        "sd_vae": None,
        "sd_clip_skip": None,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["complete_metadata"]["ai_generation"]["prompt"] == "a lighthouse at dusk"


async def test_an_image_without_traces_is_of_an_unknown_generator(server: Serving) -> None:
    status, found = await post(server, QUICK, form(jpeg(), "a.jpg", "image"))
    assert status == 200
    assert (found["is_ai_generated"], found["ai_generator_type"]) == (False, "unknown")
    assert set(found) == {
        *("success", "filename", "filesize", "is_ai_generated", "ai_generator_type"),
        *("prompt", "complete_metadata"),
    }


async def test_the_sentences_of_the_analyze_routes_are_the_documented_ones(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in (None, form(tier="free"), form(jpeg(), field="picture")):
        status, found = await post(server, QUICK, data)
        assert (status, found["error"], found["code"]) == (400, "No file uploaded", "NO_FILE")

    async def fail(*_args: Any, **_options: Any) -> None:
        raise ExtractionFailed("No engine could read the file.")

    monkeypatch.setattr(Extractor, "extract", fail)
    status, found = await post(server, QUICK, form(jpeg(), field="image"))
    assert (status, found["error"], found["code"]) == (500, "Analysis failed", "ENGINE_FAILED")
    status, found = await post(server, EXTRACT, form(jpeg()), user={})
    assert (status, found["error"]) == (500, "No engine could read the file.")


@pytest.mark.parametrize(
    ("path", "data", "user", "expected"),
    [
        (EXTRACT, None, {}, (400, "NO_FILE", None)),
        (EXTRACT, form(tier="free"), {}, (400, "NO_FILE", None)),
        (EXTRACT, form(b""), {}, (400, "EMPTY_FILE", None)),
        (EXTRACT, form(b"plain text" * 20, "text.jpg"), {}, (400, "INVALID_FILE_TYPE", None)),
        (EXTRACT, form(jpeg(), tier="gold"), {}, (400, "INVALID_REQUEST", None)),
        (EXTRACT, b'{"file": "a.jpg"}', {}, (400, "INVALID_REQUEST", None)),
        (MVP, form(jpeg(), sessionId="short"), {}, (400, "INVALID_REQUEST", None)),
        (
            EXTRACT,
            form(jpeg(), tier="super"),
            {"tier": "free"},
            (403, "TIER_INSUFFICIENT", "enterprise"),
        ),
        (ADVANCED, form(jpeg()), {"tier": "starter"}, (403, "TIER_INSUFFICIENT", "forensic")),
        (ADVANCED, form(jpeg(), tier="free"), {}, (403, "TIER_INSUFFICIENT", "forensic")),
        (EXTRACT, form(BMP), {"tier": "free"}, (403, "TIER_INSUFFICIENT", "professional")),
        (
            EXTRACT,
            form(jpeg() + bytes(11 * 1024 * 1024)),
            {"tier": "free"},
            (403, "FILE_TOO_LARGE_FOR_TIER", "professional"),
        ),
        (EXTRACT, form(ztxt_bomb(20), "a.png"), {}, (422, "METADATA_TOO_LARGE", None)),
        (EXTRACT, form(jpeg()), {"tier": "gold"}, (401, "UNAUTHORIZED", None)),
    ],
)
async def test_each_error_has_its_status_code_and_sentence(
    server: Serving,
    path: str,
    data: Any,
    user: dict[str, Any],
    expected: tuple[int, str, str | None],
) -> None:
    status, found = await post(server, path, data, user=user)
    assert (status, found["code"], found.get("needs")) == expected, found
    assert found["error"]
    assert found["status"] == status
    if found["code"] == "INVALID_FILE_TYPE":
        assert found["error"] == UNSUPPORTED_FORMAT
    if expected[2]:
        assert expected[2] in found["error"]


async def test_a_damaged_file_is_answered_with_warnings(server: Serving) -> None:
    status, found = await post(server, EXTRACT, form(jpeg()[:-200], "a.jpg"), user={})
    assert status == 200
    assert found["quality_metrics"]["confidence_score"] < 1


async def test_the_advanced_analysis_has_facts_for_examiners(server: Serving) -> None:
    status, found = await post(server, ADVANCED, form(jpeg()), user={"tier": "premium"})
    assert status == 200, found
    assert {
        *("hashes", "c2pa", "validation", "timeline", "consistency", "thumbnail", "jpeg"),
        *("trailing_bytes", "stealth", "privacy"),
    } <= set(found["advanced"])


async def test_a_batch_lists_good_and_bad_files_in_their_order(server: Serving) -> None:
    data = FormData(default_to_multipart=True)
    for name, content in (
        ("one.jpg", jpeg()),
        ("text.jpg", b"plain text"),
        ("two.png", GENERATED),
        ("bomb.png", ztxt_bomb(20)),
        ("-ver", gif()),
    ):
        data.add_field("files", BytesIO(content), filename=name, content_type="image/jpeg")
    data.add_field("tier", "professional")
    status, found = await post(server, BATCH, data, user={})
    assert status == 200, found
    assert (found["success"], found["tier"]) == (True, "professional")
    assert (found["total"], found["succeeded"], found["failed"]) == (5, 3, 2)
    assert [one["success"] for one in found["results"]] == [True, False, True, False, True]
    assert [one.get("code") for one in found["results"]] == [
        *(None, "INVALID_FILE_TYPE", None, "METADATA_TOO_LARGE", None)
    ]
    assert found["results"][1]["error"] == UNSUPPORTED_FORMAT
    assert found["results"][0]["filename"] == "one.jpg"
    assert found["results"][2]["metadata"]["ai_generation"]["source"] == "stable_diffusion"


async def test_a_name_with_a_line_feed_is_harmless(server: Serving) -> None:
    head = {"Content-Disposition": "form-data; name=\"file\"; filename*=utf-8''x%0A-ver"}
    status, found = await post(
        server, EXTRACT, parts(head, body=jpeg()), headers={**KEYED, **BOUNDED}
    )
    assert (status, found["filename"]) == (200, "x-ver")
    assert found["metadata"]["exif"]["model"] == MODEL


async def test_a_batch_has_at_most_fifty_files_and_bounded_results(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batch(count: int) -> FormData:
        data = FormData(default_to_multipart=True)
        for number in range(count):
            data.add_field("files", BytesIO(jpeg()), filename=f"{number}.jpg")
        return data

    status, found = await post(server, BATCH, batch(51), user={})
    assert (status, found["code"]) == (400, "INVALID_REQUEST")
    monkeypatch.setattr(handlers, "_MAX_BATCH_BYTES", 5000)
    status, found = await post(server, BATCH, batch(4), user={})
    assert status == 200
    assert found["failed"] > 0
    assert {one.get("code") for one in found["results"]} <= {None, "METADATA_TOO_LARGE"}


async def test_progress_is_reported_to_the_session(server: Serving) -> None:
    assert server.services.metadata is not None
    session = "a-session-of-this-test"
    with server.services.metadata.progress.subscribe(session) as states:
        data = form(jpeg(), sessionId=session)
        status, found = await post(server, MVP, data, user={})
        assert status == 200
        seen: list[ProgressState] = []
        while not seen or seen[-1].type != "complete":
            seen.append(await states.next())
    assert [one.percentage for one in seen[:-1]] == sorted({one.percentage for one in seen[:-1]})
    assert seen[-2].quality_metrics == found["quality_metrics"]


async def test_the_basic_fields_of_images_mvp_are_at_the_top_level_too(server: Serving) -> None:
    _, found = await post(server, MVP, form(jpeg()), user={})
    for name in ("format", "width", "height", "exif", "gps", "ai_generation"):
        assert found[name] == found["metadata"][name]
    assert found["quality_metrics"]
    assert found["processing_insights"]


async def test_a_hundred_simultaneous_uploads_are_all_extracted(server: Serving) -> None:
    contents = [jpeg(comment=f"{number}".encode()) for number in range(100)]
    # Connections of their own: the client limits those of one pool to a hundred.
    found = await asyncio.gather(
        *(post(server, EXTRACT, form(content), user={}) for content in contents)
    )
    assert [status for status, _ in found] == [200] * 100
    assert {one["filesize"] for _, one in found} == {len(content) for content in contents}


async def test_answers_match_their_schemas(server: Serving) -> None:
    document = describe(server.services.settings)
    for path, field, content in (
        (ANALYZE, "image", GENERATED),
        (QUICK, "image", jpeg()),
        (EXTRACT, "file", jpeg(comment=b"c")),
        (EXTRACT, "file", gif()),
        (ADVANCED, "file", jpeg()),
        (MVP, "file", GENERATED),
        (BATCH, "files", GENERATED),
        (BATCH, "files", b"plain text"),
    ):
        answer = await post(server, path, form(content, field=field), user={})
        responses = document["paths"][path]["post"]["responses"]
        schema = responses[str(answer[0])]["content"]["application/json"]["schema"]
        validator = Draft202012Validator({**schema, "components": document["components"]})
        faults = [
            f"{one.json_path}: {one.message[:200]}" for one in validator.iter_errors(answer[1])
        ]
        assert not faults, path


async def examined(server: Serving) -> dict[str, Any]:
    """Return the health when the extraction has ended: the first one starts the engines."""
    found: dict[str, Any] = {}

    async def ended() -> bool:
        async with server.client.get("/api/extract/health") as answer:
            found.update(await answer.json())
            assert answer.status == (503 if found["status"] == "unhealthy" else 200)
        return not found["checks"]["extraction"].startswith(("starting", "no result"))

    await eventually(ended, timeout_s=LONG_S)
    return found


async def test_health_extracts_an_image_without_a_token(server: Serving) -> None:
    found = await examined(server)
    assert found["status"] == "healthy"
    assert found["engine"]["name"] == "exiftool"
    assert found["engine"]["available"] is True
    assert found["fallback"] is False
    assert found["checks"] == {"extraction": "ok", "engine": "ok"}
    assert found["duration_ms"] >= 0
    assert "/" not in f"{found}"
    async with server.client.get("/api/health") as answer:
        assert answer.status == 200
        services = (await answer.json())["services"]
    assert services == dict.fromkeys(("database", "storage", "workers", "extraction"), "ok")


async def test_logs_have_neither_names_nor_prompts(server: Serving) -> None:
    with capture_logs() as logs:
        for content in (GENERATED, b"plain text", ztxt_bomb(20)):
            data = form(content, "a-very-secret-name.png", "image")
            await post(server, ANALYZE, data, headers=KEYED)
    assert "lighthouse" not in f"{logs}"
    assert "secret-name" not in f"{logs}"


async def test_a_user_who_cannot_pay_gets_a_402(serve: Serve, tmp_path: Path) -> None:
    require_exiftool()
    server = await serve(**sections(tmp_path, engines=1))
    assert server.services.metadata is not None

    class Broke:
        async def charge(self, user: int | None, operation: str) -> bool:
            return (user, operation) == (456, "batch")

    server.services.metadata.extractor.credits = Broke()
    status, found = await post(server, EXTRACT, form(jpeg()), user={})
    assert (status, found["code"]) == (402, "CREDITS_INSUFFICIENT")
    status, found = await post(server, BATCH, form(jpeg(), field="files"), user={})
    assert (status, found["succeeded"]) == (200, 1)


async def test_a_full_queue_and_a_stopping_server_are_temporary(
    serve: Serve, tmp_path: Path
) -> None:
    server = await serve(**sections(tmp_path, engines=1, queue=0))
    assert server.services.metadata is not None
    extractor = server.services.metadata.extractor
    headers = {"Authorization": f"Bearer {token()}"}
    with extractor.admitted():
        async with server.client.post(EXTRACT, data=form(jpeg()), headers=headers) as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) > 0
            assert (await answer.json())["code"] == "QUEUE_FULL"
    for call in server.surface.runner.on_last_requests:
        call()
    async with server.client.post(EXTRACT, data=form(jpeg()), headers=headers) as answer:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert (await answer.json())["code"] == "SHUTTING_DOWN"


async def test_without_a_token_an_address_has_a_hundred_requests(
    serve: Serve, tmp_path: Path
) -> None:
    server = await serve(**sections(tmp_path))
    for _ in range(100):
        assert (await post(server, QUICK))[0] == 400
    async with server.client.post(QUICK) as answer:
        assert answer.status == 429
        assert int(answer.headers["Retry-After"]) > 0
        assert (await answer.json())["code"] == "RATE_LIMITED"
    assert (await post(server, QUICK, user={}))[0] == 400


async def test_engines_that_cannot_start_are_unhealthy(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    server = await serve(**sections(tmp_path, temp_root=str(tmp_path / "link")))
    status, found = await post(server, EXTRACT, form(jpeg()), user={})
    assert (status, found["code"]) == (500, "SPAWN_FAILED")
    found = await examined(server)
    assert (found["status"], found["engine"]["available"]) == ("unhealthy", False)
    assert str(tmp_path) not in f"{found}"
    async with server.client.get("/api/health") as answer:
        assert answer.status == 200
        found = await answer.json()
    assert (found["status"], found["services"]["extraction"]) == ("degraded", "failed")


async def test_a_chosen_engine_is_healthy_and_named(serve: Serve, tmp_path: Path) -> None:
    server = await serve(**sections(tmp_path, engine="pillow", engines=1))
    async with server.client.get("/api/health") as answer:
        assert (await answer.json())["services"]["extraction"] == "idle"
    found = await examined(server)
    assert (found["status"], found["fallback"]) == ("healthy", False)
    assert (found["engine"]["name"], found["engine"]["available"]) == ("pillow", True)
    assert found["checks"] == {"extraction": "ok", "engine": "ok"}
    async with server.client.get("/api/health") as answer:
        assert (await answer.json())["status"] == "healthy"


async def test_without_the_exiftool_that_is_wanted_the_health_is_degraded(
    serve: Serve, tmp_path: Path
) -> None:
    server = await serve(**sections(tmp_path, engine="pillow", engines=1))
    assert server.services.metadata is not None
    # As if exiftool were wanted, and not installed.
    server.services.metadata.extractor.uses_exiftool = True
    found = await examined(server)
    assert (found["status"], found["fallback"]) == ("degraded", True)
    assert found["engine"]["name"] == "pillow"
    assert found["checks"]["engine"] != "ok"
    async with server.client.get("/api/health") as answer:
        assert (await answer.json())["status"] == "degraded"


async def test_the_health_is_answered_in_time_while_the_engines_start() -> None:
    started = asyncio.Event()

    @asynccontextmanager
    async def opened() -> AsyncIterator[MetadataService]:
        await started.wait()
        raise ConfigurationError(["it cannot be started"])
        yield

    extractor = Extractor(MetadataSettings(), opened, processes=1)
    handler = MetadataHealthHandler(extractor, answer_s=0.01)

    async def state() -> tuple[int, str, str]:
        answer = await handler.extract_health(make_mocked_request("GET", "/api/extract/health"))
        found = json.loads(answer._whole)
        return int(answer.status), found["status"], found["checks"]["extraction"]

    assert await state() == (200, "degraded", "starting")
    started.set()

    async def failed() -> bool:
        return (await state())[:2] == (503, "unhealthy")

    # The start went on meanwhile, and its result is known to a later request.
    await eventually(failed)


async def test_the_routes_can_be_disabled(serve: Serve, tmp_path: Path) -> None:
    server = await serve(metadata={"enabled": False})
    assert (await post(server, EXTRACT))[0] == 404
    async with server.client.get("/api/health") as answer:
        assert (await answer.json())["services"]["extraction"] == "disabled"


async def test_a_client_that_leaves_leaves_no_file(serve: Serve, tmp_path: Path) -> None:
    require_exiftool()
    server = await serve(**sections(tmp_path, engines=1))
    root = server.services.settings.metadata.temp_root

    async def endless() -> AsyncIterator[bytes]:
        yield (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + jpeg()
        )
        for _ in range(100):
            yield bytes(1024 * 1024)
        await asyncio.Event().wait()

    headers = {
        "Authorization": f"Bearer {token()}",
        "Content-Type": "multipart/form-data; boundary=b",
    }
    sending = asyncio.create_task(server.client.post(EXTRACT, data=endless(), headers=headers))
    await eventually(lambda: sum(path.stat().st_size for path in left(root)) > 50 * 1024 * 1024)
    sending.cancel()
    await eventually(lambda: not left(root))
