"""An upload's whole way: from the main API to pictures that are served, or to a reason why not."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pytest
from PIL import Image

from proxy.domain.media import MediaStatus
from tests.ingest.conftest import BACKEND, Work, Worker
from tests.ingest.fake_main_api import FakeMainApi
from tests.support.server import CHROME, SAMPLES

PHOTO = (SAMPLES / "kodak-23.jpg").read_bytes()
LOGO = (SAMPLES / "logo.png").read_bytes()
BADGE = (SAMPLES / "badge.png").read_bytes()


def files(worker: Worker) -> set[str]:
    root = worker.server.services.settings.storage_root
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def huge() -> bytes:
    """108 megapixels in 13 KB."""
    out = io.BytesIO()
    Image.new("1", (12_000, 9_000)).save(out, "png")
    return out.getvalue()


async def test_an_upload_becomes_a_picture_that_is_served(
    fake: FakeMainApi, worker: Worker
) -> None:
    before = files(worker)
    image = fake.add(PHOTO, kind="header")
    assert await worker.ingest.run_once() == 0
    assert image.status == "processed"
    media = await worker.media(image.media_id)
    assert (media.status, media.data_type, media.user_id) == (MediaStatus.COMPLETED, "profile", 4)
    assert media.mime_type == "image/jpeg"
    assert media.file_size == len(PHOTO)
    assert media.known_facts is not None
    name = f"1-my-photo-1-{media.known_facts.content_hash[:16]}"
    assert media.bulk_path is not None
    assert media.bulk_path.startswith("bulk/20")
    assert media.bulk_path.endswith(f"/{name}.jpeg")
    assert media.library_path == f"library/user_4/profile/img/{name}.jpg"
    assert files(worker) - before == {media.bulk_path, media.library_path}
    answer = await worker.server.client.get(f"/serve/{media.id}?size=grid")
    assert answer.status == 200


async def test_all_named_sizes_are_there_before_anybody_asks(
    fake: FakeMainApi, worker: Worker
) -> None:
    image = fake.add(PHOTO)
    await worker.ingest.run_once()
    for size in worker.server.services.settings.sizes:
        for accept in (CHROME, "image/webp", "*/*"):
            url = f"/serve/{image.media_id}?size={size}"
            answer = await worker.server.client.get(url, headers={"Accept": accept})
            assert answer.status == 200
            assert "hit" in answer.headers["Cache-Status"], (size, accept)
    assert worker.server.renders() == 0


async def test_a_logo_is_there_with_and_without_its_background(
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


async def test_the_callback_is_the_rich_one_of_the_document(
    fake: FakeMainApi, worker: Worker
) -> None:
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


async def test_site_pictures_have_the_brand_of_the_users_logo_and_of_no_other(
    fake: FakeMainApi, worker: Worker
) -> None:
    logo = fake.add(LOGO, kind="logo", suffix="png", user_id=8)
    own = fake.add(BADGE, kind="site", suffix="png", user_id=8)
    strange = fake.add(BADGE, kind="site", suffix="png", user_id=9)
    await worker.ingest.run_once()
    brand = logo.completions[0]["ai_analysis"]["brand_colors"]
    context = own.completions[0]["ai_analysis"]["site_context"]
    assert context == {"brand_colors": brand, "logo_media_id": int(logo.media_id or 0)}
    assert strange.completions[0]["ai_analysis"]["site_context"] is None


async def test_the_processed_file_is_upright_and_says_nothing_of_its_camera(
    fake: FakeMainApi, worker: Worker
) -> None:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    Image.open(io.BytesIO(PHOTO)).resize((300, 200)).save(out, "jpeg", exif=exif)
    image = fake.add(out.getvalue())
    await worker.ingest.run_once()
    media = await worker.media(image.media_id)
    assert media.library_path is not None
    with Image.open(worker.server.services.settings.storage_root / media.library_path) as made:
        assert made.size == (200, 300)
        assert not made.getexif()


async def test_a_picture_with_transparency_keeps_it_in_the_processed_file(
    fake: FakeMainApi, worker: Worker
) -> None:
    image = fake.add(BADGE, suffix="png")
    await worker.ingest.run_once()
    media = await worker.media(image.media_id)
    assert media.library_path is not None
    with Image.open(worker.server.services.settings.storage_root / media.library_path) as made:
        assert made.format == "PNG"
        assert made.mode in ("RGBA", "PA", "LA", "P")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"hello", "no picture"),
        (b"", "no picture"),
        (PHOTO[: len(PHOTO) // 2], "retrieve_file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "served are"),
        (huge(), "retrieve_file"),
    ],
    ids=["text", "empty", "cut", "svg", "108 megapixels"],
)
async def test_what_is_no_sound_picture_fails_for_good_and_leaves_nothing(
    fake: FakeMainApi, worker: Worker, body: bytes, reason: str
) -> None:
    before = files(worker)
    image = fake.add(body)
    assert await worker.ingest.run_once() == 1
    assert (image.status, image.completions, fake.asked["cleanup"]) == ("failed", [], 1)
    state, told, final = worker.row("state, reason, final")
    assert (state, final) == ("failed", "1")
    assert reason in told
    assert files(worker) == before
    media_id = worker.row("media_id")[0]
    assert (await worker.media(media_id)).status == MediaStatus.FAILED
    assert (await worker.server.client.get(f"/serve/{media_id}")).status == 404
    assert await worker.ingest.run_once() == 1, "it is not tried again"


async def test_without_analysis_the_step_stays_pending_and_is_not_claimed(
    fake: FakeMainApi, work: Work
) -> None:
    worker = await work(analyse=False)
    image = fake.add(PHOTO)
    assert await worker.ingest.run_once() == 0
    assert image.completions[0]["ai_enhanced"] is False
    assert image.completions[0]["ai_analysis"]["quality_score"] is None
    assert worker.row("ai_visual_analysis", "processing_checklist") == ["pending"]
    assert worker.sql("SELECT * FROM media_ai_analysis") == []


async def test_without_renditions_a_picture_is_complete_all_the_same(
    fake: FakeMainApi, work: Work
) -> None:
    worker = await work(renditions="none")
    image = fake.add(PHOTO)
    assert await worker.ingest.run_once() == 0
    answer = await worker.server.client.get(f"/serve/{image.media_id}?size=grid")
    assert "hit" not in answer.headers["Cache-Status"]


def stages(worker: Worker, media_id: str | None) -> Iterable[str]:
    folder = worker.server.services.settings.rendition_directory
    return [path.name for path in folder.rglob("*") if path.is_file() and media_id]


@pytest.mark.parametrize("renditions", ["draft", "final"])
async def test_in_two_stages_what_is_asked_for_is_made(
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
