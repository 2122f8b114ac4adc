"""Adoption of a tree by its names, bytes and rows; a second run changes nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from PIL import Image

from proxy.domain.errors import SourceChanged, SourceMissing
from proxy.domain.media import DataType, Media, ProbeResult
from proxy.library.adoption.adopt import TreeAdopter
from proxy.library.adoption.file_names import AdoptionOwner, NameReader
from proxy.library.adoption.inventory import FoundFile
from proxy.serving.source_facts import SourceChecker
from proxy.settings import StorageSettings
from proxy.storage.database import NewMedia
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.originals.local_store import LocalOriginals
from tests.library.adoption.trees import (
    BULK,
    LIBRARY,
    adopt,
    adopted,
    logo,
    photo,
    premade,
    save,
    skipped,
    whole_tree,
)
from tests.support.formats import SMALL_IMAGES, frame_count
from tests.support.mariadb import MariaDB
from tests.support.server import SAMPLES, Serve, Serving
from tests.web.plans import FACTS


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data directory."""
    return tmp_path / "data"


@pytest.fixture(params=["sqlite", "mariadb"])
async def kind(request: pytest.FixtureRequest, serve: Serve) -> Serving:
    """A server over each kind of database."""
    if request.param == "sqlite":
        return await serve()
    mariadb: MariaDB = request.getfixturevalue("mariadb")
    return await serve(database={"url": mariadb.url(mariadb.create_database())})


def root(server: Serving) -> Path:
    return server.services.settings.storage_root


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def row(server: Serving, media_id: int) -> Media:
    media = await server.services.storage.repository.find(media_id)
    assert media is not None
    return media


async def rows(server: Serving) -> list[Media]:
    places = await server.services.storage.repository.paths()
    return [await row(server, place.media_id) for place in places]


def sizes(media: Media) -> set[tuple[int, int]]:
    return {(facts.width, facts.height) for facts in media.fallbacks}


@pytest.mark.slow
async def test_in_the_storage_root_files_stay_where_they_are(kind: Serving) -> None:
    whole_tree(root(kind))
    before = files(root(kind))
    outcomes = await adopt(kind.services, root(kind))
    assert skipped(outcomes) == {}
    assert files(root(kind)) == before
    icon, picture = await rows(kind)
    assert (icon.bulk_path, icon.user_id, icon.data_type) == (
        f"{BULK}/456-logo-789.png",
        9,
        "logo",
    )
    assert (picture.bulk_path, picture.user_id, picture.data_type) == (
        f"{BULK}/sunset-123.jpg",
        123,
        "product",
    )
    assert (picture.status, picture.mime_type) == ("completed", "image/jpeg")
    assert sizes(picture) == {(300, 300), (480, 320), (500, 333), (1200, 800)}
    assert len(picture.fallbacks) == 12
    assert all(facts.has_alpha for facts in icon.fallbacks)


@pytest.mark.slow
async def test_a_second_run_changes_nothing(kind: Serving) -> None:
    whole_tree(root(kind))
    await adopt(kind.services, root(kind))
    before = await rows(kind)
    again = adopted(await adopt(kind.services, root(kind)))
    assert [one.known for one in again] == [True, True]
    assert await rows(kind) == before


async def test_a_tree_elsewhere_is_copied_once(server: Serving, tmp_path: Path) -> None:
    tree = tmp_path / "other"
    whole_tree(tree)
    assert not any(one.known for one in adopted(await adopt(server.services, tree)))
    copied, before = files(root(server)), await rows(server)
    assert len(copied) == len(files(tree))
    assert {name.rpartition("/")[0] for name in copied if name.startswith("bulk")} == {BULK}
    assert all(one.known for one in adopted(await adopt(server.services, tree)))
    assert files(root(server)) == copied
    assert await rows(server) == before


async def test_a_copy_without_a_row_is_used_by_the_next_run(
    server: Serving, tmp_path: Path
) -> None:
    """As after a kill between copy and commit."""
    tree = tmp_path / "other"
    path = save(photo(), tree / BULK / "a.jpg")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    copy = root(server) / BULK / f"a-{digest[:16]}.jpeg"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(path.read_bytes())
    (one,) = adopted(await adopt(server.services, tree))
    assert root(server) / str((await row(server, one.media_id)).bulk_path) == copy
    assert files(root(server)) == {str(copy.relative_to(root(server)))}


@pytest.mark.slow
@pytest.mark.parametrize("written", ["{path}", "/{path}", "{root}/{path}"])
@pytest.mark.parametrize("there", [True, False])
async def test_a_row_is_recognised_even_if_its_file_is_missing(
    kind: Serving, written: str, *, there: bool
) -> None:
    path = f"{BULK}/old-name.jpg"
    named = written.format(path=path, root=root(kind))
    media_id = await kind.services.storage.repository.insert(
        NewMedia(
            user_id=5,
            data_type=DataType.EVENT,
            original_name="Old.jpg",
            bulk_path=named,
        ),
        FACTS,
    )
    await kind.services.storage.purger.medium(media_id)
    premade(photo(), root(kind) / LIBRARY / "old-name", ("webp",))
    if there:
        save(photo(), root(kind) / path)
    (one,) = adopted(await adopt(kind.services, root(kind)))
    assert one.media_id == media_id
    (media,) = await rows(kind)
    assert len(media.fallbacks) == 4
    assert (media.known_facts is not None) is there
    (again,) = adopted(await adopt(kind.services, root(kind)))
    assert (again.known, again.source is not None) == (True, there)


@pytest.mark.parametrize("stored", ["'gallery'", "''", "NULL"])
async def test_a_medium_of_an_unknown_type_gets_the_folder_of_the_owner(
    serve: Serve, mariadb: MariaDB, tmp_path: Path, stored: str
) -> None:
    url = mariadb.url(mariadb.create_database())
    server, tree = await serve(database={"url": url}), tmp_path / "other"
    save(photo(), tree / BULK / "a.jpg")
    (first,) = adopted(await adopt(server.services, tree))
    # With a later `updated_at` the stored facts, which identify the content, would not be used.
    mariadb.execute(
        "ALTER TABLE media_files MODIFY data_type VARCHAR(16) NULL;"
        f"UPDATE media_files SET data_type = {stored}, updated_at = updated_at",
        database=url.rpartition("/")[2],
    )
    premade(photo(), tree / LIBRARY / "a", ("webp",))
    (second,) = adopted(await adopt(server.services, tree))
    assert second.media_id == first.media_id
    folders = {facts.source_path.rpartition("/")[0] for facts in second.fallbacks}
    assert folders == {"library/user_1/event/img"}


async def test_without_an_original_the_largest_size_is_the_source(server: Serving) -> None:
    premade(photo(), root(server) / LIBRARY / "alone", ("webp",))
    (one,) = adopted(await adopt(server.services, root(server)))
    media = await row(server, one.media_id)
    assert (media.bulk_path, media.library_path) == (None, f"{LIBRARY}/alone-detail.webp")
    assert sizes(media) == {(300, 300), (480, 320), (500, 333)}
    (again,) = adopted(await adopt(server.services, root(server)))
    assert (again.known, again.media_id) == (True, one.media_id)


async def test_the_processed_file_in_the_library_is_the_second_source(
    server: Serving,
) -> None:
    save(photo(), root(server) / BULK / "a.jpg")
    save(photo(1200), root(server) / LIBRARY / "a.jpg")
    await adopt(server.services, root(server))
    (media,) = await rows(server)
    assert media.source_paths == (f"{BULK}/a.jpg", f"{LIBRARY}/a.jpg")


async def test_with_a_damaged_original_the_largest_size_is_the_source(
    server: Serving,
) -> None:
    original = save(photo(), root(server) / BULK / "a.jpg")
    original.write_bytes(original.read_bytes()[:5000])
    premade(photo(), root(server) / LIBRARY / "a", ("webp",))
    outcomes = await adopt(server.services, root(server))
    assert list(skipped(outcomes)) == [f"{BULK}/a.jpg"]
    (media,) = await rows(server)
    assert media.source_path == f"{LIBRARY}/a-detail.webp"


async def test_a_close_up_is_a_medium_of_its_own(server: Serving) -> None:
    save(photo(3000), root(server) / LIBRARY / "painting.jpg")
    save(photo(3000, name="kodak-05.jpg"), root(server) / LIBRARY / "painting-detail.jpg")
    save(photo(600), root(server) / LIBRARY / "painting-small.jpg")
    for known in (False, True):
        outcomes = adopted(await adopt(server.services, root(server)))
        assert {(one.path, one.known) for one in outcomes} == {
            (f"{LIBRARY}/painting.jpg", known),
            (f"{LIBRARY}/painting-detail.jpg", known),
        }
    painting, close_up = await rows(server)
    assert (sizes(painting), sizes(close_up)) == ({(600, 400)}, set())


async def test_originals_of_one_name_are_not_mixed(server: Serving) -> None:
    for day, name in (("2024-05-01", "kodak-05.jpg"), ("2024-05-02", "kodak-23.jpg")):
        save(photo(name=name), root(server) / f"bulk/{day}" / "image.jpg")
    premade(photo(), root(server) / LIBRARY / "image", ("webp",))
    await adopt(server.services, root(server))
    assert [len(media.fallbacks) for media in await rows(server)] == [0, 0, 3]


async def test_equal_originals_are_one_medium(server: Serving) -> None:
    for name in ("a.jpg", "b.jpg"):
        save(photo(), root(server) / BULK / name)
    outcomes = adopted(await adopt(server.services, root(server)))
    assert [(one.media_id, one.known) for one in outcomes] == [(1, False), (1, True)]


ACCEPTED = "accepted are jpeg, png, webp, avif, heic, gif, tiff, bmp, ico, jp2, jxl, svg"


async def test_files_that_are_not_images_are_reported_and_hidden_ones_ignored(
    server: Serving,
) -> None:
    folder = root(server) / LIBRARY
    save(photo(), folder / "a.jpg")
    (folder / "notes.txt").write_text("about a.jpg")
    (folder / "icon.svg").write_text("<SVG/>")
    (folder / "empty.jpg").touch()
    (folder / "link.jpg").symlink_to(SAMPLES / "logo.png")
    (folder / "up").symlink_to(root(server))
    os.mkfifo(folder / "fifo.jpg")
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes((SAMPLES / "logo.png").read_bytes())
    for hidden in (".hidden.jpg", "b.jpg.part", ".git/c.jpg"):
        save(photo(300), folder / "x.jpg").rename(_made(folder / hidden))
    outcomes = await adopt(server.services, root(server))
    assert [one.path for one in adopted(outcomes)] == [f"{LIBRARY}/a.jpg"]
    reasons = {path.rpartition("/")[2]: reason for path, reason in skipped(outcomes).items()}
    assert reasons == {
        "notes.txt": f"is not an image; {ACCEPTED}",
        "icon.svg": "the source is an XML document of <SVG>, not an SVG",
        "empty.jpg": f"is not an image; {ACCEPTED}",
        "link.jpg": "is a symbolic link",
        "up": "is a symbolic link",
        "fifo.jpg": "is not a regular file",
        "\ufffd.jpg": "its name is not UTF-8",
    }


def _made(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    return path


async def test_the_format_is_detected_from_the_bytes(server: Serving) -> None:
    path = save(logo(), root(server) / LIBRARY / "a.png")
    path.rename(path.with_suffix(".jpg"))
    await adopt(server.services, root(server))
    (media,) = await rows(server)
    assert media.mime_type == "image/png"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SMALL_IMAGES)
async def test_every_other_format_is_the_source_of_its_sizes(server: Serving, suffix: str) -> None:
    wanted = SMALL_IMAGES[suffix]
    original = root(server) / BULK / f"sunset-123.{suffix}"
    original.parent.mkdir(parents=True)
    original.write_bytes(wanted.make())
    width, height = wanted.size
    shown = Image.new("RGB", (width // 2, height // 2), "red")
    save(shown, root(server) / LIBRARY / "sunset-123-small.webp")
    outcomes = await adopt(server.services, root(server))
    assert skipped(outcomes) == {}
    (media,) = await rows(server)
    assert media.bulk_path == f"{BULK}/sunset-123.{suffix}"
    assert (media.mime_type, media.user_id) == (wanted.media_type, 123)
    assert sizes(media) == {shown.size}
    answer = await server.client.get(f"/serve/{media.id}?size=thumbnail&format=webp")
    assert answer.status == 200
    assert frame_count(await answer.read()) == wanted.pages


CONTENT = b"an original"
CHECKED = ProbeResult(
    content_hash="ab" * 32,
    byte_size=len(CONTENT),
    source_type="jpeg",
    width=4,
    height=3,
    has_alpha=False,
    pages=1,
    flat_background=False,
    focus=None,
)
HASH = "ab" * 8


@pytest.fixture
async def tree(tmp_path: Path) -> AsyncIterator[LocalOriginals]:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a b.jpg").write_bytes(CONTENT)
    sources = LocalOriginals(tmp_path / "tree", StorageSettings())
    yield sources
    await sources.aclose()


@pytest.fixture
async def originals(tmp_path: Path) -> AsyncIterator[LocalOriginals]:
    (tmp_path / "root").mkdir()
    sources = LocalOriginals(tmp_path / "root", StorageSettings())
    yield sources
    await sources.aclose()


def found(path: str = "a b.jpg") -> FoundFile:
    reader = NameReader(())
    return FoundFile(path, reader.file(path), reader.folder(""), len(CONTENT), "2025-01-15")


def adopter(tree: LocalOriginals, originals: LocalOriginals | None = None) -> TreeAdopter:
    """Return an adopter that can only place files."""
    return TreeAdopter(
        catalogue=cast("SqlMediaRepository", None),
        tree=tree,
        originals=originals,
        checker=cast("SourceChecker", None),
        sizes={},
        owner=AdoptionOwner(1, DataType.EVENT),
        below=lambda _: None,
    )


async def test_below_the_root_files_stay(tree: LocalOriginals) -> None:
    assert await adopter(tree).place(found(), CHECKED, "bulk/2025-01-15") == "a b.jpg"


async def test_a_copy_is_named_after_its_content(
    tree: LocalOriginals, originals: LocalOriginals, tmp_path: Path
) -> None:
    path = await adopter(tree, originals).place(found(), CHECKED, "bulk/2025-01-15")
    assert path == f"bulk/2025-01-15/a-b-{HASH}.jpeg"
    assert (tmp_path / "root" / path).read_bytes() == CONTENT


async def test_a_second_run_finds_the_copy(tree: LocalOriginals, originals: LocalOriginals) -> None:
    copies = adopter(tree, originals)
    first = await copies.place(found(), CHECKED, "bulk/2025-01-15")
    assert await copies.place(found(), CHECKED, "bulk/2025-01-15") == first


async def test_a_changed_file_is_not_copied(
    tree: LocalOriginals, originals: LocalOriginals, tmp_path: Path
) -> None:
    copies = adopter(tree, originals)
    with pytest.raises(SourceChanged):
        await copies.place(found(), replace(CHECKED, byte_size=1), "bulk/2025-01-15")
    with pytest.raises(SourceMissing):
        await copies.place(found("gone.jpg"), CHECKED, "bulk/2025-01-15")
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
