"""The steps from a page to what is encoded: each takes one page and gives one page.

A page is a libvips image in sRGB or grey, 8 bits, with or without an alpha band.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from proxy.domain.formats import TRAITS
from proxy.domain.geometry import Geometry
from proxy.domain.worker_protocol import RenderJob

Step = Callable[[Any], Any]
"""One page in, one page out."""

WHITE = 255


def plan(job: RenderJob) -> tuple[Step, ...]:
    """The steps of a job in their order."""
    chosen = (
        (partial(crop, geometry=job.geometry), True),
        (flatten, not TRAITS[job.profile.format].alpha),
    )
    return tuple(step for step, wanted in chosen if wanted)


def crop(page: Any, *, geometry: Geometry) -> Any:
    """Cut the box of the geometry out of a page that has its scaled size; do it only once."""
    if (page.width, page.height) == (geometry.width, geometry.height):
        return page
    return page.crop(geometry.left, geometry.top, geometry.width, geometry.height)


def flatten(page: Any) -> Any:
    """Lay a page with transparency on white."""
    return page.flatten(background=WHITE) if page.hasalpha() else page
