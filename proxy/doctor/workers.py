"""Checks of the workers: one is started as the server starts its own, and renders a sample."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import proxy
from proxy.doctor.check import Finding, Findings, area, as_time, fail, reason_of, skip, warn
from proxy.doctor.installation import Installation
from proxy.domain.errors import ConfigurationError, SmartserveError
from proxy.domain.formats import Format
from proxy.domain.variant import Geometry
from proxy.domain.worker_protocol import RenderOutput, RenditionSet, WorkerInfo
from proxy.rendering.pool.pool import WorkerPool
from proxy.settings import Settings

_SAMPLES = Path(proxy.__file__).parent / "samples"
_SAMPLE_OF: Mapping[str, str] = {"png": "badge.png", "jpeg": "kodak-23.jpg"}
_TEXT = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><text y="40">a</text></svg>'
)
_SIDE = 64
_SLOW_S = 1.0
_OPTIONAL = frozenset({"heic", "jxl"})
"""Types whose decoder is an extra."""
_CHECK_CONFIG = "'smartserve check-config' prints the worker's output"


@area("worker", "worker sandbox", "worker formats", "worker fonts")
async def check_workers(installation: Installation) -> Findings:
    """Start a worker, and render a sample in each output format and an SVG with text."""
    settings = installation.settings
    started = time.monotonic()
    try:
        async with installation.worker() as pool:
            start_s = time.monotonic() - started
            info, gaps = pool.hello, pool.gaps
            render_s, failures = await _render_all(settings, pool)
            refused = await _text_refusal(settings, pool) if "svg" in info.source_types else None
    except ConfigurationError as error:
        # The pool reports that no process came up.
        advice = (
            f"{_CHECK_CONFIG}; causes are too little memory, too few descriptors, or"
            " workers.require_sandbox on a kernel without the features"
        )
        yield fail("; ".join(error.faults), advice)
        return
    yield judge_renders(start_s, render_s, failures)
    yield judge_sandbox(settings, info, gaps)
    yield judge_formats(settings, info)
    yield judge_fonts(refused)


async def _render_all(
    settings: Settings, pool: WorkerPool
) -> tuple[dict[Format, float], dict[Format, str]]:
    """Return the render time of each format in seconds, and the errors of those that fail."""
    seconds: dict[Format, float] = {}
    failures: dict[Format, str] = {}
    # The worker refuses files of types that the settings exclude.
    allowed = [name for kind, name in _SAMPLE_OF.items() if kind in settings.limits.source_types]
    if not allowed:
        return seconds, failures
    # PNG is the fallback for transparency, also if it is not in encoders.order.
    for fmt in dict.fromkeys((*settings.encoders.order, Format.PNG)):
        began = time.monotonic()
        # Opened for each job: a descriptor that workers share has one position.
        sample = os.open(_SAMPLES / allowed[0], os.O_RDONLY | os.O_CLOEXEC)
        if reason := await _render(settings, pool, fmt, sample):
            failures[fmt] = reason
        else:
            seconds[fmt] = time.monotonic() - began
    return seconds, failures


async def _text_refusal(settings: Settings, pool: WorkerPool) -> str:
    """Return why an SVG with text is not rendered; empty if it is."""
    sample = os.memfd_create("sample")
    os.write(sample, _TEXT)
    return await _render(settings, pool, Format.PNG, sample)


async def _render(settings: Settings, pool: WorkerPool, fmt: Format, sample: int) -> str:
    """Render a sample and close it; return why that failed, or an empty string."""
    profile = settings.encoders.profiles()[fmt]
    output = RenderOutput(Geometry(_SIDE, _SIDE, _SIDE, _SIDE), profile)
    job = RenditionSet(settings.limits.to_limits(), (output,))
    try:
        await pool.run(job, sample, lambda _: None)
    except SmartserveError as error:
        return reason_of(error)
    finally:
        os.close(sample)
    return ""


def judge_renders(
    start_s: float, render_s: Mapping[Format, float], failures: Mapping[Format, str]
) -> Finding:
    """Report output formats that cannot be rendered, or that take long."""
    if failures:
        text = "; ".join(f"{fmt}: {why}" for fmt, why in failures.items())
        return fail(text, f"install the versions in requirements.lock; {_CHECK_CONFIG}")
    if not render_s:
        return skip("limits.source_types allows neither JPEG nor PNG")
    times = ", ".join(f"{fmt} {as_time(spent)}" for fmt, spent in render_s.items())
    text = f"started in {as_time(start_s)}; {_SIDE} pixels as {times}"
    # The first render of a process loads code; it takes 20 to 300 ms on an idle machine.
    slow = max(render_s.values()) > _SLOW_S
    return warn(text, "the machine is busy or short of memory: see top", when=slow)


def judge_sandbox(settings: Settings, info: WorkerInfo, gaps: Mapping[str, str]) -> Finding:
    """Report sandbox features that are not in force: ``gaps`` has the reasons."""
    if not settings.workers.sandbox:
        advice = "set workers.sandbox = true: workers decode files from untrusted users"
        return warn("workers.sandbox = false", advice)
    text = "; ".join(f"{feature}: {why}" for feature, why in gaps.items())
    advice = (
        "landlock needs Linux 5.13 and a container runtime that permits it; seccomp needs"
        " libseccomp2 (apt-get install libseccomp2); user needs workers.uid other than root's"
    )
    return warn(text or ", ".join(info.sandbox), advice, when=bool(gaps))


def judge_formats(settings: Settings, info: WorkerInfo) -> Finding:
    """Report source types that the settings allow and no decoder loads."""
    allowed = settings.limits.source_types
    absent = [kind for kind in allowed if kind not in info.source_types]
    text = f"loads {', '.join(kind for kind in allowed if kind not in absent)}"
    if absent:
        text = f"{text}; not {', '.join(absent)}"
    advice = "install pyvips[binary] (requirements.lock), or remove them from limits.source_types"
    # The optional ones are allowed by default, for installations that have them.
    return fail(text, advice, when=not set(absent) <= _OPTIONAL)


def judge_fonts(refused: str | None) -> Finding:
    """Report that SVGs with text are refused; None stands for no SVGs at all."""
    if refused is None:
        return skip("SVGs are not rendered")
    advice = (
        "install smartserve[svg], or fonts of the system with workers.system_fonts = true; until"
        " then SVGs with text are refused"
    )
    return warn(refused or "draws the text of SVGs", advice, when=bool(refused))
