"""Import of files: sound files become media, rejected ones leave nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.errors import CommitUncertain, DatabaseUnavailable
from proxy.domain.media import DataType, Media, MediaFacts
from proxy.library.import_files import FileImporter, ImportedFile, RejectedFile, name_in, walk
from proxy.storage.database import NewMedia
from proxy.storage.database.media_repository import SqlMediaRepository
from tests.storage.buckets import s3_settings
from tests.support.formats import SMALL_IMAGES, frame_count
from tests.support.seaweedfs import SeaweedFS
from tests.support.server import SAMPLES, Serve, Serving
from tests.support.web_origin import PRIVATE, PUBLIC, web_origin


def originals(server: Serving) -> set[Path]:
    return {path for path in server.services.settings.storage_root.rglob("*") if path.is_file()}


async def take(server: Serving, path: Path) -> ImportedFile | RejectedFile:
    return await server.services.importer.import_file(path, user_id=3, data_type=DataType.EVENT)


async def test_an_original_is_stored_by_day_with_a_readable_name(
    server: Serving, tmp_path: Path
) -> None:
    path = tmp_path / "Käse & Brot [shrink=2].jpg"
    path.write_bytes((SAMPLES / "kodak-23.jpg").read_bytes())
    taken = await take(server, path)
    assert isinstance(taken, ImportedFile)
    media = await server.services.storage.database.find(taken.media_id)
    assert media is not None
    assert media.known_facts is not None
    assert media.bulk_path is not None
    day, name = media.bulk_path.removeprefix("bulk/").split("/")
    assert len(day) == len("2026-11-20")
    assert name == f"Kase-Brot-shrink-2-{media.known_facts.content_hash[:16]}.jpeg"
    assert (media.original_name, media.mime_type) == (path.name, "image/jpeg")
    assert (media.user_id, media.data_type, media.status) == (3, "event", "completed")
    assert (await server.client.get(f"/serve/{taken.media_id}")).status == 200


async def test_the_type_is_detected_from_the_bytes(server: Serving, tmp_path: Path) -> None:
    path = tmp_path / "picture.gif"
    path.write_bytes((SAMPLES / "kodak-23.jpg").read_bytes())
    taken = await take(server, path)
    assert isinstance(taken, ImportedFile)
    media = await server.services.storage.database.find(taken.media_id)
    assert media is not None
    assert media.mime_type == "image/jpeg"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SMALL_IMAGES)
async def test_every_other_format_is_imported_and_served(
    server: Serving, tmp_path: Path, suffix: str
) -> None:
    wanted = SMALL_IMAGES[suffix]
    path = tmp_path / f"small.{suffix}"
    path.write_bytes(wanted.make())
    taken = await take(server, path)
    assert isinstance(taken, ImportedFile), taken
    media = await server.services.storage.database.find(taken.media_id)
    assert media is not None
    assert media.known_facts is not None
    facts = media.known_facts
    assert (facts.width, facts.height, facts.pages) == (*wanted.size, wanted.pages)
    assert media.mime_type == wanted.media_type
    stored = server.services.settings.storage_root / str(media.bulk_path)
    assert stored.read_bytes() == path.read_bytes()
    answer = await server.client.get(f"/serve/{taken.media_id}?size=thumbnail&format=webp")
    assert answer.status == 200
    assert frame_count(await answer.read()) == wanted.pages
    assert await take(server, path) == ImportedFile(path, taken.media_id, known=True)


async def test_equal_content_is_recognised(server: Serving, tmp_path: Path) -> None:
    path = tmp_path / "another name.png"
    path.write_bytes((SAMPLES / "logo.png").read_bytes())
    before = originals(server)
    assert (await take(server, path)) == ImportedFile(path, (await known(server)), known=True)
    assert originals(server) == before


async def known(server: Serving) -> int:
    taken = await take(server, SAMPLES / "logo.png")
    assert isinstance(taken, ImportedFile)
    return taken.media_id


async def test_an_image_of_another_server_is_copied_under_its_name(serve: Serve) -> None:
    async with web_origin(body=(SAMPLES / "kodak-23.jpg").read_bytes() + b"1") as origin:
        server = await serve(http=origin.settings().model_dump())
        url = origin.url("/2026/Red%20Bicycle.jpg?v=2")
        importer = server.services.importer
        taken = await importer.import_url(url, user_id=3, data_type=DataType.EVENT)
        assert isinstance(taken, ImportedFile)
        assert (taken.path, taken.known) == (url, False)
        again = await importer.import_url(origin.url("/b.jpg"), user_id=3, data_type=DataType.EVENT)
        assert again == ImportedFile(origin.url("/b.jpg"), taken.media_id, known=True)
    media = await server.services.storage.database.find(taken.media_id)
    assert media is not None
    assert media.original_name == "Red Bicycle.jpg"
    assert media.bulk_path is not None
    stored = server.services.settings.storage_root / media.bulk_path
    assert stored.read_bytes() == origin.body
    # The other server is not needed any more.
    assert (await server.client.get(f"/serve/{taken.media_id}")).status == 200


async def test_an_address_that_is_not_allowed_or_no_image_is_rejected_with_the_reason(
    serve: Serve,
) -> None:
    async with web_origin(body=b"no image") as origin:
        server = await serve(http=origin.settings(hosts=[PUBLIC, PRIVATE]).model_dump())
        before = originals(server)
        for url, reason in (
            (origin.url(), "not an image"),
            (origin.url("/missing.jpg"), "missing"),
            (origin.url(host=PRIVATE), f"{PRIVATE}: the address {PRIVATE} is not allowed"),
            (origin.url(host="other.example.org"), "not in http.hosts"),
            ("file:///etc/passwd", "use https"),
        ):
            taken = await server.services.importer.import_url(
                url, user_id=3, data_type=DataType.EVENT
            )
            assert isinstance(taken, RejectedFile)
            assert reason in taken.reason
        assert origin.secrets == 0
    assert originals(server) == before


async def test_without_hosts_an_address_is_rejected_with_what_to_set(server: Serving) -> None:
    taken = await server.services.importer.import_url(
        "https://img.example.org/a.jpg", user_id=3, data_type=DataType.EVENT
    )
    assert isinstance(taken, RejectedFile)
    assert "http.hosts is empty" in taken.reason


async def test_an_address_of_another_scheme_is_rejected_with_those_that_can_be_used(
    server: Serving,
) -> None:
    for url in ("ftp://img.example.org/a.jpg", "photos/a.jpg"):
        taken = await server.services.importer.import_url(url, user_id=3, data_type=DataType.EVENT)
        assert isinstance(taken, RejectedFile)
        assert "use https, http, s3, gs or az" in taken.reason


@pytest.mark.slow
async def test_an_object_of_a_bucket_is_imported_and_stays_there(
    serve: Serve, seaweedfs: SeaweedFS
) -> None:
    name = seaweedfs.create_bucket()
    address = f"s3://{name}/2026/Red Bicycle 100%.jpg"
    # Other bytes than those of the library.
    content = (SAMPLES / "kodak-23.jpg").read_bytes() + b"2"
    seaweedfs.bucket(name).put("2026/Red Bicycle 100%.jpg", content)
    server = await serve(s3=bucket_section(seaweedfs, name))
    before = originals(server)
    taken = await take_url(server, address)
    assert isinstance(taken, ImportedFile)
    assert not taken.known
    assert await take_url(server, address) == ImportedFile(address, taken.media_id, known=True)
    media = await server.services.storage.database.find(taken.media_id)
    assert media is not None
    assert (media.bulk_path, media.original_name) == (address, "Red Bicycle 100%.jpg")
    assert media.known_facts is not None
    assert originals(server) == before
    assert (await server.client.get(f"/serve/{taken.media_id}")).status == 200


@pytest.mark.slow
async def test_an_object_that_cannot_be_imported_is_rejected_with_the_reason(
    serve: Serve, seaweedfs: SeaweedFS
) -> None:
    name = seaweedfs.create_bucket()
    seaweedfs.bucket(name).put("text.jpg", b"no image")
    server = await serve(s3=bucket_section(seaweedfs, name))
    for url, reason in (
        (f"s3://{name}/text.jpg", "not an image"),
        (f"s3://{name}/missing.jpg", "missing"),
        (f"s3://{name}/2026/", "is a folder, not an object"),
        (f"s3://{name}/{'a' * 500}.jpg", "longer than 500 characters"),
        ("s3://other/a.jpg", "s3.buckets does not contain the bucket"),
        ("gs://other/a.jpg", "s3.buckets does not contain the bucket"),
    ):
        taken = await take_url(server, url)
        assert isinstance(taken, RejectedFile)
        assert reason in taken.reason


async def test_without_buckets_an_object_is_rejected_with_what_to_set(server: Serving) -> None:
    taken = await take_url(server, "s3://photos/a.jpg")
    assert isinstance(taken, RejectedFile)
    assert "s3.buckets does not contain" in taken.reason


def bucket_section(server: SeaweedFS, name: str) -> Mapping[str, Any]:
    section = s3_settings(server, buckets=[f"s3://{name}"])
    return section.model_dump(exclude_defaults=True)


async def take_url(server: Serving, url: str) -> ImportedFile | RejectedFile:
    return await server.services.importer.import_url(url, user_id=3, data_type=DataType.EVENT)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://img.example.org/a/b%20c.jpg?x=1#y", "b c.jpg"),
        ("https://img.example.org/a/", "a"),
        ("https://img.example.org", "img.example.org"),
        ("https:///", "image"),
        ("https://[", "image"),
    ],
)
def test_the_name_of_an_address_is_the_last_part_of_its_path(url: str, name: str) -> None:
    assert name_in(url) == name


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "nothing"])
async def test_a_file_that_is_not_regular_is_rejected_at_once(
    server: Serving, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    refused = await take(server, path)
    assert isinstance(refused, RejectedFile)
    assert refused.reason


async def test_half_an_image_with_an_end_marker_is_rejected_with_its_last_row(
    server: Serving, tmp_path: Path
) -> None:
    whole, path = (SAMPLES / "kodak-23.jpg").read_bytes(), tmp_path / "cut.jpg"
    path.write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    refused = await take(server, path)
    assert isinstance(refused, RejectedFile)
    assert "its pixels end at row" in refused.reason
    path.write_bytes(whole.removesuffix(b"\xff\xd9"))
    taken = await take(server, path)
    assert isinstance(taken, ImportedFile)
    assert (await server.client.get(f"/serve/{taken.media_id}")).status == 200


async def test_a_file_over_the_limit_is_rejected_with_the_figures(serve: Serve) -> None:
    server = await serve(storage={"max_original_bytes": 10_000})
    refused = await take(server, SAMPLES / "kodak-23.jpg")
    assert isinstance(refused, RejectedFile)
    assert "10000 are allowed" in refused.reason


async def test_after_a_database_error_no_file_remains(server: Serving, tmp_path: Path) -> None:
    before = originals(server)
    path = tmp_path / "new.jpg"
    path.write_bytes((SAMPLES / "kodak-23.jpg").read_bytes())
    await server.services.storage.repository.aclose()
    (server.services.settings.data_path / "smartserve.db").write_bytes(b"no database at all" * 99)
    with pytest.raises(DatabaseUnavailable):
        await take(server, path)
    assert originals(server) == before


class Refusing(SqlMediaRepository):
    """Knows no picture, and adds none."""

    error: DatabaseUnavailable

    async def find_by_hash(self, content_hash: str) -> None:
        """Another process had not committed its row yet."""

    async def insert(self, new: NewMedia, facts: MediaFacts) -> int:
        raise self.error


class Meeting(SqlMediaRepository):
    """Lets a look-up end when two are under way, or, for equal contents, counts them."""

    def __init__(self, server: Serving, *, parties: int) -> None:
        settings = server.services.settings
        super().__init__(settings.database_url, settings.database)
        self._barrier = asyncio.Barrier(parties)
        self.active = self.most = 0

    async def find_by_hash(self, content_hash: str) -> Media | None:
        """Wait for the other look-up, if there is another party."""
        self.active += 1
        self.most = max(self.most, self.active)
        async with asyncio.timeout(60):
            await self._barrier.wait()
        return await super().find_by_hash(content_hash)

    async def insert(self, new: NewMedia, facts: MediaFacts) -> int:
        """Insert the row; the look-up and the storing of this file are over."""
        self.active -= 1
        return await super().insert(new, facts)


async def import_two(server: Serving, catalogue: Meeting, tmp_path: Path, names: list[str]) -> None:
    paths = []
    for number, name in enumerate(names):
        path = tmp_path / f"{number}.jpg"
        # Bytes after the end marker make the content a new one.
        path.write_bytes((SAMPLES / name).read_bytes() + b"other content")
        paths.append(path)
    services = server.services
    async with catalogue:
        importer = FileImporter(
            catalogue=catalogue,
            originals=services.storage.local_originals,
            checker=services.checker,
        )
        taken = await asyncio.gather(
            *(importer.import_file(path, user_id=3, data_type=DataType.EVENT) for path in paths)
        )
    assert all(isinstance(one, ImportedFile) for one in taken), taken


async def test_different_files_are_stored_at_the_same_time(server: Serving, tmp_path: Path) -> None:
    catalogue = Meeting(server, parties=2)
    await import_two(server, catalogue, tmp_path, ["kodak-23.jpg", "logo.png"])
    assert catalogue.most == 2


async def test_of_equal_files_the_second_waits_for_the_row_of_the_first(
    server: Serving, tmp_path: Path
) -> None:
    catalogue = Meeting(server, parties=1)
    await import_two(server, catalogue, tmp_path, ["kodak-23.jpg", "kodak-23.jpg"])
    assert catalogue.most == 1


async def refused(server: Serving, path: Path, error: DatabaseUnavailable) -> None:
    settings, services = server.services.settings.database, server.services
    url = settings.url or f"sqlite+aiosqlite:///{services.settings.data_path / 'smartserve.db'}"
    catalogue = Refusing(url, settings)
    catalogue.error = error
    async with catalogue:
        importer = FileImporter(
            catalogue=catalogue,
            originals=services.storage.local_originals,
            checker=services.checker,
        )
        with pytest.raises(DatabaseUnavailable):
            await importer.import_file(path, user_id=3, data_type=DataType.EVENT)


async def test_the_file_of_another_row_stays(server: Serving, tmp_path: Path) -> None:
    path = tmp_path / "new.jpg"
    path.write_bytes((SAMPLES / "kodak-23.jpg").read_bytes())
    before = originals(server)
    await refused(server, path, DatabaseUnavailable("away", retry_after_s=1))
    assert originals(server) == before
    await take(server, path)
    after = originals(server)
    await refused(server, path, DatabaseUnavailable("away", retry_after_s=1))
    assert originals(server) == after


async def test_a_file_stays_while_its_commit_is_uncertain(server: Serving, tmp_path: Path) -> None:
    path = tmp_path / "new.jpg"
    path.write_bytes((SAMPLES / "kodak-23.jpg").read_bytes())
    before = originals(server)
    await refused(server, path, CommitUncertain("slow", retry_after_s=1))
    assert len(originals(server)) == len(before) + 1


def test_folders_are_walked_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/2.jpg", "a/1.jpg", ".git/x.jpg", "a/.thumb.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in walk([tmp_path])]
    assert found == ["a/1.jpg", "a/2.jpg", "b.jpg"]
