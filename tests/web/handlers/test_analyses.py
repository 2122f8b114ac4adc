"""The analysis of an image over HTTP, as in section 12 of the requirements document."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.ingest.conftest import Work, fake, work  # noqa: F401 - fixtures
from tests.ingest.fake_main_api import FakeMainApi
from tests.support.server import SAMPLES, Serve, Serving

KEY = "a-key-of-the-media-api"
BEARER = {"Authorization": f"Bearer {KEY}"}
LOGO = (SAMPLES / "logo.png").read_bytes()


async def test_the_analysis_is_returned_with_the_key(
    fake: FakeMainApi,  # noqa: F811 - a fixture
    work: Work,  # noqa: F811 - a fixture
) -> None:
    worker = await work({"main": {"key": KEY}})
    image = fake.add(LOGO, kind="logo")
    await worker.ingest.run_once()
    url = f"/api/media/analysis/{image.media_id}"
    answer = await worker.server.client.get(url, headers=BEARER)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    body = await answer.json()
    assert body["success"] is True
    analysis = body["analysis"]
    told = image.completions[0]["ai_analysis"]
    for name in ("style", "medium", "quality_score", "mood_keywords", "brand_colors"):
        assert analysis[name] == told[name]
    assert analysis["site_context"] is None
    assert analysis["dominant_colors"][0]["hex"].startswith("#")
    assert analysis["detected_objects"] is None
    assert "detected_objects" in analysis["reasons"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong-wrong-wrong"}])
async def test_without_the_key_nothing_is_returned(serve: Serve, headers: dict[str, str]) -> None:
    server = await serve(main={"key": KEY})
    for media_id in ("1", "999999", "x"):
        answer = await server.client.get(f"/api/media/analysis/{media_id}", headers=headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("media_id", "status"), [("999999", 404), ("9" * 19, 404), ("9" * 20, 400), ("x", 400)]
)
async def test_unknown_and_invalid_ids_are_problems(
    serve: Serve, media_id: str, status: int
) -> None:
    server = await serve(main={"key": KEY})
    answer = await server.client.get(f"/api/media/analysis/{media_id}", headers=BEARER)
    assert answer.status == status
    assert "Retry-After" not in answer.headers


async def test_an_image_without_an_analysis_is_a_404(serve: Serve) -> None:
    server = await serve(main={"key": KEY})
    answer = await server.client.get("/api/media/analysis/1", headers=BEARER)
    assert answer.status == 404
    assert "not been analysed" in (await answer.json())["detail"]
    assert "Retry-After" not in answer.headers


async def test_during_processing_the_404_has_retry_after(serve: Serve) -> None:
    server = await serve(main={"key": KEY})
    _set_status(server, "processing")
    answer = await server.client.get("/api/media/analysis/1", headers=BEARER)
    assert answer.status == 404
    assert int(answer.headers["Retry-After"]) > 0


def _set_status(server: Serving, status: str) -> None:
    path = server.services.settings.data_path / "smartserve.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE media_files SET status = ? WHERE id = 1", [status])
        connection.commit()
