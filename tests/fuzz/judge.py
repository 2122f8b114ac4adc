"""Validation of a response: the correct image, or an allowed problem."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image, ImageFile, UnidentifiedImageError

from proxy.domain.formats import TRAITS, Format, sniff
from proxy.domain.media import MediaFacts
from proxy.domain.request import parse_request
from proxy.domain.variant import plan_geometry
from proxy.settings import Settings

REFUSALS = (404, 415, 422, 503, 504)
_SIZES = Settings().size_specs()


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float
    """From the request to the last byte."""


def fault(answer: Answer, query: str, facts: MediaFacts | None) -> str | None:
    """Return what is wrong with a response, or None; ``facts`` are those that the server stored."""
    if answer.status != 200:
        return _fault_of_problem(answer)
    if facts is None:
        return "a picture without facts"
    fallback = "detail=fallback" in answer.headers["cache-status"]
    return _fault_of_picture(answer, None if fallback else expected_size(query, facts))


def expected_size(query: str, facts: MediaFacts) -> tuple[int, int]:
    """Return the size of the response to a query."""
    geometry = plan_geometry(parse_request(query, sizes=_SIZES).box, facts)
    return geometry.width, geometry.height


def _fault_of_problem(answer: Answer) -> str | None:
    if answer.status not in REFUSALS:
        return f"status {answer.status}: {answer.body[:200]!r}"
    if answer.headers.get("content-type") != "application/problem+json":
        return f"{answer.status} is no problem+json"
    members = json.loads(answer.body)
    if members["status"] != answer.status or not members["detail"]:
        return f"the problem says {members}"
    return None


def _fault_of_picture(answer: Answer, size: tuple[int, int] | None) -> str | None:
    fmt = sniff(answer.body)
    if fmt not in set(Format) or TRAITS[Format(fmt)].media_type != answer.headers["content-type"]:
        return f"{answer.headers['content-type']} is {fmt}"
    try:
        found = _decoded(answer.body)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        return f"{fmt} is not decoded elsewhere: {error!r}"
    if found != (fmt, size or found[1]):
        return f"{found} and not {(fmt, size)}"
    return None


def _decoded(body: bytes) -> tuple[str, tuple[int, int]]:
    """Return format and size, after another decoder has read every pixel of every frame."""
    # The decoder of a worker, which other tests run in this process, may have set it.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with warnings.catch_warnings(), Image.open(io.BytesIO(body)) as picture:
        warnings.simplefilter("error")
        for frame in range(getattr(picture, "n_frames", 1)):
            picture.seek(frame)
            picture.load()
        return str(picture.format).lower(), picture.size
