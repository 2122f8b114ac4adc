"""``/info`` and the gallery over HTTP, with real workers."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from PIL import Image

from proxy.domain.errors import DatabaseUnavailable
from proxy.settings import Settings
from proxy.web.handlers import info
from proxy.web.handlers.info import MAX_BODY_BYTES, MAX_IDS
from proxy.web.routes import describe
from tests.analysis.providers.service import GOOGLE_ANSWER
from tests.support.server import (
    ACCESS,
    CHROME,
    Background,
    Library,
    Serve,
    Serving,
    background,
    make_settings,
)
from tests.support.waiting import eventually
from tests.web.wire import answers, exchange

DOCUMENT = json.loads(json.dumps(describe(Settings())))
DESCRIPTION = Draft202012Validator(
    {"$ref": "#/components/schemas/ImageDescription", "components": DOCUMENT["components"]}
)
NAMES = ("large", "photo", "logo", "badge")


async def told(server: Serving, media_id: int) -> dict[str, Any]:
    answer = await server.client.get(f"/info/{media_id}")
    assert answer.status == 200, await answer.text()
    found: dict[str, Any] = await answer.json()
    return found


@pytest.mark.parametrize("name", NAMES)
async def test_the_description_matches_its_openapi_schema(
    name: str, shared: Serving, library: Library
) -> None:
    found = await told(shared, library.ids[name])
    assert [fault.message for fault in DESCRIPTION.iter_errors(found)] == []
    assert found["id"] == library.ids[name]
    assert found["ratio"] == pytest.approx(found["width"] / found["height"], abs=1e-3)
    assert found["dominant_colors"][0]["hex"].startswith("#")
    assert found["alt"] is None


@pytest.mark.parametrize("name", NAMES)
async def test_the_data_uri_is_a_tiny_webp_of_the_same_shape(
    name: str, shared: Serving, library: Library
) -> None:
    found = await told(shared, library.ids[name])
    uri = found["placeholders"]["data_uri"]
    assert len(uri) <= 700
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert picture.format == "WEBP"
    assert picture.width / picture.height == pytest.approx(found["ratio"], rel=0.1)


@pytest.mark.slow
async def test_every_url_is_served_with_the_stated_dimensions(
    shared: Serving, library: Library
) -> None:
    found = await told(shared, library.ids["badge"])
    for candidates in found["srcset"].values():
        for candidate in candidates.split(", "):
            url, descriptor = candidate.split(" ")
            answer = await shared.client.get(url, headers={"Accept": "image/webp"})
            assert answer.status == 200
            if answer.content_type != "image/avif":
                body = io.BytesIO(await answer.read())
                assert f"{Image.open(body).width}w" == descriptor
    for name, url in found["urls"].items():
        answer = await shared.client.get(url, headers={"Accept": "image/webp"})
        assert "immutable" in answer.headers["Cache-Control"]
        size = Image.open(io.BytesIO(await answer.read())).size
        assert size == tuple(found["dimensions"][name].values())


async def test_stored_formats_are_listed_with_their_stage(serve: Serve) -> None:
    server = await serve(upgrades={"enabled": True, "budget_s": 0.0, "all_sizes": False})
    before = await told(server, 2)
    assert before["formats"] == {"served": ["avif", "webp", "jpeg"], "ready": {}}
    answer = await server.client.get("/serve/2?size=thumbnail", headers={"Accept": CHROME})
    assert "draft" in answer.headers["Cache-Status"]
    await answer.read()
    await server.services.serving.renderer.drain()
    after = await told(server, 2)
    assert after["formats"]["ready"]["thumbnail"]["avif"] in ("draft", "final")


async def test_without_upgrades_every_stored_format_is_final(server: Serving) -> None:
    await (await server.client.get("/serve/2?size=small&format=webp")).read()
    await server.services.serving.renderer.drain()
    assert (await told(server, 2))["formats"]["ready"]["small"]["webp"] == "final"


async def test_a_transparent_image_has_no_jpeg(shared: Serving, library: Library) -> None:
    found = await told(shared, library.ids["badge"])
    assert found["transparent"] is True
    assert found["formats"]["served"] == ["avif", "webp", "png"]
    assert set(found["srcset"]) == {"auto", "avif", "webp", "png"}


async def test_a_description_is_cached_as_long_as_an_image_of_api_images(shared: Serving) -> None:
    answer = await shared.client.get("/info/1")
    assert answer.headers["Cache-Control"] == "public, max-age=3600, stale-while-revalidate=86400"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Vary" not in answer.headers


@pytest.mark.parametrize("table", ["analyses", "alt_texts"])
@pytest.mark.parametrize("address", ["/info/1", "/info?ids=1", "/oembed?url={}/serve/1"])
async def test_what_lacks_the_texts_of_the_database_is_cached_for_a_short_time(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, table: str, address: str
) -> None:
    async def fail(*_: object) -> None:
        raise DatabaseUnavailable("down")

    server = await serve(lifetimes={"fallback_s": 20})
    target = address.format(f"http://{server.client.host}:{server.client.port}")
    with monkeypatch.context() as down:
        for method in ("find", "find_many"):
            down.setattr(getattr(server.services.storage, table), method, fail)
        answer = await server.client.get(target)
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "public, max-age=20")
    assert (await answer.json()).get("cache_age", 20) == 20
    again = await server.client.get(target)
    assert again.headers["Cache-Control"].startswith("public, max-age=3600")
    assert (await again.json()).get("cache_age", 3600) == 3600


def change(data_dir: Path, statement: str) -> None:
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as database, database:
        database.execute(statement)


@pytest.mark.parametrize(
    ("ids", "seconds"),
    [("1", "3600"), ("2", "25"), ("1,2", "25"), ("3", "10"), ("1,2,3", "10"), ("2,99", "25")],
)
async def test_a_list_is_cached_no_longer_than_each_of_its_images(
    serve: Serve, data_dir: Path, ids: str, seconds: str
) -> None:
    change(data_dir, "UPDATE media_files SET status = 'processing' WHERE id IN (2, 3)")
    change(data_dir, "UPDATE media_files SET bulk_path = NULL WHERE id = 3")
    server = await serve(lifetimes={"processing_s": 25})

    async def lifetime(target: str) -> str:
        answer = await server.client.get(target)
        return answer.headers["Cache-Control"].partition("max-age=")[2].partition(",")[0]

    assert await lifetime(f"/info?ids={ids}") == seconds
    singles = [int(await lifetime(f"/info/{one}")) for one in ids.split(",")]
    assert min(singles) == int(seconds)


async def test_a_client_with_the_current_description_gets_a_304(shared: Serving) -> None:
    first = await shared.client.get("/info/1")
    again = await shared.client.get("/info/1", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status == 304
    assert again.headers["ETag"] == first.headers["ETag"]
    assert await again.read() == b""
    other = await shared.client.get("/info/1", headers={"If-None-Match": '"another"'})
    assert other.status == 200


@pytest.mark.parametrize("path", ["/info/2", "/info?ids=2", "/api/gallery", "/static/gallery.js"])
async def test_a_client_that_wants_only_another_description_gets_a_412(
    shared: Serving, path: str
) -> None:
    async with shared.client.get(path) as answer:
        assert answer.status == 200
        etag = answer.headers["ETag"]
    for method in ("GET", "HEAD"):
        async with shared.client.request(method, path, headers={"If-Match": '"0"'}) as answer:
            assert (answer.status, answer.headers["Cache-Control"]) == (412, "no-store")
            readable = answer.headers.get("Access-Control-Allow-Origin")
            assert readable == ("*" if path.startswith("/info") else None)
    async with shared.client.get(path, headers={"If-Match": etag}) as answer:
        assert answer.status == 200


async def test_head_returns_the_headers_of_get(shared: Serving) -> None:
    get = await shared.client.get("/info/1")
    head = await shared.client.head("/info/1")
    assert head.status == 200
    assert await head.read() == b""
    for name in ("ETag", "Content-Length", "Content-Type", "Cache-Control"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/info/99999", 404),
        (f"/info/{'9' * 19}", 404),
        (f"/info/{'9' * 20}", 400),
        ("/info/x", 400),
        ("/info/1.webp", 400),
        ("/info", 400),
        ("/info?ids=", 400),
        ("/info?ids=1,,2", 400),
        ("/info?ids=1,x", 400),
        (f"/info?ids={','.join(map(str, range(MAX_IDS + 1)))}", 400),
    ],
)
async def test_missing_images_and_invalid_ids_are_problems(
    target: str, status: int, shared: Serving
) -> None:
    answer = await shared.client.get(target)
    assert answer.status == status
    assert answer.content_type == "application/problem+json"
    kept = "public, max-age=60" if status == 404 else "no-store"
    assert answer.headers["Cache-Control"] == kept


async def test_many_ids_are_answered_in_order_and_missing_ones_with_a_reason(
    shared: Serving,
) -> None:
    answer = await shared.client.get("/info?ids=3,99,1,3")
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "public, max-age=60"
    body = await answer.json()
    assert [one["id"] for one in body["pictures"]] == [3, 1]
    assert body["missing"] == [
        {"id": 99, "status": 404, "detail": "there is no image with this id"}
    ]
    assert body["pictures"][1] == await told(shared, 1)


async def test_commas_may_be_percent_encoded(shared: Serving) -> None:
    answer = await shared.client.get("/info?ids=3%2C1")
    assert [one["id"] for one in (await answer.json())["pictures"]] == [3, 1]
    assert "max-age=3600" in answer.headers["Cache-Control"]


async def test_post_returns_the_same_as_get(shared: Serving) -> None:
    answer = await shared.client.post("/info", json={"ids": [3, 99, 1, 3, 1.0], "more": None})
    assert (answer.status, answer.content_type) == (200, "application/json")
    got = await shared.client.get("/info?ids=3,99,1,3")
    assert await answer.json() == await got.json()


async def test_the_response_to_a_post_is_not_stored_and_readable_by_all_origins(
    shared: Serving,
) -> None:
    answer = await shared.client.post("/info", json={"ids": [1]})
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "ETag" not in answer.headers


IDS = f"ids must be a list of 1 to {MAX_IDS} media ids, whole numbers of 1 to 19 digits"


@pytest.mark.parametrize(
    "ids",
    [
        *(None, [], {}, 1, "1,2", ["1"], [1, None], [True], [1.5], [-1], [[1]]),
        *([10**19], [10**100], list(range(MAX_IDS + 1)), [1] * (MAX_IDS + 1)),
    ],
    ids=repr,
)
async def test_an_invalid_list_of_ids_is_answered_with_the_allowed_form(
    ids: object, shared: Serving
) -> None:
    answer = await shared.client.post("/info", json={"ids": ids})
    assert (answer.status, answer.content_type) == (400, "application/problem+json")
    told = await answer.json()
    assert (told["detail"], told["parameter"]) == (IDS, "ids")
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_hundred_of_the_longest_ids_fit_into_a_body(shared: Serving) -> None:
    ids = list(range(10**19 - MAX_IDS, 10**19))
    body = json.dumps({"ids": ids}, indent=8).encode()
    answer = await posted(shared, body)
    assert answer.status == 200
    assert [one["status"] for one in (await answer.json())["missing"]] == [404] * MAX_IDS


async def posted(server: Serving, body: bytes, **headers: str) -> ClientResponse:
    headers = {"Content-Type": "application/json"} | headers
    return await server.client.post("/info", data=body, headers=headers)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[1, 2]", 400),
        (b"{}", 400),
        (b'{"ids": [1, 2]}' + b" " * MAX_BODY_BYTES, 413),
    ],
)
async def test_an_invalid_body_is_a_problem(body: bytes, status: int, shared: Serving) -> None:
    answer = await posted(shared, body)
    assert (answer.status, answer.content_type) == (status, "application/problem+json")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_a_chunked_body_is_limited_too(shared: Serving) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"ids": [1, 2]'
        for _ in range(MAX_BODY_BYTES // 1024):
            yield b" " * 1024
        yield b"}"

    headers = {"Content-Type": "application/json"}
    answer = await shared.client.post("/info", data=pieces(), headers=headers)
    assert answer.status == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": ""},
        {"Content-Encoding": "gzip"},
    ],
)
async def test_other_content_types_are_rejected(headers: dict[str, str], shared: Serving) -> None:
    answer = await posted(shared, b'{"ids": [1]}', **headers)
    assert answer.status == 415
    assert "Content-" in (await answer.json())["detail"]


async def test_json_may_have_a_charset_parameter(shared: Serving) -> None:
    kind = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert (await posted(shared, b'{"ids": [1]}', **kind)).status == 200


async def test_a_body_that_does_not_arrive_times_out(serve: Serve) -> None:
    server = await serve(server={"header_timeout_s": 0.5})
    head = b"POST /info HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    sent = head + b"Content-Length: 99\r\n\r\n{"
    (answer,) = answers(await exchange(server.client.host, server.client.port or 0, sent))
    assert (answer.status, answer.headers["connection"]) == (408, "close")


async def test_a_cors_preflight_is_answered(shared: Serving) -> None:
    asked = {
        "Origin": "https://elsewhere.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    answer = await shared.client.options("/info", headers=asked)
    assert (answer.status, await answer.read()) == (204, b"")
    assert "Content-Length" not in answer.headers
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert "Content-Type" in answer.headers["Access-Control-Allow-Headers"]
    assert answer.headers["Allow"] == "GET,HEAD,OPTIONS,POST"
    assert (await shared.client.get("/info?ids=1")).status == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_other_methods_are_answered_with_the_allowed_ones(
    method: str, shared: Serving
) -> None:
    answer = await shared.client.request(method, "/info")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD,OPTIONS,POST")


async def test_an_image_is_analysed_once_for_concurrent_requests(server: Serving) -> None:
    for _ in range(3):
        await told(server, 1)
    jobs = server.metric("smartserve_jobs_total")
    await told(server, 1)
    assert server.metric("smartserve_jobs_total") == jobs


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_list_is_answered_in_time_with_those_that_are_described(
    method: str, server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.web.handlers.info._PATIENCE_S", 0.2)

    async def listed() -> ClientResponse:
        if method == "GET":
            return await server.client.get("/info?ids=2,99,1")
        return await server.client.post("/info", json={"ids": [2, 99, 1]})

    await told(server, 1)
    (worker,) = server.services.rendering.pool.pids
    os.kill(worker, signal.SIGSTOP)
    partial = await listed()
    os.kill(worker, signal.SIGCONT)
    assert (partial.status, partial.headers["Retry-After"]) == (200, "2")
    assert partial.headers["Cache-Control"] == "no-store"
    body = await partial.json()
    assert [one["id"] for one in body["pictures"]] == [1]
    assert [(one["id"], one["status"]) for one in body["missing"]] == [(2, 503), (99, 404)]
    assert "retry" in body["missing"][0]["detail"]
    answers: list[ClientResponse] = []

    async def complete() -> bool:
        answers.append(await listed())
        return len((await answers[-1].json())["pictures"]) == 2

    await eventually(complete)
    assert "Retry-After" not in answers[-1].headers


async def test_a_list_takes_one_query_and_one_look_up_in_a_thread(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = server.services.storage
    target = "/info?ids=1,2,3,4"
    await eventually(lambda: everything(server, target))
    for media_id in range(1, 5):
        storage.database.invalidate(media_id)
        server.services.serving.image_info.forget(media_id)
    hops, reads = [0], [0]
    run, read = storage.renditions.disk._threads.run, storage.analyses._database.read

    def counted_run(*arguments: Any, **options: Any) -> Any:
        hops[0] += 1
        return run(*arguments, **options)

    def counted_read(*arguments: Any, **options: Any) -> Any:
        reads[0] += 1
        return read(*arguments, **options)

    monkeypatch.setattr(storage.renditions.disk._threads, "run", counted_run)
    monkeypatch.setattr(storage.analyses._database, "read", counted_read)
    before = storage.repository.statistics()["queries"]
    assert await everything(server, target)
    assert hops == [1]
    # The rows, and the analyses.
    assert storage.repository.statistics()["queries"] - before + reads[0] == 2


async def everything(server: Serving, target: str) -> bool:
    return not (await (await server.client.get(target)).json())["missing"]


async def test_a_corrupt_original_has_the_status_of_the_image_route(
    serve: Serve, data_dir: Path
) -> None:
    server = await serve()
    media = await server.services.storage.repository.find(2)
    assert media is not None
    assert media.source_path is not None
    (data_dir / "originals" / media.source_path).write_bytes(b"\xff\xd8\xff but no picture" * 99)
    await server.services.storage.purger.medium(2)
    answer = await server.client.get("/info/2")
    assert answer.status == 422
    many = await server.client.get("/info?ids=1,2")
    assert many.headers["Cache-Control"] == "no-store"
    assert (await many.json())["missing"][0]["status"] == 422


async def test_bad_rows_affect_only_themselves(serve: Serve, data_dir: Path) -> None:
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as database, database:
        database.executescript(
            "UPDATE media_files SET updated_at = 'nonsense' WHERE id = 1;"
            "UPDATE media_files SET bulk_path = x'ff00' WHERE id = 2;"
            "UPDATE media_files SET original_name = CAST(x'ff' AS TEXT) WHERE id = 3;"
            "UPDATE media_facts SET width = 'wide' WHERE media_id = 3;"
            "INSERT INTO media_ai_analysis (media_id, dominant_colors, mood_keywords)"
            " VALUES (4, '{', 7);"
            "INSERT INTO media_analysis_details VALUES (4, '[1]');"
        )
    server = await serve()
    found = await (await server.client.get("/info?ids=1,2,3,4")).json()
    assert [one["id"] for one in found["pictures"]] == [1, 3, 4]
    assert [(one["id"], one["status"]) for one in found["missing"]] == [(2, 500)]
    assert "bulk_path" in found["missing"][0]["detail"]
    statuses = [(await server.client.get(f"/serve/{one}?size=grid")).status for one in (1, 2, 3, 4)]
    assert statuses == [200, 500, 200, 200]
    gallery = await (await server.client.get("/api/gallery")).json()
    assert [one["id"] for one in gallery["pictures"]] == [4, 3, 1]


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param("""'["\\ud83d"]'""", id="half a character"),
        pytest.param("CAST(x'5b22ff225d' AS TEXT)", id="no UTF-8"),
        pytest.param("x'5b22eda080225d'", id="a surrogate in bytes"),
        pytest.param(f"'[{2**70}]'", id="a huge number"),
        pytest.param("'[NaN, Infinity]'", id="no number"),
    ],
)
async def test_stored_values_that_no_json_can_have_are_no_error(
    serve: Serve, data_dir: Path, stored: str
) -> None:
    change(
        data_dir,
        "INSERT INTO media_ai_analysis (media_id, subject_matter, mood_keywords, detected_objects)"
        f" VALUES (2, CAST(x'61ff' AS TEXT), {stored}, {stored})",
    )
    server = await serve()
    found = await told(server, 2)
    assert found["alt"] == "a\ufffd"
    many = await (await server.client.get("/info?ids=1,2")).json()
    assert [one["id"] for one in many["pictures"]] == [1, 2]


async def test_the_description_uses_a_stored_analysis(serve: Serve, data_dir: Path) -> None:
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as database, database:
        database.execute(
            "INSERT INTO media_ai_analysis (media_id, subject_matter, style_classification,"
            " mood_keywords, dominant_colors) VALUES (2, 'a lighthouse', 'photograph',"
            " '[\"calm\"]', '[]')"
        )
    found = await told(await serve(), 2)
    assert found["alt"] == "a lighthouse"
    assert found["analysis"]["style"] == "photograph"
    assert found["analysis"]["mood_keywords"] == ["calm"]


async def test_the_description_has_what_providers_were_paid_for(
    serve: Serve, data_dir: Path
) -> None:
    values = {
        "labels": [{"name": "Tower", "confidence": 0.9}],
        "detected_logos": [{"name": "Kodak", "confidence": 0.5, "box": None}],
        "safe_search": {"adult": "VERY_LIKELY"},
        "site_context": {"content_class": {"name": "banner", "reason": "wide"}},
        "brand_colors": "red, by another program",
    }
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as database, database:
        database.execute(
            "INSERT INTO media_ai_analysis (media_id, detected_text, detected_objects,"
            " confidence_score, subject_matter)"
            " VALUES (2, 'FREE', '[{\"name\": \"bird\"}]', 0.5, 'x')"
        )
        details = "INSERT INTO media_analysis_details VALUES (2, ?)"
        database.execute(details, [json.dumps({**values, "reasons": {"google": "no credit"}})])
    server = await serve()
    analysis = (await told(server, 2))["analysis"]
    assert analysis.items() >= {**values, "brand_colors": None}.items()
    assert (
        analysis.items()
        >= {
            "detected_text": "FREE",
            "detected_objects": [{"name": "bird"}],
            "confidence_score": 0.5,
            "subject": "x",
        }.items()
    )
    # Visitors need not know why a provider of the operator failed.
    assert "reasons" not in analysis
    unknown = (await told(server, 1))["analysis"]
    assert [unknown[name] for name in values] == [None] * len(values)


async def test_what_an_older_version_was_paid_for_is_returned(serve: Serve, data_dir: Path) -> None:
    """It stored the answer of Google Vision, but neither logos nor labels nor safe search."""
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as database, database:
        insert = "INSERT INTO media_ai_analysis (media_id, raw_google_response) VALUES (2, ?)"
        database.execute(insert, [json.dumps(GOOGLE_ANSWER)])
    analysis = (await told(await serve(), 2))["analysis"]
    assert analysis["labels"][0] == {"name": "Macaw", "confidence": 0.98}
    assert analysis["detected_logos"] == [{"name": "Kodak", "confidence": 0.5, "box": None}]
    assert analysis["safe_search"]["adult"] == "VERY_UNLIKELY"


async def test_responses_are_counted_by_route(shared: Serving) -> None:
    routes = ("info", "info_many", "preflight")
    counted = partial(shared.metric, "smartserve_requests_total")
    before = [counted(route=route) for route in routes]
    await told(shared, 1)
    await shared.client.get("/info?ids=1")
    await shared.client.post("/info", json={"ids": [1]})
    await shared.client.options("/info")
    added = [counted(route=route) - was for route, was in zip(routes, before, strict=True)]
    assert added == [1, 2, 1]


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:8080", 200), ("[::1]:80", 200), ("rebound.example", 403)],
)
async def test_the_gallery_of_a_local_server_checks_the_host(
    host: str, status: int, shared: Serving
) -> None:
    async with shared.client.get("/api/gallery", headers={"Host": host}) as answer:
        assert answer.status == status


async def test_a_gallery_that_is_enabled_explicitly_is_served_under_any_name(serve: Serve) -> None:
    server = await serve(page={"enabled": True})
    async with server.client.get("/api/gallery", headers={"Host": "img.example.org"}) as answer:
        assert answer.status == 200


async def test_the_gallery_lists_images_in_pages_newest_first(shared: Serving) -> None:
    answer = await shared.client.get("/api/gallery?limit=3")
    assert answer.headers["Cache-Control"] == "no-cache"
    assert "Access-Control-Allow-Origin" not in answer.headers
    first = await answer.json()
    assert [one["id"] for one in first["pictures"]] == [4, 3, 2]
    assert first["next"] == 2
    rest = await (await shared.client.get("/api/gallery?limit=3&before=2")).json()
    assert [one["id"] for one in rest["pictures"]] == [1]
    assert rest["next"] is None
    assert rest["pictures"][0]["width"] == 2400


ADMIN = {"Authorization": "Bearer key-of-the-admin"}
SECTIONS: Mapping[str, Any] = {"admin": {"key": "key-of-the-admin"}, "access": ACCESS}


@pytest.fixture(scope="module")
def gallery(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Background]:
    """A server for tests that hide images, and show them again."""
    data_dir = library.copy(tmp_path_factory.mktemp("gallery") / "data")
    with background(make_settings(data_dir, **SECTIONS)) as found:
        yield found


async def hide(server: Serving, *media_ids: int) -> None:
    for media_id in media_ids:
        url = f"/api/media/{media_id}/visibility"
        body = {"visibility": "private"}
        async with server.client.put(url, json=body, headers=ADMIN) as answer:
            assert answer.status == 200, await answer.text()


@pytest.mark.parametrize(
    ("hidden", "query", "listed", "older"),
    [
        ((4, 3, 2), "limit=2", [1], None),
        ((4, 3), "limit=2", [2, 1], 1),
        ((4, 3), "limit=1", [2], 2),
        ((4, 2), "limit=2", [3, 1], 1),
        ((1,), "limit=3", [4, 3, 2], 2),
        ((4, 3, 2, 1), "limit=2", [], None),
        ((4, 3, 2, 1), "limit=3&before=4", [], None),
        ((), "limit=4", [4, 3, 2, 1], 1),
    ],
)
async def test_a_page_of_the_gallery_is_filled_with_public_images(
    gallery: Background, hidden: tuple[int, ...], query: str, listed: list[int], older: int | None
) -> None:
    async with gallery.serving() as server:
        await hide(server, *hidden)
        page = await (await server.client.get(f"/api/gallery?{query}")).json()
        for media_id in hidden:
            url = f"/api/media/{media_id}/visibility"
            async with server.client.delete(url, headers=ADMIN) as answer:
                assert answer.status == 200
    assert ([one["id"] for one in page["pictures"]], page["next"]) == (listed, older)


async def test_a_page_of_the_gallery_reads_a_limited_number_of_private_images(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(info, "_MAX_READS", 2)
    server = await serve(**SECTIONS)
    await hide(server, 4, 3)
    page = await (await server.client.get("/api/gallery?limit=1")).json()
    assert page == {"pictures": [], "next": 3}
    page = await (await server.client.get("/api/gallery?limit=1&before=3")).json()
    assert [one["id"] for one in page["pictures"]] == [2]


async def test_the_gallery_lists_placeholders_that_are_known(server: Serving) -> None:
    before = await (await server.client.get("/api/gallery")).json()
    assert {one["thumbhash"] for one in before["pictures"]} == {None}
    found = await (await server.client.get("/info/2")).json()
    after = await (await server.client.get("/api/gallery")).json()
    hashes = {one["id"]: one["thumbhash"] for one in after["pictures"]}
    assert hashes[2] == found["placeholders"]["thumbhash"]
    assert hashes[3] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "before=x", "before=-1"])
async def test_an_invalid_limit_or_id_of_the_gallery_is_a_400(query: str, shared: Serving) -> None:
    assert (await shared.client.get(f"/api/gallery?{query}")).status == 400
