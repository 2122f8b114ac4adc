"""Windows that keep faces."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.face_crop import focus_on_faces
from proxy.domain.media import Face

_ROUNDING = 1e-9


def face(left: float, top: float, width: float = 0.1, height: float = 0.1) -> Face:
    return Face(left, top, width, height, 0.9)


def window(faces: Sequence[Face], across: float, down: float) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the window that is cropped around the focus."""
    focus = focus_on_faces(faces, across, down)
    left = min(max(0.0, focus.x - across / 2), 1 - across)
    top = min(max(0.0, focus.y - down / 2), 1 - down)
    return left, top, left + across, top + down


def share(one: Face, kept: tuple[float, float, float, float]) -> float:
    """Return how much of a face's area lies within a window, from 0 to 1."""
    width = min(kept[2], one.left + one.width) - max(kept[0], one.left)
    height = min(kept[3], one.top + one.height) - max(kept[1], one.top)
    return max(0.0, width) * max(0.0, height) / (one.width * one.height)


FACES = st.builds(
    lambda left, top, width, height: face(left * (1 - width), top * (1 - height), width, height),
    *[st.floats(0, 1)] * 2,
    *[st.floats(0.01, 1)] * 2,
)


@given(FACES, st.floats(0.05, 1), st.floats(0.05, 1))
def test_a_window_keeps_as_much_of_a_single_face_as_it_can_hold(
    one: Face, across: float, down: float
) -> None:
    most = min(1.0, across / one.width) * min(1.0, down / one.height)
    assert share(one, window([one], across, down)) == pytest.approx(most, abs=1e-6)


@given(st.lists(FACES, min_size=1, max_size=8), st.floats(0.05, 1), st.floats(0.05, 1))
def test_a_window_lies_within_the_image_and_keeps_all_faces_if_they_fit(
    faces: list[Face], across: float, down: float
) -> None:
    focus = focus_on_faces(faces, across, down)
    assert across / 2 - _ROUNDING <= focus.x <= 1 - across / 2 + _ROUNDING
    assert down / 2 - _ROUNDING <= focus.y <= 1 - down / 2 + _ROUNDING
    kept = window(faces, across, down)
    spread = (
        max(one.left + one.width for one in faces) - min(one.left for one in faces),
        max(one.top + one.height for one in faces) - min(one.top for one in faces),
    )
    if spread[0] <= across and spread[1] <= down:
        assert [share(one, kept) for one in faces] == pytest.approx([1.0] * len(faces), abs=1e-6)


def test_if_not_all_faces_fit_the_largest_is_kept_with_those_that_fit_beside_it() -> None:
    large, near, off = face(0.6, 0.4, 0.2, 0.2), face(0.45, 0.4), face(0.05, 0.4)
    for order in ([large, near, off], [off, near, large]):
        kept = window(order, 0.4, 1.0)
        assert [share(one, kept) for one in (large, near, off)] == pytest.approx([1, 1, 0])


def test_a_group_is_kept_rather_than_a_slightly_larger_face_far_from_it() -> None:
    large, group = face(0.1, 0.7, 0.12, 0.12), [face(0.2 + 0.2 * at, 0.1) for at in range(4)]
    for order in ([large, *group], [*group, large]):
        kept = window(order, 1.0, 0.3)
        assert [share(one, kept) for one in (large, *group)] == pytest.approx([0, 1, 1, 1, 1])


def test_a_large_face_is_kept_rather_than_a_group_with_less_area() -> None:
    large, group = face(0.1, 0.6, 0.25, 0.25), [face(0.2 + 0.2 * at, 0.1) for at in range(4)]
    assert share(large, window([large, *group], 1.0, 0.3)) == pytest.approx(1)


def test_of_two_faces_that_do_not_fit_together_one_is_kept_whole() -> None:
    faces = [face(0.0, 0.4, 0.2, 0.21), face(0.8, 0.4, 0.2, 0.2)]
    kept = window(faces, 0.3, 1.0)
    assert [share(one, kept) for one in faces] == pytest.approx([1, 0])


def test_there_is_room_for_the_hair_and_the_eyes_are_at_the_upper_third() -> None:
    one = face(0.4, 0.5, 0.2, 0.2)
    _, top, _, bottom = window([one], 1.0, 0.5)
    assert top < one.top - 0.4 * one.height
    eyes = one.top + 0.3 * one.height
    assert (eyes - top) / (bottom - top) == pytest.approx(1 / 3)


def test_a_face_at_the_upper_edge_keeps_the_edge() -> None:
    assert window([face(0.4, 0.0, 0.2, 0.2)], 1.0, 0.5)[1] == 0.0


def test_a_whole_head_matters_more_than_a_small_face_in_the_background() -> None:
    head, small = face(0.4, 0.3, 0.3, 0.3), face(0.4, 0.66, 0.05, 0.05)
    _, top, _, bottom = window([head, small], 1.0, 0.5)
    assert top <= head.top - 0.5 * head.height + _ROUNDING
    assert bottom < small.top + small.height


def test_a_face_beside_the_middle_is_in_the_middle_of_the_window() -> None:
    left, _, right, _ = window([face(0.6, 0.4, 0.1, 0.2)], 0.5, 1.0)
    assert (left + right) / 2 == pytest.approx(0.65)
