"""Checks of a worker that is started for them, and of one that does not start."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from proxy.doctor.check import Verdict
from proxy.doctor.workers import judge_fonts, judge_formats, judge_renders, judge_sandbox
from proxy.domain.errors import ConfigurationError
from proxy.domain.formats import Format
from proxy.domain.worker_protocol import WorkerInfo
from proxy.rendering.pool.pool import WorkerPool
from proxy.settings import Settings
from tests.doctor.conftest import problems, run_area
from tests.support.server import make_settings


async def test_a_sound_worker_renders_every_output_format(settings: Settings) -> None:
    found = await run_area("worker", settings)
    # A busy machine may be slow.
    assert found["worker"].verdict is not Verdict.FAIL
    for fmt in (Format.AVIF, Format.WEBP, Format.JPEG, Format.PNG):
        assert f"{fmt} " in found["worker"].seen
    assert {"seccomp", "landlock", "rlimits"} <= set(found["worker sandbox"].seen.split(", "))
    assert re.search("bmp, ico, jp2, (jxl, )?svg(; not .*)?$", found["worker formats"].seen)
    assert found["worker formats"].verdict is Verdict.OK
    assert (found["worker fonts"].verdict, found["worker fonts"].seen) == (
        Verdict.OK,
        "draws the text of SVGs",
    )


def test_a_worker_without_fonts_warns() -> None:
    found = judge_fonts("the server has no fonts (the extra svg is not installed)")
    assert (found.verdict, found.seen) == (
        Verdict.WARN,
        "the server has no fonts (the extra svg is not installed)",
    )
    assert "smartserve[svg]" in found.advice


async def test_without_svgs_no_text_is_drawn(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, limits={"source_types": ["jpeg"]})
    assert (await run_area("worker", settings))["worker fonts"].verdict is Verdict.SKIPPED


async def test_the_sample_is_of_a_type_that_the_settings_allow(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, limits={"source_types": ["jpeg"]})
    assert "worker" not in {
        name
        for name, verdict in problems(await run_area("worker", settings)).items()
        if verdict is Verdict.FAIL
    }


async def test_a_worker_that_does_not_start_fails(settings: Settings) -> None:
    def none() -> AbstractAsyncContextManager[WorkerPool]:
        raise ConfigurationError(["workers: no process started; see the log"])

    found = await run_area("worker", settings, worker=none)
    assert problems(found) == {"worker": Verdict.FAIL}
    assert "no process started" in found["worker"].seen
    assert "check-config" in found["worker"].advice


@pytest.fixture
def info() -> WorkerInfo:
    """A worker that loads three types."""
    return WorkerInfo(
        libvips="8.18.7",
        codecs={},
        source_types=("jpeg", "png", "webp"),
        sandbox={"seccomp": "in force"},
    )


def test_a_slow_render_warns() -> None:
    found = judge_renders(0.1, {Format.AVIF: 3.0}, {})
    assert (found.verdict, "avif 3 s" in found.seen) == (Verdict.WARN, True)


def test_a_format_that_cannot_be_rendered_fails() -> None:
    found = judge_renders(0.1, {Format.JPEG: 0.01}, {Format.AVIF: "no encoder"})
    assert (found.verdict, found.seen) == (Verdict.FAIL, "avif: no encoder")
    assert "requirements.lock" in found.advice


def test_without_a_sample_nothing_is_rendered() -> None:
    assert judge_renders(0.1, {}, {}).verdict is Verdict.SKIPPED


def test_a_disabled_sandbox_warns(tmp_path: Path, info: WorkerInfo) -> None:
    settings = make_settings(tmp_path, workers={"sandbox": False})
    found = judge_sandbox(settings, info, {})
    assert (found.verdict, "set workers.sandbox = true" in found.advice) == (Verdict.WARN, True)


def test_a_sandbox_feature_that_is_not_in_force_warns(settings: Settings, info: WorkerInfo) -> None:
    found = judge_sandbox(settings, info, {"landlock": "not in this kernel"})
    assert (found.verdict, found.seen) == (Verdict.WARN, "landlock: not in this kernel")
    assert "Linux 5.13" in found.advice


def test_a_type_that_libvips_cannot_load_fails(tmp_path: Path, info: WorkerInfo) -> None:
    settings = make_settings(tmp_path, limits={"source_types": ["jpeg", "tiff"]})
    found = judge_formats(settings, info)
    assert (found.verdict, found.seen) == (Verdict.FAIL, "loads jpeg; not tiff")
    assert "pyvips[binary]" in found.advice
