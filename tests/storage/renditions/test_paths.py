"""The directory layout of the disk store."""

from __future__ import annotations

from collections import Counter

import pytest

from proxy.storage.renditions.paths import SHARDS, RenditionPaths, cost, shard_of
from tests.storage.renditions.variants import variant

PATHS = RenditionPaths("/cache")


def test_a_rendition_is_below_its_shard_and_medium() -> None:
    shard = f"{shard_of(1):02x}"
    assert PATHS.rendition(variant(1)) == f"/cache/{shard}/1/{variant(1).digest}.avif"
    assert PATHS.medium(1) == f"/cache/{shard}/1"
    assert PATHS.shard(10) == "/cache/0a"


def test_the_shard_of_a_medium_never_changes() -> None:
    """Another hash would lose every rendition that is stored."""
    assert [shard_of(media_id) for media_id in (1, 2, 789)] == [88, 20, 102]


@pytest.mark.parametrize("step", [1, 2, 256])
def test_any_series_of_ids_spreads_evenly(step: int) -> None:
    counts = Counter(shard_of(media_id) for media_id in range(0, 25_600 * step, step))
    assert set(counts) == set(range(SHARDS))
    assert max(counts.values()) < 2 * 25_600 / SHARDS


@pytest.mark.parametrize(("size", "taken"), [(0, 0), (1, 4096), (4096, 4096), (4097, 8192)])
def test_a_file_takes_whole_blocks(size: int, taken: int) -> None:
    assert cost(size) == taken


def test_temporary_files_and_the_purge_log_are_in_no_shard() -> None:
    shards = {PATHS.shard(number) for number in range(SHARDS)}
    assert not {PATHS.temporary, PATHS.purges} & shards
