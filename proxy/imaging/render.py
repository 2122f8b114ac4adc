"""The two orders of a worker: learn the facts of a source, and make one rendition of it.

Both take descriptors that stay the caller's, and both give a failure as a value.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from proxy.formats import TRAITS
from proxy.imaging import encode, load, steps
from proxy.imaging.failures import answered, encoding
from proxy.imaging.loaders import configure, hello, lock_loaders
from proxy.imaging.probe import facts
from proxy.jobs import JobFailure, ProbeJob, ProbeResult, RenderJob, RenderResult

__all__ = ["configure", "hello", "lock_loaders", "probe", "render"]


def probe(job: ProbeJob, source_fd: int) -> ProbeResult | JobFailure:
    """Learn the facts of the seekable file behind a descriptor."""
    return answered(lambda: facts(job, source_fd))


def render(job: RenderJob, source_fd: int, target_fd: int) -> RenderResult | JobFailure:
    """Render a source into a target, usually a pipe, as the encoder's bytes come out.

    After a failure some bytes may have been written; they are not to be used. On return libvips
    holds no duplicate of either descriptor: whoever reads the pipe sees its end with the close of
    the caller's own.
    """
    return answered(lambda: _render(job, source_fd, target_fd), target_fd=target_fd)


def _render(job: RenderJob, source_fd: int, target_fd: int) -> RenderResult:
    clock = _Clock()
    with clock.stage("decode"):
        opened = load.open_source(source_fd, job.limits)
        animated = job.animated and opened.header.pages > 1 and TRAITS[job.profile.format].animation
        pages = _decoded(opened, job, animated=animated)
    with clock.stage("transform"):
        image = _transformed(pages, job, opened=opened)
    with clock.stage("encode"):
        _encode(image, job, target_fd=target_fd)
    return RenderResult(job.geometry.width, job.geometry.height, len(pages), clock.seconds)


def _decoded(opened: load.Opened, job: RenderJob, *, animated: bool) -> list[Any]:
    """The scaled pages: cropped already where no matte needs the whole picture's border.

    In memory, but for what streams: there the encoder pulls the pixels through.
    """
    geometry = job.geometry
    size = {"width": geometry.scaled_width, "height": geometry.scaled_height}
    pages = load.frames(opened, **size) if animated else [load.shrunk(opened, **size)]
    if job.remove_background:
        return [page.copy_memory() for page in pages]
    pages = [steps.crop(page, geometry=geometry) for page in pages]
    return pages if job.profile.streams else [page.copy_memory() for page in pages]


def _transformed(pages: list[Any], job: RenderJob, *, opened: load.Opened) -> Any:
    for step in steps.plan(job):
        pages = [step(page) for page in pages]
    if len(pages) > 1:
        delays, loop = load.timing(opened)
        return encode.assemble(pages, delays=delays, loop=loop)
    return pages[0].copy_memory() if job.remove_background else pages[0]


def _encode(image: Any, job: RenderJob, *, target_fd: int) -> None:
    def work() -> None:
        encode.write(image, job.profile, target_fd=target_fd, copyright_notice=job.copyright)

    if job.profile.streams:
        work()
    else:
        encoding(work)


class _Clock:
    """Seconds that each stage took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside; a stage that fails is not counted."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
