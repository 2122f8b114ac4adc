"""Ratios are those of the turns, and a figure that is worse than the peer's says so."""

from __future__ import annotations

import pytest

from tests.benchmarks.report import Comparison, Row, against_best


def test_the_ratio_is_the_median_of_the_ratios_of_each_turn() -> None:
    # The machine was slower in each turn; the ratio of the medians would be 0.4.
    row = Row("ours", [90, 40, 9], yardstick=[100, 100, 10])
    assert row.ratios == [0.9, 0.4, 0.9]
    assert row.cells()[4:6] == ("0.900", "0.40 to 0.90")


def test_one_yardstick_serves_for_all_turns() -> None:
    assert Row("ready", [900, 1100], yardstick=[1000], limit=1.0).ratios == [0.9, 1.1]


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("rate", [5], yardstick=[10], target=0.5), ">= 0.50 pass"),
        (Row("rate", [4], yardstick=[10], target=0.5), ">= 0.50 MISS"),
        (Row("time", [11], yardstick=[10], limit=1.1), "<= 1.10 pass"),
        (Row("time", [12], yardstick=[10], limit=1.1), "<= 1.10 MISS"),
    ],
)
def test_a_target_is_passed_or_missed(row: Row, verdict: str) -> None:
    assert row.cells()[6] == verdict


def test_a_comparison_shows_both_figures_and_the_spread() -> None:
    shown = Comparison("hits/s", "nginx", [50, 60, 70], [100, 100, 100]).cells()
    assert shown == ("hits/s", "60.0", "nginx: 100", "0.60 (0.50 to 0.70); slower")


@pytest.mark.parametrize(
    ("ours", "low", "lost"),
    [(2.0, True, True), (2.0, False, False), (0.5, False, True), (0.5, True, False)],
)
def test_a_worse_figure_is_named_as_such(ours: float, *, low: bool, lost: bool) -> None:
    shown = Comparison("bytes", "IPX", [ours], [1.0], low=low, worse="larger").cells()
    assert shown[3].endswith("; larger") == lost


def test_the_best_peer_is_the_one_compared() -> None:
    peers = {"thumbor": [10.0], "IPX": [30.0], "imagor": [20.0]}
    (most,) = against_best("renders/s", [25.0], peers)
    (least,) = against_best("ms", [25.0], peers, low=True)
    assert (most.peer, least.peer) == ("IPX", "thumbor")
    assert against_best("renders/s", [25.0], {}) == []
