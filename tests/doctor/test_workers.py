"""A real worker, started and asked to render; and what is told of one that is not as it should."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from proxy.app.services import one_worker
from proxy.doctor import Verdict, looked
from proxy.doctor.table import WORKERS
from proxy.doctor.workers import WorkerFacts, look
from proxy.domain.errors import ConfigurationError
from proxy.domain.formats import Format
from proxy.domain.worker_protocol import WorkerInfo
from proxy.rendering.pool.pool import WorkerPool
from proxy.settings import Settings
from tests.doctor.conftest import Diagnoses, diagnoses
from tests.support.server import make_settings


async def seen_of(settings: Settings) -> WorkerFacts:
    return await look(settings, partial(one_worker, settings))


def unwell(found: Diagnoses) -> list[str]:
    return [name for name, one in found.items() if one.verdict in (Verdict.WARN, Verdict.FAIL)]


async def test_a_worker_that_is_well_renders_all_that_goes_out(settings: Settings) -> None:
    seen = await seen_of(settings)
    found = diagnoses(WORKERS, seen)
    assert set(seen.renders) == {Format.AVIF, Format.WEBP, Format.JPEG, Format.PNG}
    assert found["worker"].verdict is not Verdict.FAIL
    assert {"seccomp", "landlock", "rlimits"} <= set(seen.hello.sandbox)
    assert "not heic, bmp" in found["worker formats"].seen
    assert found["worker formats"].verdict is Verdict.OK
    assert "libvips" in found["versions"].seen


async def test_a_sample_of_a_type_that_is_let_in_is_taken(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, workers={"count": 1}, limits={"source_types": ["jpeg"]})
    assert not (await seen_of(settings)).failures


async def test_where_neither_type_is_let_in_nothing_is_rendered(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, workers={"count": 1}, limits={"source_types": ["webp"]})
    assert diagnoses(WORKERS, await seen_of(settings))["worker"].verdict is Verdict.SKIPPED


async def test_a_worker_that_is_not_locked_in_is_told(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, workers={"count": 1, "sandbox": False})
    found = diagnoses(WORKERS, await seen_of(settings))
    assert unwell(found) == ["worker sandbox"]
    assert "set workers.sandbox = true" in found["worker sandbox"].advice


async def test_a_picture_type_that_libvips_has_not_is_told(settings: Settings) -> None:
    seen = replace(await seen_of(settings), wanted=("jpeg", "tiff", "jxl"))
    found = diagnoses(WORKERS, seen)["worker formats"]
    assert (found.verdict, "not jxl" in found.seen) == (Verdict.FAIL, True)
    assert "pyvips[binary]" in found.advice


class NoWorkers:
    """Workers that do not come up."""

    def __call__(self) -> AbstractAsyncContextManager[WorkerPool]:
        raise ConfigurationError(["workers: no process came up; the log has what it printed"])


async def test_workers_that_do_not_come_up_are_told(settings: Settings) -> None:
    found = diagnoses(WORKERS, await looked(look(settings, NoWorkers())))
    assert found["worker"].verdict is Verdict.FAIL
    assert "no process came up" in found["worker"].seen
    assert "smartserve check-config" in found["worker"].advice
    assert found["versions"].verdict is Verdict.SKIPPED


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
async def test_a_sandbox_that_is_required_and_has_a_gap_is_told(tmp_path: Path) -> None:
    section = {"count": 1, "require_sandbox": True, "uid": 0}
    found = diagnoses(WORKERS, await looked(seen_of(make_settings(tmp_path, workers=section))))
    assert found["worker"].verdict is Verdict.FAIL
    assert "require_sandbox is set, but the sandbox is incomplete: user" in found["worker"].seen


SOUND = WorkerFacts(
    hello=WorkerInfo("8.18.7", ("jpeg",), {"pyvips": "3.2.0"}, {"seccomp": "on"}),
    gaps={},
    sandbox=True,
    wanted=("jpeg",),
    start_s=0.1,
    renders={Format.AVIF: 0.02},
    failures={},
    fault="",
)


@pytest.mark.parametrize(
    ("seen", "check", "verdict", "advice"),
    [
        (replace(SOUND, gaps={"seccomp": "no library"}), "worker sandbox", "warn", "libseccomp2"),
        (replace(SOUND, renders={Format.AVIF: 4.0}), "worker", "warn", "busy"),
        (replace(SOUND, failures={Format.AVIF: "no saver"}), "worker", "fail", "requirements.lock"),
        (replace(SOUND, fault="libvips: 8.1 is below"), "versions", "fail", "requirements.lock"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(
    seen: WorkerFacts, check: str, verdict: str, advice: str
) -> None:
    found = diagnoses(WORKERS, seen)
    assert unwell(found) == [check]
    assert (found[check].verdict, advice in found[check].advice) == (verdict, True)
