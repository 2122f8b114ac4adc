"""The render step: the processed file, and renditions in advance."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace

import pytest
from PIL import Image

from proxy.domain.formats import Format
from proxy.domain.media import DataType, Media, MediaFacts
from proxy.domain.variant import SizeSpec
from proxy.ingest.steps.render import drafts_of, largest_box, master_profile
from tests.ingest.conftest import Work, Worker
from tests.ingest.fake_main_api import FakeMainApi
from tests.support.server import CHROME, SAMPLES
from tests.web.plans import FACTS, MEDIA, plan

PHOTO = (SAMPLES / "kodak-23.jpg").read_bytes()
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
