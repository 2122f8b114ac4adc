"""Jobs over HTTP: who may add, see and delete them; and the statistics of the cache."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData

from proxy.app.metadata import MetadataServices, job_worker
from proxy.ingest.worker_loop import running_worker
from proxy.metadata.extraction import Extraction
from proxy.metadata.extractor import CacheKey
from proxy.web.handlers.metadata_jobs import MAX_JOB_IDS
from tests.metadata.files import jpeg
from tests.support.commands import KEY
from tests.support.server import Library, Serve, Serving
from tests.support.uploads import MAIN, USERS, signed
from tests.support.waiting import eventually

JOBS = "/api/extract/jobs"
HOOK = "https://hooks.example.org/metadata"
OWNER = 7
"""Of the images in the library."""
MEDIA_KEY = {"Authorization": f"Bearer {MAIN['key']}"}
ADMIN = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
async def server(serve: Serve, tmp_path: Path) -> Serving:
    metadata = {
        "temp_root": str(tmp_path / "metaextract"),
        "engine": "pillow",
        "engines": 1,
        "callback_hosts": ["hooks.example.org"],
        "max_jobs_per_user": 3,
        "engine_timeout_s": 120,
    }
    return await serve(main=MAIN, users=USERS, admin={"key": KEY}, metadata=metadata)


def services(server: Serving) -> MetadataServices:
    found = server.services.metadata
    assert found is not None
    return found


@asynccontextmanager
async def working(server: Serving) -> AsyncIterator[None]:
    """Run the jobs of the server."""
    worker = job_worker(services(server), server.services.storage, server.services.supervisor)
    async with running_worker(worker, drain_s=60):
        yield


def files(server: Serving) -> list[str]:
    """The files of jobs that the server has."""
    folder = server.services.settings.metadata_job_root
    names = [one.name for one in folder.iterdir()] if folder.exists() else []
    return [name for name in names if name != "folder-id"]


async def call(
    server: Serving, method: str, path: str = JOBS, *, user: int | None = OWNER, **options: Any
) -> tuple[int, Any, Mapping[str, str]]:
    """Return status, JSON and headers of an answer to a user; None: without a token."""
    headers = options.pop("headers", {} if user is None else signed(user))
    async with server.client.request(method, path, headers=headers, **options) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if text else None, answer.headers


def form(content: bytes, **texts: str) -> FormData:
    # As browsers send it: aiohttp would write Käse as K%C3%A4se.
    data = FormData(quote_fields=False)
    for name, text in texts.items():
        data.add_field(name, text)
    data.add_field("file", content, filename="Käse.jpg", content_type="image/jpeg")
    return data


async def added(server: Serving, media_id: int, *, user: int = OWNER, **body: Any) -> str:
    status, answer, _ = await call(server, "POST", user=user, json={"media_id": media_id, **body})
    assert status == 202, answer
    return str(answer["id"])


async def ended(server: Serving, job_id: str, user: int = OWNER) -> dict[str, Any]:
    """Return the job as soon as it has ended."""
    job: dict[str, Any] = {}

    async def done() -> bool:
        nonlocal job
        _, job, _ = await call(server, "GET", f"{JOBS}/{job_id}", user=user)
        return job["status"] in ("completed", "failed")

    await eventually(done, timeout_s=120)
    return job


async def test_an_uploaded_file_becomes_a_job_whose_result_is_an_extraction(
    server: Serving,
) -> None:
    options = json.dumps({"advanced": False, "tier": "forensic"})
    status, answer, headers = await call(
        server, "POST", data=form(jpeg(), options=options, callback="")
    )
    assert status == 202, answer
    job_id = answer["id"]
    assert headers["Location"] == f"{JOBS}/{job_id}"
    assert files(server) == [job_id]
    _, job, _ = await call(server, "GET", headers["Location"])
    assert (job["status"], job["progress"], job["result"]) == ("pending", 0, None)
    async with working(server):
        job = await ended(server, job_id)
        await eventually(lambda: files(server) == [], timeout_s=120)
    assert (job["status"], job["progress"], job["stage"]) == ("completed", 100, "complete")
    assert (job["error"], job["attempts"]) == (None, 1)
    result = job["result"]
    assert (result["filename"], result["tier"]) == ("Käse.jpg", "forensic")
    assert result["metadata"]["exif"]["make"] == "Canon"
    assert result["quality_metrics"]["confidence_score"] > 0


async def test_a_stored_image_becomes_a_job_for_its_owner_and_the_platform_only(
    server: Serving, library: Library
) -> None:
    photo = library.ids["photo"]
    assert (await call(server, "POST", user=8, json={"media_id": photo}))[0] == 404
    job_id = await added(server, photo)
    status, other, _ = await call(server, "POST", headers=MEDIA_KEY, json={"media_id": str(photo)})
    assert status == 202
    async with working(server):
        job = await ended(server, job_id)
    assert job["result"]["metadata"]["format"] == "jpeg"
    listed = await call(server, "GET", f"{JOBS}?ids={job_id},{other['id']}", headers=MEDIA_KEY)
    assert "unknown" not in [one["status"] for one in listed[1]["jobs"]]


async def test_jobs_of_others_and_jobs_that_never_were_are_unknown(
    server: Serving, library: Library
) -> None:
    own = await added(server, library.ids["photo"])
    ids = f"12,{own},{'f' * 32},{own}"
    _, answer, _ = await call(server, "GET", f"{JOBS}?ids={ids}")
    assert [one["status"] for one in answer["jobs"]] == ["unknown", "pending", "unknown"]
    _, answer, _ = await call(server, "GET", f"{JOBS}?ids={own}", user=8)
    (job,) = answer["jobs"]
    assert job == {
        "id": own,
        "status": "unknown",
        "progress": 0,
        "stage": None,
        "result": None,
        "result_omitted": False,
        "error": None,
        "code": None,
        "attempts": 0,
    }
    for method in ("GET", "DELETE"):
        status, answer, _ = await call(server, method, f"{JOBS}/{own}", user=8)
        assert (status, answer["code"]) == (404, "NOT_FOUND")
    assert (await call(server, "GET", f"{JOBS}/{own}"))[0] == 200


async def test_a_job_is_deleted_with_its_file(server: Serving) -> None:
    _, answer, _ = await call(server, "POST", data=form(jpeg()))
    path = f"{JOBS}/{answer['id']}"
    assert (await call(server, "DELETE", path))[:2] == (204, None)
    assert files(server) == []
    assert (await call(server, "DELETE", path))[0] == 404
    assert (await call(server, "GET", path))[0] == 404


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_without_a_token_there_are_no_jobs(keyed: Serving, method: str) -> None:
    path = JOBS if method == "POST" else f"{JOBS}/{'f' * 32}"
    status, answer, headers = await call(keyed, method, path, user=None)
    assert (status, answer["code"]) == (401, "UNAUTHORIZED")
    assert "WWW-Authenticate" in headers


@pytest.mark.parametrize(
    "callback",
    ["https://elsewhere.example.org/", "http://127.0.0.1/", "ftp://hooks.example.org/", 7, "x"],
)
async def test_a_callback_to_any_other_host_is_refused(
    keyed: Serving, library: Library, callback: object
) -> None:
    body = {"media_id": library.ids["photo"], "callback": callback}
    status, answer, _ = await call(keyed, "POST", json=body)
    assert (status, answer["code"], answer["parameter"]) == (400, "INVALID_REQUEST", "callback")
    assert "metadata.callback_hosts" in answer["error"]


async def test_a_callback_of_an_upload_is_refused_too_and_nothing_is_left(
    keyed: Serving,
) -> None:
    before = files(keyed)
    data = form(jpeg(), callback="https://elsewhere.example.org/")
    assert (await call(keyed, "POST", data=data))[0] == 400
    assert files(keyed) == before


async def test_an_allowed_callback_is_stored(server: Serving, library: Library) -> None:
    job_id = await added(server, library.ids["photo"], callback=HOOK)
    job = await services(server).jobs.table.claim("extract", "w")
    assert job is not None
    assert (job.id, job.callback) == (job_id, HOOK)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"media_id": None}, {"media_id": -1}, {"media_id": "x"}, {"media_id": 1.5}, {}),
        *({"media_id": True}, {"media_id": "٣"}),
        *({"options": []}, {"options": {"advanced": 1}}, {"options": {"tier": 1}}),
        *({"options": {"tier": "gold"}}, {"options": {"priority": 1}}),
    ],
)
async def test_a_body_with_wrong_values_is_refused(
    keyed: Serving, library: Library, wrong: dict[str, object]
) -> None:
    body = {"media_id": library.ids["photo"], **wrong} if "options" in wrong else wrong
    status, answer, _ = await call(keyed, "POST", json=body)
    assert (status, answer["code"]) == (400, "INVALID_REQUEST")


async def test_an_image_that_is_not_there_is_not_found(keyed: Serving) -> None:
    for media_id in (10**9, 2**63, "9" * 30):
        status, answer, _ = await call(keyed, "POST", json={"media_id": media_id})
        assert (status, answer["code"]) == (404, "NOT_FOUND")


async def test_options_that_are_no_json_are_refused(keyed: Serving) -> None:
    before = files(keyed)
    status, answer, _ = await call(keyed, "POST", data=form(jpeg(), options="{"))
    assert (status, answer["parameter"]) == (400, "options")
    assert files(keyed) == before


@pytest.mark.parametrize(
    "ids", ["", ",", "a,,b", "a b", "ä", "x" * 65, ",".join(map(str, range(MAX_JOB_IDS + 1)))]
)
async def test_a_list_needs_ids_and_not_too_many(keyed: Serving, ids: str) -> None:
    status, answer, _ = await call(keyed, "GET", JOBS, params={"ids": ids})
    assert (status, answer["parameter"]) == (400, "ids")


async def test_a_user_with_too_many_jobs_is_refused_before_the_file_is_read(
    server: Serving, library: Library
) -> None:
    for _ in range(3):
        await added(server, library.ids["photo"])
    status, answer, headers = await call(server, "POST", data=form(jpeg()))
    assert (status, answer["code"]) == (429, "QUEUE_FULL")
    assert int(headers["Retry-After"]) > 0
    # The engines have not started for it.
    assert services(server).extractor.service is None


async def test_a_list_with_results_that_are_too_large_says_so(
    server: Serving, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = services(server).jobs.table
    ids = [await added(server, library.ids["photo"]) for _ in range(2)]
    for _ in ids:
        job = await table.claim("extract", "w")
        assert job is not None
        await table.complete(job, '{"success": true}')
    monkeypatch.setattr("proxy.web.handlers.metadata_jobs._MAX_RESULTS_BYTES", 20)
    _, answer, _ = await call(server, "GET", f"{JOBS}?ids={','.join(ids)}")
    first, second = answer["jobs"]
    assert (first["result"], first["result_omitted"]) == ({"success": True}, False)
    assert (second["result"], second["result_omitted"]) == (None, True)
    _, alone, _ = await call(server, "GET", f"{JOBS}/{ids[1]}")
    assert alone["result"] == {"success": True}


async def test_the_statistics_of_the_cache_need_the_admin_key(server: Serving) -> None:
    cache = services(server).cache
    key = CacheKey("0" * 64, "1" * 64)
    await cache.put(key, Extraction({"groups": {}, "text": []}, {}, {}))
    for one in (key, key, CacheKey("2" * 64, "1" * 64)):
        await cache.get(one)
    path = "/api/extract/cache/stats"
    status, answer, _ = await call(server, "GET", path, headers=ADMIN)
    assert (status, answer) == (200, {"totalCached": 1, "cacheHits": 2, "cacheMisses": 1})
    status, answer, _ = await call(server, "GET", path)
    assert (status, answer["code"]) == (401, "UNAUTHORIZED")
