"""Where a crop has to be so that it keeps faces. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from proxy.domain.media import Face, Focus

_BACKGROUND = 1 / 16
"""Share of the largest face's area below which a face is one in the background."""
_MAX_FIRST = 6
"""At most so many of the largest faces are tried, one after another, as the one that is kept."""
# In heights of a face, whose box ends at the eyebrows and at the chin.
_HAIR, _NECK = 0.5, 0.2
_EARS = 0.15
"""In widths of a face, on each side."""
_EYES = 0.3
"""From the upper edge of a face, in heights of it."""
_THIRD = 1 / 3
_ROUNDING = 1e-9

_Span = tuple[float, float]
"""Begin and end, as fractions of the image."""


def focus_on_faces(faces: Sequence[Face], across: float, down: float) -> Focus:
    """Return the centre of the window that keeps all faces, or one and those that fit beside it.

    That one is the largest, or another if the window then keeps more of the area of all faces.
    ``across`` and ``down`` are the sides of the window as fractions of the image. With room left,
    whole heads are kept, and the eyes are at the upper third. A face that is larger than the window
    fills it.
    """
    ordered = sorted(faces, key=lambda face: -_area(face))
    near = [face for face in ordered if _area(face) >= _BACKGROUND * _area(ordered[0])]
    far = ordered[len(near) :]
    best = _focus(near, far, across, down)
    most = sum(_area_within(face, best, across, down) for face in near)
    for at, first in enumerate(near[1:_MAX_FIRST], 1):
        if _area_within(first, best, across, down) >= _area(first) - _ROUNDING:
            continue
        # The faces beside a smaller one may be more than those beside the largest.
        focus = _focus([first, *near[:at], *near[at + 1 :]], far, across, down)
        kept = sum(_area_within(face, focus, across, down) for face in near)
        if kept > most + _ROUNDING:
            best, most = focus, kept
    return best


def _focus(near: Sequence[Face], far: Sequence[Face], across: float, down: float) -> Focus:
    """Return the centre of the window that keeps the first face, and others that fit beside it."""
    columns, rows = _columns(near), _rows(near)
    left = _starts(across, columns, _columns(near, _EARS), _columns(far))
    heads = _rows(near, _HAIR), _rows(near, _HAIR, _NECK)
    top = _starts(down, rows, *heads, _rows(far))
    kept = _kept(columns, left, across)
    middle = (min(begin for begin, _ in kept) + max(end for _, end in kept)) / 2
    eyes = [begin + _EYES * (end - begin) for begin, end in _kept(rows, top, down)]
    return Focus(
        _nearest(middle - across / 2, left) + across / 2,
        _nearest(sum(eyes) / len(eyes) - _THIRD * down, top) + down / 2,
    )


def _area_within(face: Face, focus: Focus, across: float, down: float) -> float:
    """Return the area of a face within the window around a focus."""
    left, top = focus.x - across / 2, focus.y - down / 2
    width = min(left + across, face.left + face.width) - max(left, face.left)
    height = min(top + down, face.top + face.height) - max(top, face.top)
    return max(0.0, width) * max(0.0, height)


def _area(face: Face) -> float:
    return face.width * face.height


def _columns(faces: Iterable[Face], more: float = 0.0) -> list[_Span]:
    return [(one.left - more * one.width, one.left + (1 + more) * one.width) for one in faces]


def _rows(faces: Iterable[Face], above: float = 0.0, below: float = 0.0) -> list[_Span]:
    return [(one.top - above * one.height, one.top + (1 + below) * one.height) for one in faces]


def _starts(length: float, *groups: Sequence[_Span]) -> _Span:
    """Return the range of starts of a window of this length that keeps spans, the first ones first.

    A span that does not fit beside those before it has no effect.
    """
    low, high = 0.0, max(0.0, 1.0 - length)
    begin, end = groups[0][0]
    if end - begin > length + _ROUNDING:
        # Within the largest face, as it does not fit.
        low, high = _within((begin, end - length), low, high)
    for begin, end in (span for group in groups for span in group):
        # A head may extend beyond the image.
        first, last = max(low, min(end, 1.0) - length), min(high, max(begin, 0.0))
        if first <= last + _ROUNDING:
            low, high = min(first, last), last
    return low, high


def _within(span: _Span, low: float, high: float) -> _Span:
    return _nearest(span[0], (low, high)), _nearest(span[1], (low, high))


def _kept(spans: Sequence[_Span], starts: _Span, length: float) -> Sequence[_Span]:
    """Return the spans that the window keeps wherever it starts; the first one if it keeps none."""
    low, high = starts
    begin, end = high - _ROUNDING, low + length + _ROUNDING
    kept = [one for one in spans if one[0] >= begin and one[1] <= end]
    return kept or spans[:1]


def _nearest(value: float, bounds: _Span) -> float:
    return min(max(value, bounds[0]), bounds[1])
