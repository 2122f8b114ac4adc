"""Finds faces with BlazeFace (full range), a model of MediaPipe that sees 192 x 192 pixels.

Imported only by the process that detects faces: numpy and the interpreter take 50 MB.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from proxy.domain.formats import SNIFF_BYTES, sniff
from proxy.domain.media import Face
from proxy.domain.worker_protocol import FaceJob, FacesFound
from proxy.rendering.worker.imaging import load

MAX_FACES = 64
"""The faces with the highest scores are kept."""

_SIDE = 192
_STRIDE = 4
_POINTS = 8
"""Pairs of values for each anchor: centre, size, and six key points, which are not used."""
_MAX_RAW_SCORE = 80.0
"""The exponential function of more overflows."""
# MediaPipe's own thresholds of this model.
_MIN_SCORE = 0.5
_MIN_OVERLAP = 0.3

_WORKING_SIDE = 640
"""Longer side of the page on which all regions are cut out."""
_MIN_SIDE = 16
"""No face can be seen on an image of which the shorter side is below this."""
_LONG = 1.25
"""Aspect ratio from which on squares are searched, too: on a letterboxed image faces are small."""
_STEP = 0.67
"""Distance of two squares, of their side."""
_MAX_SQUARES = 6
_CLOSE_UP = 2.5
"""Longer sides of the page in the square that is searched for faces that fill the page.

The model does not see a face that fills its input, nor one of which hair and chin are cut off.
"""
_CLOSE_UP_FACE = 0.5
"""Shorter sides of the page from which on a face of that square counts; it is blurred there."""

# Of 1,400 flipped, rotated and cropped images without people, 1 in 25 has a detection, but none has
# a sure one. Searched again in the mirrored surroundings of the face, 1 in 450 is kept.
_SURE = 0.8
_MIN_MEAN = 0.6
_MIN_AGAIN = 0.2
_MAX_UNSURE = 6
"""Detections that are searched again; each takes as long as a region."""
_SURROUNDINGS = 5.0
"""Side of the square around an unsure face, in sizes of the face."""

Array = Any
"""An array of numpy. Boxes are rows of left, top, right, bottom."""
_Region = tuple[int, int, int]
"""A square of the page: left, top, side. It may extend beyond the page."""


class FaceModel:
    """The model in an interpreter, which this process owns."""

    def __init__(self, path: Path) -> None:
        """Load the file and run it once: later neither may open a file.

        Raises:
            ValueError: the file is no model.
        """
        with _silent_interpreter():
            self._interpreter = Interpreter(model_path=str(path), num_threads=1)
            self._interpreter.allocate_tensors()
            self._input = self._interpreter.get_input_details()[0]["index"]
            outputs = self._interpreter.get_output_details()
            # By shape: the order of the outputs is not a property of the model.
            self._boxes, self._scores = sorted(
                (one["index"] for one in outputs), key=lambda at: -self._width_of(at)
            )
            centres = (np.arange(_SIDE // _STRIDE, dtype=np.float32) + 0.5) / (_SIDE // _STRIDE)
            self._anchors = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
            self.candidates(np.zeros((_SIDE, _SIDE, 3), np.uint8), 1.0)

    def _width_of(self, index: int) -> int:
        width: int = self._interpreter.get_tensor(index).shape[-1]
        return width

    def candidates(self, pixels: Array, min_score: float) -> tuple[Array, Array]:
        """Return boxes, as fractions of a square of 192 pixels, and their scores; they overlap."""
        self._interpreter.set_tensor(self._input, (pixels.astype(np.float32) / 127.5 - 1)[None])
        self._interpreter.invoke()
        raw = np.clip(
            self._interpreter.get_tensor(self._scores)[0, :, 0], -_MAX_RAW_SCORE, _MAX_RAW_SCORE
        )
        scores = 1 / (1 + np.exp(-raw))
        kept = scores >= min_score
        values = self._interpreter.get_tensor(self._boxes)[0][kept].reshape(-1, _POINTS, 2) / _SIDE
        centres, halves = values[:, 0] + self._anchors[kept], values[:, 1] / 2
        return np.concatenate([centres - halves, centres + halves], axis=1), scores[kept]


def detect(job: FaceJob, source_fd: int, model: FaceModel) -> FacesFound:
    """Find the faces of the first page of a seekable file.

    Raises:
        SourceRefused, OSError, pyvips.Error: as `load.open_source`, or the pixels are damaged.
    """
    if sniff(os.pread(source_fd, SNIFF_BYTES, 0)) == "svg":
        # A drawing; this process has no fonts for its text.
        return FacesFound(())
    opened = load.open_source(source_fd, job.limits)
    width, height = opened.header.upright
    scale = min(1.0, _WORKING_SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if min(size) < _MIN_SIDE:
        return FacesFound(())
    page = load.flatten(load.to_srgb(load.shrunk(opened, size))).copy_memory()
    return FacesFound(faces_of(page, model))


def faces_of(page: Any, model: FaceModel) -> tuple[Face, ...]:
    """Return the faces of a page in memory with three bands, the highest score first."""
    found = [_search(page, region, model) for region in _regions(page.width, page.height)]
    found.append(_close_ups(page, model))
    boxes, scores = (np.concatenate(one) for one in zip(*found, strict=True))
    unsure = 0
    faces: list[Face] = []
    for box, first in _merged(boxes, scores):
        score = first
        if first < _SURE:
            unsure += 1
            again = _score_again(page, box, model) if unsure <= _MAX_UNSURE else 0.0
            score = (first + again) / 2
        face = _face(box / ([page.width, page.height] * 2), score)
        if score >= _MIN_MEAN and face is not None:
            faces.append(face)
    return tuple(sorted(faces, key=lambda face: -face.score)[:MAX_FACES])


def _regions(width: int, height: int) -> Iterator[_Region]:
    """Yield the whole page, and squares along a long one."""
    longer, shorter = max(width, height), min(width, height)
    yield 0, 0, longer
    if longer < _LONG * shorter:
        return
    count = min(_MAX_SQUARES, math.ceil((longer - shorter) / (_STEP * shorter)) + 1)
    for at in range(count):
        start = round(at * (longer - shorter) / (count - 1))
        yield (start, 0, shorter) if width > height else (0, start, shorter)


def _search(page: Any, region: _Region, model: FaceModel) -> tuple[Array, Array]:
    """Return the boxes of a region, in pixels of the page, and their scores."""
    left, top, side = region
    boxes, scores = model.candidates(_pixels(page, region), _MIN_SCORE)
    return boxes * side + [left, top, left, top], scores


def _close_ups(page: Any, model: FaceModel) -> tuple[Array, Array]:
    """Return the boxes of faces that fill the page, as `_search`."""
    side = round(max(page.width, page.height) * _CLOSE_UP)
    region = (page.width - side) // 2, (page.height - side) // 2, side
    boxes, scores = _search(page, region, model)
    large = boxes[:, 2] - boxes[:, 0] >= _CLOSE_UP_FACE * min(page.width, page.height)
    return boxes[large], scores[large]


def _pixels(page: Any, region: _Region) -> Array:
    """Return a region as 192 x 192 pixels; black where it extends beyond the page."""
    left, top, side = region
    begin, above = max(0, left), max(0, top)
    part = page.crop(
        begin, above, min(page.width, left + side) - begin, min(page.height, top + side) - above
    )
    scale = _SIDE / side
    width, height = (max(1, round(one * scale)) for one in (part.width, part.height))
    part = part.resize(width / part.width, vscale=height / part.height)
    offset = round((begin - left) * scale), round((above - top) * scale)
    return part.embed(*offset, _SIDE, _SIDE).numpy()


def _score_again(page: Any, box: Array, model: FaceModel) -> float:
    """Return the score of a box in its mirrored surroundings; 0 if nothing is found there."""
    side = math.ceil(max(box[2] - box[0], box[3] - box[1]) * _SURROUNDINGS)
    left, top = (round((box[at] + box[at + 2] - side) / 2) for at in (0, 1))
    start = np.array([left, top, left, top])
    pixels = _pixels(page, (left, top, side))[:, ::-1]
    boxes, scores = model.candidates(pixels, _MIN_AGAIN)
    mirrored = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
    same = _overlaps((box - start) / side, mirrored) > _MIN_OVERLAP
    return float(scores[same].max()) if same.any() else 0.0


def _merged(boxes: Array, scores: Array) -> Iterator[tuple[Array, float]]:
    """Weighted non-maximum suppression: yield the mean of each group of overlapping boxes.

    The score is the highest of the group, and the highest comes first.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes[order], scores[order]
    while len(scores):
        same = _overlaps(boxes[0], boxes) > _MIN_OVERLAP
        # A box without an area overlaps nothing, not even itself.
        same[0] = True
        yield np.average(boxes[same], axis=0, weights=scores[same]), float(scores[0])
        boxes, scores = boxes[~same], scores[~same]


def _overlaps(box: Array, boxes: Array) -> Array:
    """Return the intersection over union of a box and each of others."""
    across = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
    down = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
    common = np.clip(across, 0, None) * np.clip(down, 0, None)
    area = (box[2] - box[0]) * (box[3] - box[1])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return common / np.maximum(area + areas - common, 1e-9)


def _face(box: Array, score: float) -> Face | None:
    """Return the visible part of a box, in fractions; None if less than half of it is visible."""
    left, top, right, bottom = np.clip(box, 0, 1)
    visible = (right - left) * (bottom - top)
    if visible <= 0 or visible < (box[2] - box[0]) * (box[3] - box[1]) / 2:
        return None
    values = (left, top, right - left, bottom - top, score)
    return Face(*(round(float(one), 4) for one in values))


@contextmanager
def _silent_interpreter() -> Iterator[None]:
    """Discard what the interpreter prints when it starts; no option of it does that."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
