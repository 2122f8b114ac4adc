"""Contestants take turns in alternating order, and only peers may fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.benchmarks.servers import Unmeasurable
from tests.benchmarks.turns import in_turns


def recorders(seen: list[tuple[str, int]]) -> dict[str, Callable[[int], int]]:
    def recorder(name: str) -> Callable[[int], int]:
        def measure(turn: int) -> int:
            seen.append((name, turn))
            return turn

        return measure

    return {name: recorder(name) for name in ("ours", "theirs")}


def test_every_other_turn_runs_backwards() -> None:
    seen: list[tuple[str, int]] = []
    assert in_turns(recorders(seen), turns=2) == {"ours": [0, 1], "theirs": [0, 1]}
    assert seen == [("ours", 0), ("theirs", 0), ("theirs", 1), ("ours", 1)]


def test_the_warm_up_has_a_turn_of_its_own_that_is_not_counted() -> None:
    seen: list[tuple[str, int]] = []
    assert in_turns(recorders(seen), turns=1, warm_up=7) == {"ours": [0], "theirs": [0]}
    assert [turn for _, turn in seen] == [7, 7, 0, 0]


def failing(turn: int) -> int:
    if turn:
        raise Unmeasurable("it sent nothing for 60 s")
    return turn


def test_a_peer_that_fails_is_left_out_with_its_cause() -> None:
    notes: list[str] = []
    contestants = recorders([]) | {"IPX": failing}
    taken = in_turns(contestants, turns=3, may_fail={"IPX"}, notes=notes)
    assert taken == {"ours": [0, 1, 2], "theirs": [0, 1, 2]}
    assert notes == ["IPX: NOT MEASURED: it sent nothing for 60 s."]


def test_any_other_contestant_that_fails_ends_the_benchmark() -> None:
    with pytest.raises(Unmeasurable):
        in_turns({"ours": failing}, turns=2, may_fail={"IPX"}, notes=[])
