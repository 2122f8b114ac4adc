"""RESULTS.md keeps what was not measured again, and README's table agrees with it."""

from __future__ import annotations

import pytest

from tests.benchmarks import results
from tests.benchmarks.report import Comparison, Row, Table
from tests.benchmarks.results import BEGIN, END, Result, merged, summary, with_summary

ORDER = ["hits", "cold", "herd"]
ALL = ["hits/s"]
RAN = "Measured on 2026-11-29 08:00 UTC: A Processor, 2 cores; Python 3; in 3 s."
README = f"# Title\n\n{BEGIN}\nold\n{END}\n\nMore.\n"


def table(rate: float, peer: str = "nginx") -> Table:
    row = Row("smartserve", [rate], yardstick=[100.0])
    comparison = Comparison("hits/s", peer, [rate], [100.0])
    return Table("requests per second", [row], ["A note."], compared=[comparison])


def written(**tables: Table | str) -> str:
    return merged("", {name: Result(one, RAN) for name, one in tables.items()}, ORDER)


def test_a_run_of_one_benchmark_keeps_the_results_of_the_others() -> None:
    before = written(herd=table(50.0), hits=table(60.0))
    after = merged(before, {"cold": Result(table(70.0), RAN)}, ORDER)
    assert [line for line in after.splitlines() if line.startswith("## ")] == [
        *("## hits", "## cold", "## herd")
    ]
    for figure in ("60.0", "70.0", "50.0"):
        assert f"| hits/s | {figure} | nginx: 100 |" in after
    assert merged(after, {}, ORDER) == after


def test_a_benchmark_that_is_no_more_is_dropped() -> None:
    assert "## herd" not in merged(written(herd=table(50.0)), {}, ["hits"])


def test_a_failure_replaces_the_old_result_and_is_named_in_the_summary() -> None:
    before = written(hits=table(60.0), cold=table(70.0))
    after = merged(before, {"hits": Result("wrk is not installed,\nand more", RAN)}, ORDER)
    assert "60.0" not in after
    assert summary(after, ALL).endswith("Not measured: hits (wrk is not installed, and more).")
    assert "| hits/s | 70.0 | nginx: 100 | 0.70 (0.70 to 0.70); slower |" in summary(after, ALL)


def test_the_summary_says_when_and_where_it_was_measured() -> None:
    text = summary(written(hits=table(60.0)), ALL)
    assert text.startswith("Measured on 2026-11-29: A Processor, 2 cores.\n\n| measurement |")


def test_only_the_part_between_the_markers_is_replaced() -> None:
    text = written(hits=table(60.0))
    readme = with_summary(README, text, ALL)
    assert readme == f"# Title\n\n{BEGIN}\n{summary(text, ALL)}\n{END}\n\nMore.\n"
    assert with_summary(readme, text, ALL) == readme


@pytest.mark.parametrize("marker", [BEGIN, END])
def test_a_readme_without_markers_is_refused(marker: str) -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        with_summary(README.replace(marker, ""), "")


def test_only_the_chosen_comparisons_are_in_the_summary_in_their_order() -> None:
    row = Row("smartserve", [1.0], yardstick=[1.0])
    names = ("first", "second", "third")
    compared = [Comparison(name, "nginx", [1.0], [1.0]) for name in names]
    text = written(hits=Table("all", [row], compared=compared))
    shown = summary(text, ["third", "first"]).splitlines()[4:]
    assert [line.split(" | ")[0] for line in shown] == ["| third", "| first"]


def test_every_chosen_comparison_is_in_the_results() -> None:
    text = summary(results.FILE.read_text())
    assert [name for name in results.CHOSEN if f"| {name} |" not in text] == []


def test_the_readme_agrees_with_the_results() -> None:
    readme, found = results.README.read_text(), results.FILE.read_text()
    assert with_summary(readme, found) == readme
