import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from proxy.storage.renditions.disk_state import RenditionPaths, UsageChange, cost, shard_of
from proxy.storage.renditions.eviction import (
    EvictionCandidate,
    EvictionPlan,
    evict,
    shard_files,
    shards_present,
    survey,
)
from tests.storage.renditions.variants import variant

_entries = st.lists(
    st.builds(
        EvictionCandidate,
        last_use=st.floats(0, 1e9),
        path=st.text(min_size=1),
        cost=st.integers(1, 100),
    ),
    min_size=1,
)


@given(_entries, st.integers(1, 2000))
def test_the_plan_takes_the_oldest_and_no_more_than_needed(
    entries: list[EvictionCandidate], need: int
) -> None:
    oldest = EvictionPlan(need)
    oldest.add(entries)
    plan = oldest.candidates()

    freed = sum(entry.cost for entry in plan)
    assert plan == sorted(plan)
    assert freed >= need or len(plan) == len(entries)
    assert freed - max(plan, key=lambda entry: entry.last_use).cost < need
    left = list(entries)
    for entry in plan:
        left.remove(entry)
    newest = plan[-1].last_use
    assert all(entry.last_use >= newest for entry in left)


def stored(root: Path, media_id: int, used: float, size: int = 5000) -> Path:
    path = Path(RenditionPaths(str(root)).rendition(variant(media_id)))
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(size))
    os.utime(path, (used, used))
    return path


def never(_digest: str) -> bool:
    return False


def test_a_survey_counts_files_and_deletes_empty_directories(tmp_path: Path) -> None:
    path = stored(tmp_path, 1, used=1000)
    empty = path.parent.parent / "99"
    empty.mkdir()
    found = survey(str(path.parent.parent), in_memory=never, now=2000)
    assert found == UsageChange(cost(5000), 1)
    assert not empty.exists()
    assert path.stat().st_atime == 1000


def test_a_survey_marks_files_in_memory_as_used(tmp_path: Path) -> None:
    path = stored(tmp_path, 1, used=1000)
    survey(str(path.parent.parent), in_memory={variant(1).digest}.__contains__, now=10_000)
    assert path.stat().st_atime == 10_000


def test_a_missing_shard_is_empty(tmp_path: Path) -> None:
    assert survey(str(tmp_path / "00"), in_memory=never, now=0) == UsageChange(0, 0)
    assert list(shard_files(str(tmp_path / "00"))) == []


def test_the_shards_that_exist_are_listed(tmp_path: Path) -> None:
    for name in ("00", "ff", "tmp", "100"):
        (tmp_path / name).mkdir()
    assert shards_present(RenditionPaths(str(tmp_path))) == {0, 255}
    assert shards_present(RenditionPaths(str(tmp_path / "absent"))) == set()


def test_a_file_knows_its_shard_and_last_use(tmp_path: Path) -> None:
    path = stored(tmp_path, 1, used=1000)
    (found,) = shard_files(str(path.parent.parent))
    assert (found.last_use, found.cost, found.shard) == (1000, cost(5000), shard_of(1))


def test_evicted_files_and_their_empty_directories_are_deleted(tmp_path: Path) -> None:
    path = stored(tmp_path, 1, used=1000)
    (found,) = shard_files(str(path.parent.parent))
    assert evict([found]) == [found]
    assert evict([found]) == [], "another process has deleted it"
    assert not path.parent.exists()
