import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.storage.renditions import eviction
from proxy.storage.renditions.disk_state import RenditionPaths, UsageChange, cost, shard_of
from proxy.storage.renditions.eviction import (
    EvictionCandidate,
    EvictionPlan,
    SpareCandidates,
    enough,
    evict,
    record_uses,
    shards_present,
    survey,
    worth_of,
)
from tests.storage.renditions.variants import variant

_entries = st.lists(
    st.builds(
        EvictionCandidate,
        worth=st.floats(0, 1e9),
        path=st.text(min_size=1),
        cost=st.integers(1, 100),
    ),
    min_size=1,
)


def planned(entries: list[EvictionCandidate], *needs: int) -> EvictionPlan:
    plan = EvictionPlan(*needs)
    for entry in entries:
        plan.add(*entry)
    return plan


@given(_entries, st.integers(1, 2000))
def test_the_plan_takes_what_is_worth_least_and_no_more_than_needed(
    entries: list[EvictionCandidate], need: int
) -> None:
    plan = list(planned(entries, need).candidates())

    freed = sum(entry.cost for entry in plan)
    assert [entry.worth for entry in plan] == sorted(entry.worth for entry in plan)
    assert freed >= need or len(plan) == len(entries)
    assert freed - max(plan, key=lambda entry: entry.worth).cost < need
    left = list(entries)
    for entry in plan:
        left.remove(entry)
    dearest = plan[-1].worth
    assert all(entry.worth >= dearest for entry in left)


@given(_entries, st.integers(1, 50))
def test_a_plan_for_inodes_counts_files(entries: list[EvictionCandidate], files: int) -> None:
    plan = list(planned(entries, 0, files).candidates())
    assert len(plan) == min(files, len(entries))
    assert [one.worth for one in plan] == sorted(one.worth for one in entries)[: len(plan)]


@given(_entries, st.integers(0, 2000), st.integers(0, 50))
def test_candidates_are_taken_until_they_are_enough(
    entries: list[EvictionCandidate], need: int, files: int
) -> None:
    remaining = iter(entries)
    taken = list(enough(remaining, need, files))
    assert taken + list(remaining) == entries, "none is lost"
    met = sum(one.cost for one in taken) >= need and len(taken) >= files
    assert met or taken == entries
    if taken:
        before = taken[:-1]
        assert sum(one.cost for one in before) < need or len(before) < files


@given(_entries, st.integers(1, 2000), st.integers(0, 2000), st.integers(1, 20))
def test_a_plan_selects_more_than_is_needed_up_to_a_number_of_files(
    entries: list[EvictionCandidate], need: int, more: int, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(eviction, "_MAX_CANDIDATES", most)
        plan = EvictionPlan(need, wanted_bytes=need + more)
        for entry in entries:
            plan.add(*entry)
        found = list(plan.candidates())
    assert [one.worth for one in found] == sorted(one.worth for one in entries)[: len(found)]
    freed = sum(one.cost for one in found)
    assert freed >= need or len(found) == len(entries)
    dearest = [one.cost for one in found if one.worth == found[-1].worth]
    assert freed - max(dearest) < need + more
    assert len(found) <= most or freed - max(dearest) < need
    assert freed >= need + more or len(found) >= min(most, len(entries))


def test_a_large_plan_is_sorted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction, "_SORTED", 7)
    entries = [EvictionCandidate(number * 37 % 100, str(number), 1) for number in range(100)]
    found = planned(entries, 60).candidates()
    assert [one.worth for one in found] == list(range(60))


def candidates(path: Path, frequency: int = 0) -> list[EvictionCandidate]:
    plan = EvictionPlan(1)
    survey(str(path.parent.parent), plan=plan, frequency=lambda _: frequency, now=2000)
    return list(plan.candidates())


def worth(
    used: float = 0.0, *, size: int = 20_000, suffix: str = "avif", written: float | None = None
) -> float:
    written = used if written is None else written
    status = os.stat_result((0, 0, 0, 0, 0, 0, size, used, written, 0))
    return worth_of(f"{'0' * 32}.{suffix}", status, now=1e6)


def test_a_file_is_worth_more_if_it_was_used_lately_is_small_and_was_expensive() -> None:
    assert worth(9e5) > worth(8e5)
    assert worth(suffix="avif") > worth(suffix="webp") > worth(suffix="jpg")
    assert worth(size=200_000) < worth(size=20_000)


def test_a_file_that_is_used_often_is_worth_a_multiple(tmp_path: Path) -> None:
    path = stored(tmp_path, 1, used=1000)
    rare, often = (candidates(path, frequency)[0] for frequency in (0, 3))
    assert often.worth == pytest.approx(4 * rare.worth)


def test_within_the_resolution_of_access_times_no_file_is_worth_a_multiple() -> None:
    # And one from the near future, by the clock of a file server, is not worth everything.
    assert worth(1e6) == worth(1e6 + 3000) < 2.1 * worth(1e6 - 3600)


def test_a_file_of_before_the_clock_was_set_back_is_worth_as_much_as_its_use_since() -> None:
    assert worth(2e6) < worth(8e5), "it was not used since"
    assert worth(9e5, written=2e6) == worth(9e5)
    assert worth(2e6, written=9e5) == worth(9e5)


def stored(root: Path, media_id: int, used: float, size: int = 5000) -> Path:
    path = Path(RenditionPaths(str(root)).rendition(variant(media_id)))
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(size))
    os.utime(path, (used, used))
    return path


def test_a_survey_counts_files_and_deletes_empty_directories(tmp_path: Path) -> None:
    path = stored(tmp_path, 1, used=1000)
    empty = path.parent.parent / "99"
    empty.mkdir()
    found = survey(str(path.parent.parent))
    assert found == UsageChange(cost(5000), 1)
    assert not empty.exists()
    assert path.stat().st_atime == 1000


def test_a_use_in_memory_is_recorded_at_the_file(tmp_path: Path) -> None:
    path = stored(tmp_path, 1, used=1000)
    record_uses([str(tmp_path / "evicted"), str(path)], now=10_000)
    assert path.stat().st_atime == 10_000


def test_a_missing_shard_is_empty(tmp_path: Path) -> None:
    assert survey(str(tmp_path / "00")) == UsageChange(0, 0)


def test_the_shards_that_exist_are_listed(tmp_path: Path) -> None:
    for name in ("00", "ff", "tmp", "100"):
        (tmp_path / name).mkdir()
    assert shards_present(RenditionPaths(str(tmp_path))) == {0, 255}
    assert shards_present(RenditionPaths(str(tmp_path / "absent"))) == set()


def test_a_file_knows_its_shard_and_its_worth(tmp_path: Path) -> None:
    path = stored(tmp_path, 1, used=1000)
    (found,) = candidates(path)
    assert found.worth == worth_of(path.name, path.stat(), now=2000)
    assert (found.cost, found.shard) == (cost(5000), shard_of(1))


def test_evicted_files_and_their_empty_directories_are_deleted(tmp_path: Path) -> None:
    path = stored(tmp_path, 1, used=1000)
    (found,) = candidates(path)
    assert list(evict([found])) == [[found]]
    assert list(evict([found])) == [[]], "another process has deleted it"
    assert not path.parent.exists()


def left_over(root: Path) -> tuple[list[Path], SpareCandidates]:
    """Three files, the first one of least worth, as a survey at 2000 leaves them over."""
    paths = [stored(root, media_id, used=500 * media_id) for media_id in (1, 2, 3)]
    spare = SpareCandidates(one for path in paths for one in candidates(path))
    assert len(spare) == 3
    return paths, spare


def evicted_from(spare: SpareCandidates, frequency: int = 0) -> list[str]:
    found = spare.candidates(frequency=lambda _: frequency, now=3000)
    return [one.path for one in found]


def test_spare_candidates_are_evicted_in_the_order_of_the_survey(tmp_path: Path) -> None:
    paths, spare = left_over(tmp_path)
    candidate = next(spare.candidates(frequency=lambda _: 0, now=3000))
    assert (candidate.path, candidate.cost) == (str(paths[0]), cost(5000))
    assert candidate.worth == worth_of(paths[0].name, paths[0].stat(), now=3000)
    assert len(spare) == 2, "each is inspected when it is due"
    assert evicted_from(spare) == [str(path) for path in paths[1:]]
    assert len(spare) == 0


def test_a_spare_candidate_that_is_gone_is_skipped(tmp_path: Path) -> None:
    paths, spare = left_over(tmp_path)
    paths[0].unlink()
    paths[1].unlink()
    paths[1].parent.rmdir()
    paths[1].parent.touch()
    assert evicted_from(spare) == [str(paths[2])]


@pytest.mark.parametrize("rewritten", [False, True])
def test_a_spare_candidate_that_was_used_or_rewritten_is_skipped(
    tmp_path: Path, *, rewritten: bool
) -> None:
    paths, spare = left_over(tmp_path)
    if rewritten:
        paths[0].write_bytes(bytes(5000))
        os.utime(paths[0], (500, 2900))
    else:
        os.utime(paths[0], (2900, 500))
    assert evicted_from(spare) == [str(path) for path in paths[1:]]


def test_a_spare_candidate_that_is_used_often_is_skipped(tmp_path: Path) -> None:
    _paths, spare = left_over(tmp_path)
    assert evicted_from(spare, frequency=3) == []
