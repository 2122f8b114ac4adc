"""What is kept of purges beside the renditions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.domain.variant import Fit, Gravity, PurgeEntry, SizeSpec
from proxy.storage.renditions.purge_journal import PurgeJournal, UserPurge

PURGES = (
    PurgeEntry(7),
    PurgeEntry(7, frozenset({"0a1b2c3d", "ffffffff"})),
    PurgeEntry(8, frozenset()),
    UserPurge(7),
    UserPurge(7, (SizeSpec("grid", 300, None), SizeSpec("w", 1, 2, Fit.COVER, Gravity.CENTRE))),
)


@pytest.fixture
def journal(tmp_path: Path) -> PurgeJournal:
    return PurgeJournal(str(tmp_path / "renditions"))


def test_what_is_kept_is_read_by_another_process(journal: PurgeJournal, tmp_path: Path) -> None:
    keys = [journal.add(purge) for purge in PURGES]
    other = PurgeJournal(str(tmp_path / "renditions"))
    assert other.read() == dict(zip(keys, PURGES, strict=True))


def test_a_missing_folder_has_no_purges(journal: PurgeJournal) -> None:
    assert journal.read() == {}


def test_equal_purges_are_kept_once(journal: PurgeJournal) -> None:
    for _ in range(3):
        journal.add(PurgeEntry(7))
    assert list(journal.read().values()) == [PurgeEntry(7)]


def test_a_purge_that_was_added_again_is_not_removed(journal: PurgeJournal, tmp_path: Path) -> None:
    recorded = journal.add(PurgeEntry(7))
    again = journal.add(PurgeEntry(7))
    os.utime(tmp_path / "renditions" / "unrecorded" / again.name, ns=(0, again.modified_ns + 1))
    journal.remove(recorded)
    (key,) = journal.read()
    journal.remove(key)
    journal.remove(key)
    assert journal.read() == {}


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"media"', b'{"user": 1, "boxes": [[1]]}'])
def test_a_damaged_file_is_deleted_and_the_others_are_read(
    journal: PurgeJournal, tmp_path: Path, text: bytes
) -> None:
    journal.add(PurgeEntry(7))
    damaged = tmp_path / "renditions" / "unrecorded" / "damaged"
    damaged.write_bytes(text)
    assert list(journal.read().values()) == [PurgeEntry(7)]
    assert not damaged.exists()


def test_the_position_is_stored(journal: PurgeJournal) -> None:
    journal.set_position(1_764_380_000.25)
    assert journal.position() == 1_764_380_000.25


def test_without_renditions_no_purge_was_missed(journal: PurgeJournal, tmp_path: Path) -> None:
    assert journal.position() is None
    (tmp_path / "renditions" / "3f" / "7").mkdir(parents=True)
    assert journal.position() == 0.0


def test_a_damaged_position_means_that_all_may_be_missed(
    journal: PurgeJournal, tmp_path: Path
) -> None:
    (tmp_path / "renditions" / "3f").mkdir(parents=True)
    (tmp_path / "renditions" / "purged-until").write_bytes(b"\0\0")
    assert journal.position() == 0.0
