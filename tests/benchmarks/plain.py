"""The upper limit: libvips in processes of its own, without server, queue or store."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import pyvips

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile
from tests.benchmarks.servers import Unmeasurable

_PATIENCE_S = 60
"""Seconds for one turn, or for all processes to start."""
_STOP_S = 5


_SAVERS = {Format.AVIF: "heifsave", Format.WEBP: "webpsave", Format.JPEG: "jpegsave"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """An image inside a square box, or cropped from its centre to fill it."""

    profile: EncoderProfile
    side: int
    square: bool


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendition, and the seconds it took."""

    body: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Plain:
    """Processes that have started and wait for images."""

    pipes: Sequence[Connection]
    barrier: Barrier
    taken: Any
    """Index of the next image, shared by the processes."""

    def render(self, recipe: Recipe, paths: Sequence[Path]) -> tuple[float, list[Rendered]]:
        """Return the total seconds, and the renditions in order of the images.

        Each image is rendered by the next free process.
        """
        self.taken.value = 0
        for pipe in self.pipes:
            pipe.send((recipe, paths))
        try:
            self.barrier.wait(_PATIENCE_S)
            began = time.perf_counter()
            self.barrier.wait(_PATIENCE_S)
            seconds = time.perf_counter() - began
        except BrokenBarrierError as error:
            raise Unmeasurable("a process of plain pyvips has failed") from error
        made: dict[int, Rendered] = {}
        for pipe in self.pipes:
            made.update(pipe.recv())
        return seconds, [made[at] for at in range(len(paths))]


@contextmanager
def plain(*, processes: int) -> Iterator[Plain]:
    """Start the processes; end them with the block."""
    context = multiprocessing.get_context("spawn")
    barrier, taken = context.Barrier(processes + 1), context.Value("q", 0)
    with ExitStack() as stack:
        pipes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            stack.enter_context(ours)
            process = context.Process(target=_work, args=(theirs, barrier, taken))
            process.start()
            stack.callback(_end, process)
            theirs.close()
            pipes.append(ours)
        yield Plain(pipes, barrier, taken)


def _end(process: Any) -> None:
    process.terminate()
    process.join(_STOP_S)


def _work(pipe: Connection, barrier: Barrier, taken: Any) -> None:
    """Render what is requested until the pipe is closed."""
    # The same as VIPS_CONCURRENCY=1, which smartserve's workers use.
    pyvips.concurrency_set(1)
    pyvips.cache_set_max(0)
    while True:
        recipe, paths = pipe.recv()
        barrier.wait()
        made = dict(_made(paths, taken, recipe))
        barrier.wait()
        pipe.send(made)


def _made(paths: Sequence[Path], taken: Any, recipe: Recipe) -> Iterator[tuple[int, Rendered]]:
    while True:
        with taken.get_lock():
            at = taken.value
            taken.value += 1
        if at >= len(paths):
            return
        began = time.perf_counter()
        body = _render(paths[at], recipe)
        yield at, Rendered(body, time.perf_counter() - began)


def _render(path: Path, recipe: Recipe) -> bytes:
    source = pyvips.Source.new_from_file(str(path))
    way: dict[str, str] = {"crop": "centre"} if recipe.square else {"size": "down"}
    image = pyvips.Image.thumbnail_source(source, recipe.side, height=recipe.side, **way)
    return encode(image, recipe.profile)


def encode(image: Any, profile: EncoderProfile) -> bytes:
    """Return an image saved by libvips with a profile's options, without metadata."""
    kind = {"compression": "av1"} if profile.format is Format.AVIF else {}
    saver = f"{_SAVERS[profile.format]}_buffer"
    options = kind | dict(profile.options)
    encoded: bytes = pyvips.Operation.call(saver, image, keep="none", **options)
    return encoded
