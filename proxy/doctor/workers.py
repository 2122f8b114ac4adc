"""The workers: one is started here, locked in as the server's are, and renders a sample."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import proxy
from proxy.doctor import CheckBlocked, Diagnosis, failed, reason_of, skipped, warned, well
from proxy.doctor.figures import as_time
from proxy.domain.errors import ConfigurationError, SmartserveError
from proxy.domain.formats import Format
from proxy.domain.geometry import Geometry
from proxy.domain.worker_protocol import Limits, RenderOutput, RenditionSet, WorkerInfo
from proxy.rendering.pool.pool import WorkerPool
from proxy.runtime.min_versions import floor_faults
from proxy.settings import Settings

Started = Callable[[], AbstractAsyncContextManager[WorkerPool]]
"""Starts one worker, and ends it with the block."""

_SAMPLES = Path(proxy.__file__).parent / "samples"
_SAMPLE_OF: Mapping[str, str] = {"png": "badge.png", "jpeg": "kodak-23.jpg"}
"""By type: what the settings let in."""
_SIDE = 64
_SLOW_S = 1.0
_RARE = frozenset({"heic", "bmp"})
"""What the libvips that comes with pyvips[binary] does not load, and few want."""
_CHECK_CONFIG = "'smartserve check-config' prints what the worker says"


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What was seen of a worker."""

    hello: WorkerInfo
    gaps: Mapping[str, str]
    sandbox: bool
    """Whether the settings have it locked in."""
    wanted: tuple[str, ...]
    """Types that the settings let in."""
    start_s: float
    renders: Mapping[Format, float]
    """Seconds by format; a first render learns, the others are quicker."""
    failures: Mapping[Format, str]
    fault: str
    """What of it is below its floor."""


async def look(settings: Settings, started: Started) -> WorkerFacts:
    """Start a worker and render a sample in each format that goes out."""
    began = time.monotonic()
    try:
        async with started() as pool:
            start_s = time.monotonic() - began
            renders, failures = await _rendered(settings, pool)
            return WorkerFacts(
                hello=pool.hello,
                gaps=pool.gaps,
                sandbox=settings.workers.sandbox,
                wanted=settings.limits.source_types,
                start_s=start_s,
                renders=renders,
                failures=failures,
                fault=_floors(pool.hello),
            )
    except ConfigurationError as error:
        advice = f"{_CHECK_CONFIG}; no memory, no descriptors, or require_sandbox without a kernel"
        raise CheckBlocked(failed("; ".join(error.faults), f"{advice} that can")) from error


def _floors(hello: WorkerInfo) -> str:
    return "; ".join(floor_faults({"libvips": hello.libvips, **hello.codecs}))


async def _rendered(
    settings: Settings, pool: WorkerPool
) -> tuple[Mapping[Format, float], Mapping[Format, str]]:
    """Seconds by format, and why others could not be made."""
    kind = next((one for one in _SAMPLE_OF if one in settings.limits.source_types), None)
    if kind is None:
        return {}, {}
    limits = replace(settings.limits.to_limits(), source_types=(kind,))
    seconds: dict[Format, float] = {}
    failures: dict[Format, str] = {}
    for fmt in dict.fromkeys((*settings.encoders.order, Format.PNG)):
        began = time.monotonic()
        try:
            await _render(pool, _job(settings, fmt, limits), _SAMPLES / _SAMPLE_OF[kind])
        except SmartserveError as error:
            failures[fmt] = reason_of(error)
        else:
            seconds[fmt] = time.monotonic() - began
    return seconds, failures


def _job(settings: Settings, fmt: Format, limits: Limits) -> RenditionSet:
    profile = settings.encoders.profiles()[fmt]
    output = RenderOutput(Geometry(_SIDE, _SIDE, _SIDE, _SIDE), profile)
    return RenditionSet(limits, (output,))


async def _render(pool: WorkerPool, job: RenditionSet, sample: Path) -> None:
    descriptor = os.open(sample, os.O_RDONLY | os.O_CLOEXEC)
    try:
        await pool.run(job, descriptor, lambda _: None)
    finally:
        os.close(descriptor)


def judge_render(seen: WorkerFacts) -> Diagnosis:
    """Whether it renders what goes out, and how quickly."""
    if seen.failures:
        told = "; ".join(f"{fmt}: {why}" for fmt, why in seen.failures.items())
        return failed(told, f"install what requirements.lock names; {_CHECK_CONFIG}")
    if not seen.renders:
        return skipped("limits.source_types lets neither JPEG nor PNG in")
    times = ", ".join(f"{fmt} {as_time(spent)}" for fmt, spent in seen.renders.items())
    told = f"up in {as_time(seen.start_s)}; {_SIDE} pixels as {times}"
    if max(seen.renders.values()) <= _SLOW_S:
        return well(told)
    return warned(told, "the machine is busy, or short of memory: see top, and the queue")


def judge_sandbox(seen: WorkerFacts) -> Diagnosis:
    """Whether all of the sandbox holds."""
    if not seen.sandbox:
        advice = "set workers.sandbox = true: strangers' pictures are decoded in there"
        return warned("workers.sandbox = false", advice)
    if seen.gaps:
        told = "; ".join(f"{feature}: {why}" for feature, why in seen.gaps.items())
        advice = (
            "landlock wants Linux 5.13 and a container runtime that lets it through; seccomp:"
            " apt-get install libseccomp2; user: workers.uid has to be another than root's"
        )
        return warned(told, advice)
    return well(", ".join(seen.hello.sandbox))


def judge_formats(seen: WorkerFacts) -> Diagnosis:
    """Whether libvips opens what the settings let in."""
    absent = [kind for kind in seen.wanted if kind not in seen.hello.source_types]
    told = f"opens {', '.join(kind for kind in seen.wanted if kind not in absent)}"
    if not absent:
        return well(told)
    told = f"{told}; not {', '.join(absent)}"
    if set(absent) <= _RARE:
        return well(told)
    advice = (
        "install pyvips[binary] as requirements.lock names it, or a libvips that loads them; or"
        " take them out of limits.source_types"
    )
    return failed(told, advice)


def judge_versions(seen: WorkerFacts) -> Diagnosis:
    """Whether nothing that decodes is older than is safe."""
    if seen.fault:
        return failed(seen.fault, "pip install --require-hashes -r requirements.lock, and restart")
    codecs = ", ".join(f"{name} {version}" for name, version in seen.hello.codecs.items())
    return well(f"smartserve {proxy.__version__}, libvips {seen.hello.libvips}, {codecs}")
