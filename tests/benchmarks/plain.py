"""The limit: plain pyvips in processes of its own, without server, queue or store."""

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

from tests.benchmarks.servers import Unmeasurable

_PATIENCE_S = 60
"""For one turn, or for all processes to come up."""
_STOP_S = 5


@dataclass(frozen=True, slots=True)
class Recipe:
    """A crop of the middle to a square, as WebP."""

    side: int
    quality: int
    effort: int


@dataclass(frozen=True, slots=True)
class Plain:
    """Processes that are up and wait for pictures."""

    pipes: Sequence[Connection]
    barrier: Barrier
    taken: Any
    """Number of the next picture, shared by the processes."""

    def render(self, paths: Sequence[Path]) -> tuple[float, list[bytes]]:
        """Seconds for all, and the renditions in the pictures' order.

        The pictures are taken one by one, in their order, by whichever process is free.
        """
        self.taken.value = 0
        for pipe in self.pipes:
            pipe.send(paths)
        try:
            self.barrier.wait(_PATIENCE_S)
            began = time.perf_counter()
            self.barrier.wait(_PATIENCE_S)
            seconds = time.perf_counter() - began
        except BrokenBarrierError as error:
            raise Unmeasurable("a process of plain pyvips has failed") from error
        made: dict[int, bytes] = {}
        for pipe in self.pipes:
            made.update(pipe.recv())
        return seconds, [made[at] for at in range(len(paths))]


@contextmanager
def plain(recipe: Recipe, *, processes: int) -> Iterator[Plain]:
    """Start the processes; end them with the block."""
    context = multiprocessing.get_context("spawn")
    barrier, taken = context.Barrier(processes + 1), context.Value("q", 0)
    with ExitStack() as stack:
        pipes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            stack.enter_context(ours)
            process = context.Process(target=_work, args=(theirs, barrier, taken, recipe))
            process.start()
            stack.callback(_end, process)
            theirs.close()
            pipes.append(ours)
        yield Plain(pipes, barrier, taken)


def _end(process: Any) -> None:
    process.terminate()
    process.join(_STOP_S)


def _work(pipe: Connection, barrier: Barrier, taken: Any, recipe: Recipe) -> None:
    """Render what is ordered, until the pipe is closed."""
    # As VIPS_CONCURRENCY=1 would, and as smartserve's workers do.
    pyvips.concurrency_set(1)
    pyvips.cache_set_max(0)
    while True:
        paths: Sequence[Path] = pipe.recv()
        barrier.wait()
        made = dict(_made(paths, taken, recipe))
        barrier.wait()
        pipe.send(made)


def _made(paths: Sequence[Path], taken: Any, recipe: Recipe) -> Iterator[tuple[int, bytes]]:
    while True:
        with taken.get_lock():
            at = taken.value
            taken.value += 1
        if at >= len(paths):
            return
        yield at, _render(paths[at], recipe)


def _render(path: Path, recipe: Recipe) -> bytes:
    source = pyvips.Source.new_from_file(str(path))
    image = pyvips.Image.thumbnail_source(source, recipe.side, height=recipe.side, crop="centre")
    if (image.width, image.height) != (recipe.side, recipe.side):
        raise Unmeasurable(f"plain pyvips made {image.width} x {image.height} of {path}")
    encoded: bytes = image.webpsave_buffer(Q=recipe.quality, effort=recipe.effort, keep="none")
    return encoded
