"""Providers that could not look at a picture are asked again: over HTTP, by the real worker."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from pytest_aiohttp.plugin import AiohttpServer

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


async def test_a_provider_that_was_down_is_asked_again_and_what_it_says_is_kept(
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
    assert len(place.openai.requests) == 2, "it is not due"
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


async def test_the_main_api_is_told_once(fake: FakeMainApi, places: Places) -> None:
    """What it does with a second completion the contract does not say."""
    place = await places.start(fails(500), fails(500), DESCRIBES)
    image = fake.add(PHOTO)
    for _ in range(3):
        await place.work()
        place.worker.due()
    assert place.standing() == ["done", "0"]
    assert len(image.completions) == 1


async def test_it_is_asked_a_few_times_and_what_is_known_stays(
    fake: FakeMainApi, places: Places
) -> None:
    place = await places.start(fails(503), google=says(GOOGLE_ANSWER))
    image = fake.add(PHOTO)
    await place.work()
    before = await place.analysis(image.media_id)
    seen = []
    for _ in range(4):
        place.worker.due()
        assert await place.work() == 0, "the picture has not failed"
        seen.append(place.standing())
    assert seen == [["incomplete", "1"], *[["done", "0"]] * 3]
    assert len(place.openai.requests) == 2 * 3
    assert len(place.google.requests) == 1
    assert await place.analysis(image.media_id) == before


@pytest.mark.parametrize("act", [fails(400), fails(401), fails(429, code="insufficient_quota")])
async def test_one_that_refuses_is_not_asked_again(
    act: Act, fake: FakeMainApi, places: Places
) -> None:
    place = await places.start(act)
    fake.add(PHOTO)
    await place.work()
    assert place.standing() == ["done", "0"]


async def test_nonsense_may_pass(fake: FakeMainApi, places: Places) -> None:
    place = await places.start(talks_nonsense)
    fake.add(PHOTO)
    await place.work()
    assert place.standing() == ["incomplete", "0"]


async def test_a_spent_budget_is_waited_for_and_not_overdrawn(
    fake: FakeMainApi, places: Places
) -> None:
    place = await places.start(DESCRIBES, max_requests_per_day=1)
    first, second = fake.add(PHOTO), fake.add(PHOTO)
    await place.work()
    assert (await place.analysis(first.media_id))["style"] == SEEN["style"]
    for _ in range(2):
        place.worker.due()
        await place.work()
    assert len(place.openai.requests) == 1
    told = await place.analysis(second.media_id)
    assert "the limit of 1 requests a day is spent" in told["reasons"]["openai"]


async def test_of_many_one_is_looked_at_while_the_provider_is_down(
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


async def test_what_is_new_goes_first(fake: FakeMainApi, places: Places) -> None:
    place = await places.start(fails(500))
    old = fake.add(PHOTO)
    await place.work()
    place.worker.due()
    place.openai.acts = [DESCRIBES]
    new = fake.add(PHOTO)
    await place.work()
    assert len(place.openai.requests) == 2 + 2
    rows = place.worker.sql("SELECT media_id FROM media_ai_analysis ORDER BY id")
    assert rows == [new.media_id, old.media_id], "kept anew behind it"


async def test_without_times_nobody_is_asked_again(
    fake: FakeMainApi, work: Work, aiohttp_server: AiohttpServer
) -> None:
    service = Service([fails(500)])
    base = str((await aiohttp_server(service.app())).make_url("/api"))
    vision = {"openai": {"key": KEY, "base_url": base, "backoff_s": 0.01}}
    worker = await work({"vision": vision}, renditions="none", analysis_retry_s=[])
    fake.add(PHOTO)
    await worker.ingest.run_once()
    assert worker.row("state") == ["done"]


async def test_a_picture_that_is_gone_meanwhile_is_left_alone_in_the_end(
    fake: FakeMainApi, places: Places
) -> None:
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
