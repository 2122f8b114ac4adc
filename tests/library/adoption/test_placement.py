"""Where the files of an adopted tree are placed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.domain.errors import SourceChanged, SourceMissing
from proxy.domain.media import ProbeResult
from proxy.library.adoption.file_names import NameReader
from proxy.library.adoption.inventory import FoundFile
from proxy.library.adoption.placement import FilePlacement
from proxy.settings import StorageSettings
from proxy.storage.originals.local_store import LocalOriginals

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


async def test_below_the_root_files_stay(tree: LocalOriginals) -> None:
    placement = FilePlacement(tree)
    assert not placement.copies
    assert await placement.place_original(found(), CHECKED) == "a b.jpg"
    size = await placement.place_size(found(), CHECKED, user_id=4, data_type="logo")
    assert size == "a b.jpg"


async def test_a_copy_is_named_after_day_and_content(
    tree: LocalOriginals, originals: LocalOriginals, tmp_path: Path
) -> None:
    placement = FilePlacement(tree, originals)
    assert placement.copies
    path = await placement.place_original(found(), CHECKED)
    assert path == f"bulk/2025-01-15/a-b-{HASH}.jpeg"
    assert (tmp_path / "root" / path).read_bytes() == CONTENT
    size = await placement.place_size(found(), CHECKED, user_id=4, data_type="logo")
    assert size == f"library/user_4/logo/img/a-b-{HASH}.jpeg"


async def test_a_second_run_finds_the_copy(tree: LocalOriginals, originals: LocalOriginals) -> None:
    placement = FilePlacement(tree, originals)
    first = await placement.place_original(found(), CHECKED)
    assert await placement.place_original(found(), CHECKED) == first


async def test_a_changed_file_is_not_copied(
    tree: LocalOriginals, originals: LocalOriginals, tmp_path: Path
) -> None:
    placement = FilePlacement(tree, originals)
    with pytest.raises(SourceChanged):
        await placement.place_original(found(), replace(CHECKED, byte_size=1))
    with pytest.raises(SourceMissing):
        await placement.place_original(found("gone.jpg"), CHECKED)
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
