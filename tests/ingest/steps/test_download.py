"""The download step: from a temporary file of the main API to an original that is served."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from proxy.app.ingest import IngestUrls, open_ingest
from proxy.domain.media import MediaStatus
from proxy.domain.upload import PendingStatus
from proxy.ingest.main_api import download
from proxy.settings import Settings
from tests.ingest.conftest import BACKEND, PLAIN, Work, Worker
from tests.ingest.fake_main_api import FakeMainApi
from tests.support.mounts import Mount
from tests.support.server import SAMPLES, Serve
from tests.support.uploads import MAIN, USERS, upload

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
    """All writes of this process: uploads and copies by os.write, downloads by a function."""
    counted, write, write_all = Writes(), os.write, download._write_all

    def counting(descriptor: int, data: bytes) -> int:
        count = write(descriptor, data)
        counted.add(descriptor, count)
        return count

    def counting_all(target: io.FileIO, chunk: bytes) -> None:
        write_all(target, chunk)
        counted.add(target.fileno(), len(chunk))

    monkeypatch.setattr(os, "write", counting)
    monkeypatch.setattr(download, "_write_all", counting_all)
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


@pytest.mark.parametrize("status", [500, 503, 429, 401])
async def test_a_failed_download_is_retried_now_and_later(
    fake: FakeMainApi, plain: Worker, status: int
) -> None:
    image = fake.add(PHOTO)
    fake.status["file"] = status
    assert await plain.ingest.run_once() == 1
    assert fake.asked["file"] == (1 if status == 401 else 3)
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


async def test_an_html_page_is_not_a_damaged_image(fake: FakeMainApi, plain: Worker) -> None:
    image = fake.add(PHOTO)
    fake.text["file"] = "<html>We will be back soon</html>"
    await plain.ingest.run_once()
    assert image.status == "pending"
    del fake.text["file"]
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


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"hello", "not an image"),
        (b"", "not an image"),
        (PHOTO[: len(PHOTO) // 2], "retrieve_file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "accepted are"),
        (huge(), "retrieve_file"),
    ],
    ids=["text", "empty", "cut", "svg", "108 megapixels"],
)
async def test_an_unsound_file_fails_permanently_and_leaves_nothing(
    fake: FakeMainApi, plain: Worker, body: bytes, reason: str
) -> None:
    before = files(plain)
    image = fake.add(body)
    assert await plain.ingest.run_once() == 1
    assert (image.status, image.completions, fake.asked["cleanup"]) == ("failed", [], 1)
    state, told, final = plain.row("state, reason, final")
    assert (state, final) == ("failed", "1")
    assert reason in told
    assert files(plain) == before
    media_id = plain.row("media_id")[0]
    assert (await plain.media(media_id)).status == MediaStatus.FAILED
    assert (await plain.server.client.get(f"/serve/{media_id}")).status == 404
    assert await plain.ingest.run_once() == 1, "not retried"
