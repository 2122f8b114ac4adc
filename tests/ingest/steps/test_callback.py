"""The callback step: what the main API receives, and when it is repeated."""

from __future__ import annotations

import pytest

from proxy.domain.media import MediaStatus
from tests.ingest.conftest import BACKEND, Work, Worker
from tests.ingest.fake_main_api import FakeMainApi
from tests.support.server import SAMPLES

PHOTO = (SAMPLES / "kodak-23.jpg").read_bytes()
LOGO = (SAMPLES / "logo.png").read_bytes()
BADGE = (SAMPLES / "badge.png").read_bytes()


async def test_the_callback_has_the_rich_payload(fake: FakeMainApi, worker: Worker) -> None:
    image = fake.add(PHOTO)
    await worker.ingest.run_once()
    (payload,) = image.completions
    analysis = payload.pop("ai_analysis")
    assert payload == {
        "media_id": image.media_id,
        "permanent_url": f"{BACKEND}/serve/{image.media_id}",
        "processing_complete": True,
        "ai_enhanced": True,
        "formats_available": ["avif", "webp", "jpeg"],
    }
    assert 0 < analysis["quality_score"] <= 100
    assert analysis["mood_keywords"]
    unknown = ("style", "medium", "brand_colors", "site_context", "background_removed")
    assert {analysis[name] for name in unknown} == {None}


async def test_images_of_sites_have_the_brand_of_their_own_user(
    fake: FakeMainApi, work: Work
) -> None:
    worker = await work(renditions="none")
    logo = fake.add(LOGO, kind="logo", suffix="png", user_id=8)
    own = fake.add(BADGE, kind="site", suffix="png", user_id=8)
    strange = fake.add(BADGE, kind="site", suffix="png", user_id=9)
    await worker.ingest.run_once()
    brand = logo.completions[0]["ai_analysis"]["brand_colors"]
    context = own.completions[0]["ai_analysis"]["site_context"]
    assert context == {"brand_colors": brand, "logo_media_id": int(logo.media_id or 0)}
    assert strange.completions[0]["ai_analysis"]["site_context"] is None


async def test_a_rejected_callback_is_repeated_and_no_other_step(
    fake: FakeMainApi, plain: Worker
) -> None:
    image = fake.add(PHOTO)
    fake.status["complete"] = 400
    assert await plain.ingest.run_once() == 1
    media_id = plain.row("media_id")[0]
    assert (await plain.media(media_id)).status == MediaStatus.COMPLETED
    assert (await plain.server.client.get(f"/serve/{media_id}")).status == 200
    jobs = plain.server.metric("smartserve_jobs_total")
    for _ in range(3):
        plain.due()
        await plain.ingest.run_once()
    assert image.status == "pending"
    del fake.status["complete"]
    plain.due()
    await plain.ingest.run_once()
    assert (image.status, image.media_id) == ("processed", media_id)
    assert fake.asked["file"] == 1
    assert plain.server.metric("smartserve_jobs_total") == jobs


async def test_an_upload_that_the_main_api_deleted_fails_permanently(
    fake: FakeMainApi, plain: Worker
) -> None:
    image = fake.add(PHOTO)
    fake.status["complete"] = 404
    fake.status["cleanup"] = 404
    for _ in range(4):
        await plain.ingest.run_once()
        plain.due()
    assert image.completions == []
    state, reason, final, left = plain.row("state, reason, final, not_before")
    assert (state, final, left) == ("failed", "1", "None")
    assert "does not know the upload" in reason
    media = await plain.media(plain.row("media_id")[0])
    assert media.status == MediaStatus.COMPLETED, "it is served already"
    assert media.bulk_path is not None
    assert (plain.server.services.settings.storage_root / media.bulk_path).exists()


@pytest.mark.parametrize("route", ["file", "complete"])
async def test_a_main_api_during_its_deployment_loses_no_upload(
    fake: FakeMainApi, plain: Worker, route: str
) -> None:
    image = fake.add(PHOTO)
    fake.status[route] = 404
    await plain.ingest.run_once()
    assert (image.status, fake.asked["cleanup"]) == ("pending", 0)
    del fake.status[route]
    plain.due()
    await plain.ingest.run_once()
    assert image.status == "processed"


async def test_a_failed_callback_is_repeated_when_the_upload_is_listed_again(
    fake: FakeMainApi, plain: Worker
) -> None:
    """It failed for good at its callback; the main API comes back from a copy that lists it."""
    image = fake.add(PHOTO)
    fake.status["complete"] = fake.status["cleanup"] = 404
    for _ in range(4):
        await plain.ingest.run_once()
        plain.due()
    fake.status.clear()
    plain.sql("UPDATE ingest_items SET finished_at = 1; SELECT 1")
    await plain.ingest.run_once()
    assert (image.status, image.media_id) == ("processed", plain.row("media_id")[0])
    assert plain.row("state, final") == ["done", "0"]


async def test_a_forgotten_callback_is_repeated_once(fake: FakeMainApi, plain: Worker) -> None:
    image = fake.add(PHOTO)
    await plain.ingest.run_once()
    image.status = "pending"
    await plain.ingest.run_once()
    assert len(image.completions) == 1, "the list may be older than that"
    plain.sql("UPDATE ingest_items SET finished_at = 1; SELECT 1")
    await plain.ingest.run_once()
    assert image.status == "processed"
    assert len(image.completions) == 2
    assert fake.asked["file"] == 1


async def test_a_completed_step_of_a_dead_worker_is_not_repeated(
    fake: FakeMainApi, plain: Worker
) -> None:
    fake.add(PHOTO)
    fake.status["complete"] = 500
    await plain.ingest.run_once()
    del fake.status["complete"]
    # As a worker leaves it that is killed between two steps.
    plain.sql(
        "UPDATE ingest_items SET state = 'queued', not_before = 1, lease = 'dead',"
        " lease_until = 1; SELECT 1"
    )
    plain.sql("UPDATE processing_checklist SET update_callback_attempts = 1; SELECT 1")
    await plain.ingest.run_once()
    assert plain.row("state, takeovers") == ["done", "1"]
    assert fake.asked["file"] == 1
    assert plain.row("update_callback_attempts", "processing_checklist") == ["2"]
