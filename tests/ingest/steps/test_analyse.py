"""The analysis step: what is stored, and when providers are requested again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from pytest_aiohttp.plugin import AiohttpServer

from proxy.domain.analysis import (
    Analysis,
    AnalysisResult,
    DetectedObject,
    Kind,
    ProviderGap,
    Quality,
    merge,
)
from proxy.domain.media import Focus
from proxy.ingest.steps.analyse import focus_of
from tests.analysis.providers.service import (
    GOOGLE_ANSWER,
    KEY,
    SEEN,
    Act,
    Service,
    completion,
    fails,
    says,
    talks_nonsense,
)
from tests.ingest.conftest import Work, Worker
from tests.ingest.fake_main_api import FakeMainApi
from tests.support.server import SAMPLES

PHOTO = (SAMPLES / "kodak-23.jpg").read_bytes()
MEDIA_KEY = "a-key-of-the-media-api"
DESCRIBES = says(completion(json.dumps(SEEN)))


@dataclass
class Place:
    """A worker, and the two providers that it asks."""

    worker: Worker
    openai: Service
    google: Service

    async def work(self) -> int:
        """All that is due by now; gives how much has failed."""
        return await self.worker.ingest.run_once()

    async def analysis(self, media_id: str | None) -> dict[str, Any]:
        """What the server tells of a medium."""
        answer = await self.worker.server.client.get(
            f"/api/media/analysis/{media_id}", headers={"Authorization": f"Bearer {MEDIA_KEY}"}
        )
        assert answer.status == 200
        found: dict[str, Any] = (await answer.json())["analysis"]
        return found

    def standing(self) -> list[str]:
        """State of the upload, and how often it was looked at again."""
        return self.worker.row("state, heals")


class Places:
    """Starts workers with providers."""

    def __init__(self, work: Work, aiohttp_server: AiohttpServer) -> None:
        self._work = work
        self._listen = aiohttp_server

    async def start(self, *acts: Act, google: Act | None = None, **openai: Any) -> Place:
        services = Service([*acts]), Service([google] if google else [])
        bases = [str((await self._listen(one.app())).make_url("/api")) for one in services]
        quick = {"key": KEY, "backoff_s": 0.01, "timeout_s": 5, "max_attempts": 2}
        vision: dict[str, Any] = {
            "text": {"enabled": False},
            "openai": {**quick, "base_url": bases[0], **openai},
        }
        if google:
            vision["google"] = {**quick, "base_url": bases[1]}
        sections = {"vision": vision, "main": {"key": MEDIA_KEY}}
        worker = await self._work(sections, renditions="none", analysis_retry_s=[600, 6000])
        return Place(worker, *services)


@pytest.fixture
def places(work: Work, aiohttp_server: AiohttpServer) -> Places:
    return Places(work, aiohttp_server)


async def test_an_unavailable_provider_is_requested_again_later(
    fake: FakeMainApi, places: Places
) -> None:
    place = await places.start(fails(500), fails(500), DESCRIBES, google=says(GOOGLE_ANSWER))
    image = fake.add(PHOTO)
    assert await place.work() == 0
    before = await place.analysis(image.media_id)
    assert (image.status, place.standing()) == ("processed", ["incomplete", "0"])
    assert before["style"] is None
    assert "500" in before["reasons"]["openai"]
    assert before["subject"] == "Macaw, Bird"
    await place.work()
    assert len(place.openai.requests) == 2, "not due yet"
    place.worker.due()
    assert await place.work() == 0
    after = await place.analysis(image.media_id)
    assert (len(place.openai.requests), len(place.google.requests)) == (3, 1)
    assert place.standing() == ["done", "0"]
    assert (after["style"], after["subject"]) == (SEEN["style"], SEEN["subject"])
    assert {one["name"] for one in after["detected_objects"]} >= {"Parrot", "macaw"}
    assert "openai" not in after["reasons"]
    assert "awaited" not in {*before, *after}
    info = await place.worker.server.client.get(f"/info/{image.media_id}")
    assert (await info.json())["alt"] == SEEN["subject"]


async def test_the_main_api_gets_one_callback(fake: FakeMainApi, places: Places) -> None:
    """What it does with a second completion the contract does not say."""
    place = await places.start(fails(500), fails(500), DESCRIBES)
    image = fake.add(PHOTO)
    for _ in range(3):
        await place.work()
        place.worker.due()
    assert place.standing() == ["done", "0"]
    assert len(image.completions) == 1


async def test_requests_end_after_a_few_and_known_results_stay(
    fake: FakeMainApi, places: Places
) -> None:
    place = await places.start(fails(503), google=says(GOOGLE_ANSWER))
    image = fake.add(PHOTO)
    await place.work()
    before = await place.analysis(image.media_id)
    seen = []
    for _ in range(4):
        place.worker.due()
        assert await place.work() == 0, "the upload has not failed"
        seen.append(place.standing())
    assert seen == [["incomplete", "1"], *[["done", "0"]] * 3]
    assert len(place.openai.requests) == 2 * 3
    assert len(place.google.requests) == 1
    assert await place.analysis(image.media_id) == before


@pytest.mark.parametrize("act", [fails(400), fails(401), fails(429, code="insufficient_quota")])
async def test_a_provider_that_rejects_the_image_is_not_requested_again(
    act: Act, fake: FakeMainApi, places: Places
) -> None:
    place = await places.start(act)
    fake.add(PHOTO)
    await place.work()
    assert place.standing() == ["done", "0"]


async def test_an_answer_of_unknown_form_is_requested_again(
    fake: FakeMainApi, places: Places
) -> None:
    place = await places.start(talks_nonsense)
    fake.add(PHOTO)
    await place.work()
    assert place.standing() == ["incomplete", "0"]


async def test_a_spent_budget_is_not_exceeded(fake: FakeMainApi, places: Places) -> None:
    place = await places.start(DESCRIBES, max_requests_per_day=1)
    first, second = fake.add(PHOTO), fake.add(PHOTO)
    await place.work()
    assert (await place.analysis(first.media_id))["style"] == SEEN["style"]
    for _ in range(2):
        place.worker.due()
        await place.work()
    assert len(place.openai.requests) == 1
    told = await place.analysis(second.media_id)
    assert "reached the limit of 1 requests a day" in told["reasons"]["openai"]


async def test_one_upload_is_tried_while_the_provider_is_unavailable(
    fake: FakeMainApi, places: Places
) -> None:
    place = await places.start(fails(500))
    for _ in range(4):
        fake.add(PHOTO)
    await place.work()
    assert len(place.openai.requests) == 2 * 4
    place.worker.due()
    await place.work()
    assert len(place.openai.requests) == 2 * 5
    place.openai.acts = [DESCRIBES]
    place.worker.due()
    await place.work()
    assert len(place.openai.requests) == 2 * 5 + 4
    assert set(place.worker.sql("SELECT state FROM ingest_items")) == {"done"}
    ends = "smartserve_ingest_uploads_total"
    assert place.worker.server.metric(ends, outcome="unseen") == 1
    assert place.worker.server.metric(ends, outcome="seen") == 4


async def test_new_uploads_come_first(fake: FakeMainApi, places: Places) -> None:
    place = await places.start(fails(500))
    old = fake.add(PHOTO)
    await place.work()
    place.worker.due()
    place.openai.acts = [DESCRIBES]
    new = fake.add(PHOTO)
    await place.work()
    assert len(place.openai.requests) == 2 + 2
    rows = place.worker.sql("SELECT media_id FROM media_ai_analysis ORDER BY id")
    assert rows == [new.media_id, old.media_id], "stored after it"


async def test_without_configured_waits_no_analysis_is_retried(
    fake: FakeMainApi, work: Work, aiohttp_server: AiohttpServer
) -> None:
    service = Service([fails(500)])
    base = str((await aiohttp_server(service.app())).make_url("/api"))
    vision = {"openai": {"key": KEY, "base_url": base, "backoff_s": 0.01}}
    worker = await work({"vision": vision}, renditions="none", analysis_retry_s=[])
    fake.add(PHOTO)
    await worker.ingest.run_once()
    assert worker.row("state") == ["done"]


async def test_a_missing_original_ends_the_retries(fake: FakeMainApi, places: Places) -> None:
    place = await places.start(fails(500))
    image = fake.add(PHOTO)
    await place.work()
    media = await place.worker.media(image.media_id)
    root = place.worker.server.services.settings.storage_root
    for path in filter(None, (media.bulk_path, media.library_path)):
        (root / path).unlink()
    place.worker.due()
    assert await place.work() == 0
    assert place.standing() == ["incomplete", "1"]
    place.worker.due()
    await place.work()
    assert place.standing() == ["done", "0"]


async def test_without_analysis_the_step_stays_pending(fake: FakeMainApi, work: Work) -> None:
    worker = await work(analyse=False)
    image = fake.add(PHOTO)
    assert await worker.ingest.run_once() == 0
    assert image.completions[0]["ai_enhanced"] is False
    assert image.completions[0]["ai_analysis"]["quality_score"] is None
    assert worker.row("ai_visual_analysis", "processing_checklist") == ["pending"]
    assert worker.sql("SELECT * FROM media_ai_analysis") == []


def _analysis(*objects: DetectedObject) -> Analysis:
    quality = Quality(1, 1, 1, 1, 1, 1, 1)
    local = AnalysisResult(
        1, 1, (), (), quality, (), Kind("photo", ""), "", "", "0" * 16, Focus(0.1, 0.1)
    )
    found = merge(local, [], ProviderGap("tesseract", "no"), data_type="profile")
    return replace(found, objects=objects)


def test_the_focus_is_the_centre_of_the_most_prominent_object() -> None:
    small = DetectedObject("cup", 0.9, (0, 0, 0.1, 0.1))
    large = DetectedObject("person", 0.8, (0.4, 0.2, 0.8, 1.0))
    nowhere = DetectedObject("sky", 1.0)
    focus = focus_of(_analysis(small, large, nowhere))
    assert focus is not None
    assert (focus.x, focus.y) == pytest.approx((0.6, 0.6))


def test_without_a_located_object_there_is_no_focus() -> None:
    assert focus_of(_analysis(DetectedObject("sky", 1.0))) is None
