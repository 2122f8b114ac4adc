"""The steps of an upload: what each stores, renders and reports."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pytest_aiohttp.plugin import AiohttpServer

from proxy.app.ingest import IngestUrls, open_ingest
from proxy.domain.analysis import (
    PUBLIC_TYPES,
    Analysis,
    AnalysisResult,
    ContentClass,
    DetectedObject,
    Kind,
    ProviderGap,
    Quality,
    VisionResult,
    merge,
)
from proxy.domain.formats import Format
from proxy.domain.media import DataType, Focus, Media, MediaFacts, MediaStatus
from proxy.domain.upload import PendingStatus
from proxy.domain.variant import SizeSpec
from proxy.ingest.steps import drafts_of, focus_of, largest_box, master_profile
from proxy.settings import Settings
from tests.analysis.providers.service import (
    GOOGLE_ANSWER,
    KEY,
    SEEN,
    Act,
    Service,
    completion,
    embedded,
    fails,
    says,
    talks_nonsense,
)
from tests.ingest.conftest import BACKEND, PLAIN, Work, Worker
from tests.ingest.fake_main_api import FakeMainApi
from tests.support.mounts import Mount
from tests.support.server import CHROME, SAMPLES, Serve
from tests.support.uploads import MAIN, USERS, upload
from tests.web.plans import FACTS, MEDIA, plan

PHOTO = (SAMPLES / "kodak-23.jpg").read_bytes()


class Writes:
    """Counts the bytes of all writes by descriptor, by the folder of the file."""

    def __init__(self) -> None:
        self._by_path: list[tuple[str, int]] = []

    def add(self, descriptor: int, count: int) -> None:
        self._by_path.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), count))

    def below(self, root: Path) -> int:
        return sum(count for path, count in self._by_path if path.startswith(f"{root}/"))


def library_bytes(settings: Settings) -> int:
    """Return the size of the processed file, which is written once as well."""
    folder = settings.storage_root / "library"
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    """All writes of this process."""
    counted, write = Writes(), os.write

    def counting(descriptor: int, data: bytes) -> int:
        count = write(descriptor, data)
        counted.add(descriptor, count)
        return count

    monkeypatch.setattr(os, "write", counting)
    return counted


async def test_an_upload_here_is_written_once_to_each_place(serve: Serve, writes: Writes) -> None:
    """Once to temporary storage, once to its final place; and no HTTP request is sent."""
    server = await serve(main=MAIN, users=USERS, ingest=PLAIN)
    assert server.main is not None
    settings = server.services.settings
    await upload(server, {"profile_image": PHOTO})
    nowhere = IngestUrls("http://127.0.0.1:1", BACKEND)
    async with open_ingest(server.services, nowhere, queue=server.main.queue) as worker:
        assert await worker.run_once() == 0
    assert writes.below(settings.temp_root) == len(PHOTO)
    assert writes.below(settings.storage_root) == len(PHOTO) + library_bytes(settings)
    counts = await server.main.queue.database.count_by_status()
    assert counts[PendingStatus.PROCESSED] == 1


async def test_a_download_is_written_once(fake: FakeMainApi, plain: Worker, writes: Writes) -> None:
    """The nameless file of the download becomes the original."""
    fake.add(PHOTO)
    assert await plain.ingest.run_once() == 0
    settings = plain.server.services.settings
    assert writes.below(settings.storage_root) == len(PHOTO) + library_bytes(settings)
    assert writes.below(settings.temp_root) == 0


@pytest.mark.slow
async def test_the_metadata_of_an_upload_is_stored_without_a_column_in_the_checklist(
    fake: FakeMainApi, work: Work, tmp_path: Path
) -> None:
    metadata = {"temp_root": str(tmp_path / "metaextract"), "engines": 1}
    worker = await work({"metadata": metadata}, **{**PLAIN, "extract_metadata": True})
    prompt = "a crow\nSteps: 20, Sampler: Euler a, Seed: 7, Model: RealVis"
    image = fake.add(_png({"parameters": prompt}), suffix="png")
    columns = worker.sql("SELECT name FROM pragma_table_info('processing_checklist')")
    assert await worker.ingest.run_once() == 0
    store = worker.server.services.storage.metadata
    found = await store.find(int(image.media_id or 0))
    assert found is not None
    assert (found.columns["prompt"], found.columns["seed"]) == ("a crow", "7")
    assert found.tags == ["generator:stable_diffusion", "model:realvis"]
    assert not any("metadata" in name for name in columns)
    left = [path for path in (tmp_path / "metaextract").rglob("*") if path.is_file()]
    assert left == []


def _png(texts: Mapping[str, str]) -> bytes:
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    file = io.BytesIO()
    Image.effect_noise((64, 48), 80).save(file, "PNG", pnginfo=info)
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    "status", [302, 308, 400, 401, 402, 403, 404, 405, 406, 410, 421, 429, 451, 499, 500, 503, 599]
)
async def test_a_failed_download_is_retried_now_and_later(
    fake: FakeMainApi, plain: Worker, status: int
) -> None:
    image = fake.add(PHOTO)
    fake.status["file"] = status
    assert await plain.ingest.run_once() == 1
    assert fake.asked["file"] == (3 if status == 429 or status >= 500 else 1)
    assert (image.status, fake.asked["cleanup"]) == ("pending", 0)
    state, reason = plain.row("state, reason")
    assert state == "failed"
    assert str(status) in reason
    await plain.ingest.run_once()
    assert fake.asked["file"] <= 3, "not due yet"
    del fake.status["file"]
    plain.due()
    await plain.ingest.run_once()
    assert image.status == "processed"
    assert plain.row("state, heals") == ["done", "1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/html"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json"},
        {"Content-Type": "application/xml"},
        {"Content-Type": "image/png", "Content-Length": ""},
    ],
    ids=str,
)
async def test_an_error_page_with_status_200_is_no_bad_file(
    fake: FakeMainApi, plain: Worker, headers: dict[str, str]
) -> None:
    """Neither is a body without a length, which may be truncated."""
    image = fake.add(PHOTO)
    fake.page = headers
    for _ in range(6):
        await plain.ingest.run_once()
        plain.due()
    assert (image.status, fake.asked["cleanup"]) == ("pending", 0)
    assert plain.row("state, final") == ["failed", "0"]
    fake.page = None
    plain.due()
    await plain.ingest.run_once()
    assert image.status == "processed"


async def test_after_three_dead_workers_the_upload_waits(fake: FakeMainApi, plain: Worker) -> None:
    fake.add(PHOTO)
    fake.status["file"] = 500
    await plain.ingest.run_once()
    plain.sql("UPDATE ingest_items SET state = 'queued', not_before = 0; SELECT 1")
    del fake.status["file"]
    asked = fake.asked["file"]
    await plain.ingest.run_once()
    assert fake.asked["file"] == asked
    assert "death of its worker" in plain.row("reason")[0]
    plain.due()
    await plain.ingest.run_once()
    assert plain.row("state") == ["done"]


async def test_a_full_storage_is_retried_later(
    fake: FakeMainApi, work: Work, mounted: Mount, tmp_path: Path
) -> None:
    root = tmp_path / "small"
    root.mkdir()
    with mounted(root, "size=512k"):
        (root / "filler").write_bytes(bytes(480_000))
        worker = await work({"storage": {"root": str(root)}})
        image = fake.add(PHOTO)
        assert await worker.ingest.run_once() == 1
        assert image.status == "pending"
        assert "No space left on device" in worker.row("reason")[0]
        assert [path.name for path in root.rglob("*") if path.is_file()] == ["filler"]
        (root / "filler").unlink()
        worker.due()
        await worker.ingest.run_once()
        assert image.status == "processed"


def files(worker: Worker) -> set[str]:
    root = worker.server.services.settings.storage_root
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def huge() -> bytes:
    """108 megapixels in 13 KB."""
    out = io.BytesIO()
    Image.new("1", (12_000, 9_000)).save(out, "png")
    return out.getvalue()


async def test_an_upload_becomes_a_medium_that_is_served(fake: FakeMainApi, plain: Worker) -> None:
    before = files(plain)
    image = fake.add(PHOTO, kind="header")
    assert await plain.ingest.run_once() == 0
    assert image.status == "processed"
    media = await plain.media(image.media_id)
    assert (media.status, media.data_type, media.user_id) == (MediaStatus.COMPLETED, "profile", 4)
    assert media.mime_type == "image/jpeg"
    assert media.file_size == len(PHOTO)
    assert media.known_facts is not None
    name = f"1-my-photo-1-{media.known_facts.content_hash[:16]}"
    assert media.bulk_path is not None
    assert media.bulk_path.startswith("bulk/20")
    assert media.bulk_path.endswith(f"/{name}.jpeg")
    assert media.library_path == f"library/user_4/profile/img/{name}.jpg"
    assert files(plain) - before == {media.bulk_path, media.library_path}
    answer = await plain.server.client.get(f"/serve/{media.id}?size=grid")
    assert answer.status == 200


async def test_an_upload_that_lacks_only_its_end_marker_is_served(
    fake: FakeMainApi, plain: Worker
) -> None:
    image = fake.add(PHOTO.removesuffix(b"\xff\xd9"))
    assert await plain.ingest.run_once() == 0
    assert image.status == "processed"
    answer = await plain.server.client.get(f"/serve/{plain.row('media_id')[0]}?size=grid")
    assert answer.status == 200


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"hello", "not an image"),
        (b"", "not an image"),
        (PHOTO[: len(PHOTO) // 2], "pixels end at row"),
        (PHOTO[: len(PHOTO) // 2] + b"\xff\xd9", "pixels end at row"),
        (huge(), "retrieve_file"),
    ],
    ids=["text", "empty", "cut", "cut and ended", "108 megapixels"],
)
async def test_an_unsound_file_fails_permanently_and_leaves_nothing(
    fake: FakeMainApi, plain: Worker, body: bytes, reason: str
) -> None:
    before = files(plain)
    image = fake.add(body)
    for _ in range(4):
        assert (image.status, fake.asked["cleanup"]) == ("pending", 0)
        await plain.ingest.run_once()
        plain.due()
    assert (image.status, image.completions, fake.asked["cleanup"]) == ("failed", [], 1)
    state, told, final = plain.row("state, reason, final")
    assert (state, final) == ("failed", "1")
    assert reason in told
    assert files(plain) == before
    media_id = plain.row("media_id")[0]
    assert (await plain.media(media_id)).status == MediaStatus.FAILED
    assert (await plain.server.client.get(f"/serve/{media_id}")).status == 404
    assert await plain.ingest.run_once() == 4, "not retried"


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


async def test_images_get_embeddings_by_which_similar_ones_are_found(
    fake: FakeMainApi, work: Work, aiohttp_server: AiohttpServer
) -> None:
    near = [1.0] * 15
    service = Service([fails(500), says(embedded([*near, 1.0])), says(embedded([*near, 0.0]))])
    base = str((await aiohttp_server(service.app())).make_url("/v1"))
    model = {"key": KEY, "base_url": base, "model": "siglip", "max_attempts": 1}
    sections = {"vision": {"embedding": model}, "main": {"key": MEDIA_KEY}}
    worker = await work(sections, renditions="none", analysis_retry_s=[600])
    place = Place(worker, service, service)
    one = fake.add(PHOTO)
    await place.work()
    before = await place.analysis(one.media_id)
    assert (before["embedding"], place.standing()) == (None, ["incomplete", "0"])
    assert "500" in before["reasons"]["embedding"]
    worker.due()
    await place.work()
    after = await place.analysis(one.media_id)
    assert after["embedding"] == {"model": "siglip", "dimensions": 16}
    assert "embedding" not in after["reasons"]
    other = fake.add(LOGO, kind="logo", suffix="png")
    await place.work()
    assert other.completions[0]["ai_analysis"]["embedding"] == after["embedding"]
    assert len(service.requests) == 3
    client, headers = worker.server.client, {"Authorization": f"Bearer {MEDIA_KEY}"}
    answer = await client.get(f"/api/media/similar/{one.media_id}", headers=headers)
    assert (await answer.json()) == {
        "success": True,
        "similar": [
            {
                "media_id": int(other.media_id or 0),
                "similarity": 0.9682,
                "url": f"/serve/{other.media_id}",
            }
        ],
    }


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
    first, second = fake.add(PHOTO), fake.add(PHOTO, user_id=5)
    await place.work()
    assert (await place.analysis(first.media_id))["style"] == SEEN["style"]
    for _ in range(2):
        place.worker.due()
        await place.work()
    assert len(place.openai.requests) == 1
    told = await place.analysis(second.media_id)
    assert "reached the limit of 1 requests a day" in told["reasons"]["openai"]


@pytest.mark.slow
async def test_one_upload_is_tried_while_the_provider_is_unavailable(
    fake: FakeMainApi, places: Places
) -> None:
    place = await places.start(fails(500))
    for user_id in range(4):
        fake.add(PHOTO, user_id=user_id + 1)
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
    new = fake.add(PHOTO, user_id=5)
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
        *(1, 1, (), (), quality, (), Kind("photo", ""), ContentClass("content", "")),
        *("", "", "0" * 16, "0" * 16, Focus(0.1, 0.1)),
    )
    found = VisionResult("google", {}, objects=objects)
    return merge(local, [found], ProviderGap("tesseract", "no"), data_type="profile")


def test_the_focus_is_the_centre_of_the_most_prominent_object() -> None:
    small = DetectedObject("cup", 0.9, (0, 0, 0.1, 0.1))
    large = DetectedObject("person", 0.8, (0.4, 0.2, 0.8, 1.0))
    nowhere = DetectedObject("sky", 1.0)
    focus = focus_of(_analysis(small, large, nowhere))
    assert focus is not None
    assert (focus.x, focus.y) == pytest.approx((0.6, 0.6))


def test_without_a_located_object_there_is_no_focus() -> None:
    assert focus_of(_analysis(DetectedObject("sky", 1.0))) is None


LOGO = (SAMPLES / "logo.png").read_bytes()
BADGE = (SAMPLES / "badge.png").read_bytes()


async def test_all_named_sizes_are_rendered_in_advance(fake: FakeMainApi, worker: Worker) -> None:
    image = fake.add(PHOTO)
    await worker.ingest.run_once()
    for size in worker.server.services.settings.sizes:
        for accept in (CHROME, "image/webp", "*/*"):
            url = f"/serve/{image.media_id}?size={size}"
            answer = await worker.server.client.get(url, headers={"Accept": accept})
            assert answer.status == 200
            assert "hit" in answer.headers["Cache-Status"], (size, accept)
    assert worker.server.renders() == 0


@pytest.mark.slow
async def test_a_logo_is_rendered_with_and_without_background(
    fake: FakeMainApi, worker: Worker
) -> None:
    image = fake.add(LOGO, kind="logo", suffix="png")
    await worker.ingest.run_once()
    for background in ("original", "removed"):
        url = f"/serve/{image.media_id}?size=small&bg={background}"
        answer = await worker.server.client.get(url, headers={"Accept": CHROME})
        assert "hit" in answer.headers["Cache-Status"], background
    (payload,) = image.completions
    assert payload["ai_analysis"]["background_removed"] is True
    assert payload["ai_analysis"]["brand_colors"]
    assert payload["formats_available"] == ["avif", "webp", "jpeg", "png"]


async def test_the_processed_file_is_upright_and_has_no_metadata(
    fake: FakeMainApi, plain: Worker
) -> None:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    Image.open(io.BytesIO(PHOTO)).resize((300, 200)).save(out, "jpeg", exif=exif)
    image = fake.add(out.getvalue())
    await plain.ingest.run_once()
    media = await plain.media(image.media_id)
    assert media.library_path is not None
    with Image.open(plain.server.services.settings.storage_root / media.library_path) as made:
        assert made.size == (200, 300)
        assert not made.getexif()


async def test_the_processed_file_keeps_transparency(fake: FakeMainApi, plain: Worker) -> None:
    image = fake.add(BADGE, suffix="png")
    await plain.ingest.run_once()
    media = await plain.media(image.media_id)
    assert media.library_path is not None
    with Image.open(plain.server.services.settings.storage_root / media.library_path) as made:
        assert made.format == "PNG"
        assert made.mode in ("RGBA", "PA", "LA", "P")


async def test_without_renditions_a_medium_is_complete(fake: FakeMainApi, work: Work) -> None:
    worker = await work(renditions="none")
    image = fake.add(PHOTO)
    assert await worker.ingest.run_once() == 0
    answer = await worker.server.client.get(f"/serve/{image.media_id}?size=grid")
    assert "hit" not in answer.headers["Cache-Status"]


def stages(worker: Worker, media_id: str | None) -> Iterable[str]:
    folder = worker.server.services.settings.rendition_directory
    return [path.name for path in folder.rglob("*") if path.is_file() and media_id]


@pytest.mark.parametrize("renditions", ["draft", pytest.param("final", marks=pytest.mark.slow)])
async def test_drafts_or_finals_are_rendered_as_configured(
    fake: FakeMainApi, work: Work, renditions: str
) -> None:
    worker = await work({"upgrades": {"enabled": True}}, renditions=renditions)
    out = io.BytesIO()
    Image.open(io.BytesIO(PHOTO)).resize((160, 120)).save(out, "jpeg")
    image = fake.add(out.getvalue())
    assert await worker.ingest.run_once() == 0
    upgrades = worker.server.metric("smartserve_upgrade_backlog")
    assert upgrades == (1 if renditions == "draft" else 0)
    answer = await worker.server.client.get(f"/serve/{image.media_id}?size=grid")
    assert "hit" in answer.headers["Cache-Status"]
    assert stages(worker, image.media_id)


def test_the_processed_file_is_as_large_as_the_largest_size_at_the_highest_density() -> None:
    sizes = [SizeSpec("grid", 500, 500), SizeSpec("detail", 1200, None)]
    box = largest_box(sizes)
    assert (box.width, box.height) == (3600, 3600)


@pytest.mark.parametrize(
    ("media", "facts", "fmt"),
    [
        (MEDIA, FACTS, Format.JPEG),
        (MEDIA, replace(FACTS, has_alpha=True), Format.PNG),
        (replace(MEDIA, data_type=DataType.LOGO), FACTS, Format.PNG),
        (MEDIA, replace(FACTS, pages=7, source_type="gif"), Format.WEBP),
    ],
    ids=["photo", "transparent", "logo", "animation"],
)
def test_the_processed_file_has_a_format_without_visible_loss(
    media: Media, facts: MediaFacts, fmt: Format
) -> None:
    assert master_profile(media, facts).format is fmt


def test_a_plan_without_a_draft_stays_as_it_is() -> None:
    one = replace(plan(), draft=None)
    assert drafts_of([one]) == [one]


def test_equal_drafts_of_different_plans_are_rendered_once() -> None:
    one = replace(plan(), draft=plan().variant)
    (draft,) = drafts_of([one, one])
    assert (draft.variant, draft.draft) == (one.draft, None)


async def test_the_callback_has_the_rich_payload(fake: FakeMainApi, worker: Worker) -> None:
    image = fake.add(PHOTO)
    await worker.ingest.run_once()
    (payload,) = image.completions
    analysis = payload.pop("ai_analysis")
    assert payload == {
        "media_id": image.media_id,
        "permanent_url": f"{BACKEND}/serve/{image.media_id}",
        "processing_complete": True,
        # No model is configured: statistics are none.
        "ai_enhanced": False,
        "formats_available": ["avif", "webp", "jpeg"],
    }
    assert 0 < analysis["quality_score"] <= 100
    assert analysis["mood_keywords"]
    unknown = ("style", "medium", "brand_colors", "site_context", "background_removed")
    assert {analysis[name] for name in unknown} == {None}
    assert analysis["dominant_colors"]
    assert set(PUBLIC_TYPES) <= set(analysis)
    assert {"detected_logos", "safe_search", "brand_colors"} <= set(analysis["reasons"])


@pytest.mark.slow
@pytest.mark.parametrize(("gain", "level"), [(0.15, 128), (0.12, 0), (0.15, 230)])
async def test_the_callback_of_a_pale_or_dark_photograph_as_logo_claims_no_cut(
    fake: FakeMainApi, work: Work, gain: float, level: float
) -> None:
    worker, out = await work(renditions="none"), io.BytesIO()
    pale = Image.open(io.BytesIO(PHOTO)).convert("RGB").resize((384, 256))
    pale.point(lambda one: round(one * gain + level * (1 - gain))).save(out, "png")
    image = fake.add(out.getvalue(), kind="logo", suffix="png")
    await worker.ingest.run_once()
    (payload,) = image.completions
    assert payload["ai_analysis"]["background_removed"] is False


@pytest.mark.slow
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
    assert (context["brand_colors"], context["logo_media_id"]) == (brand, int(logo.media_id or 0))
    assert context["content_class"]["name"] == "content"
    assert "reasons" not in context
    unknown = strange.completions[0]["ai_analysis"]["site_context"]
    assert (unknown["brand_colors"], unknown["logo_media_id"]) == (None, None)
    assert unknown["reasons"]["brand_colors"] == "the user has no logo with distinct colors"
    assert unknown["content_class"] == context["content_class"]


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
