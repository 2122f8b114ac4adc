"""The table of drills: what was recorded, and what was not."""

from __future__ import annotations

from pathlib import Path

from tests.faults.table import ROWS, Figure, packed, table, unpacked

HARDENING = Path(__file__).resolve().parents[3] / "shared" / "hardening.md"


def test_each_row_has_its_figures_or_says_that_there_are_none() -> None:
    lines = table([Figure(5, "workers killed", 30, 0, "restart 40 ms")])
    assert [line for line in lines if "workers killed" in line] == [
        f"       {'workers killed':<70} {30:>7} {0:>5}  restart 40 ms"
    ]
    assert sum("NOT SHOWN" in line for line in lines) == len(ROWS) - 1


def test_a_figure_survives_its_report() -> None:
    figure = Figure(1, "bombs", 5, 0)
    assert unpacked(packed(figure)) == figure


def test_the_rows_agree_with_the_hardening_document() -> None:
    if not HARDENING.exists():
        return
    numbers = [
        int(cells[1])
        for line in HARDENING.read_text(encoding="utf-8").splitlines()
        if (cells := line.split("|"))[1:] and cells[1].strip().isdigit()
    ]
    assert numbers == list(ROWS)
