"""The sandbox from inside a worker: what a hostile file could do once it had taken it over."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest

from proxy.domain.worker_protocol import HOLDS
from proxy.rendering.pool.process import WorkerStartOptions
from proxy.rendering.worker.sandbox import FEATURES
from proxy.settings import LimitSettings
from tests.rendering.worker.sandbox.inside import ATTEMPTS
from tests.support.server import ROOT

MIB = 1024 * 1024
ORDERS = asdict(
    WorkerStartOptions(
        source_types=LimitSettings().source_types,
        max_memory_bytes=1536 * MIB,
        max_cpu_s=30,
        sandbox=True,
        uid=65534,
        nice=0,
        idle=False,
    )
)
NEEDED = ("map memory", "start a thread", "read the clock")
FORBIDDEN = [name for name in ATTEMPTS if name not in NEEDED]
OF_FILES = ("read a file", "write a file", "list a directory", "remove a file")


def inside(orders: Mapping[str, Any], *before: str) -> Any:
    """What a process says that has got ready as a worker does."""
    secret = {"SMARTSERVE_DATABASE__URL": "mysql+aiomysql://root:secret@db/x"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.rendering.worker.sandbox.inside",
                json.dumps(orders),
                *before,
            ],
            cwd=folder,
            env={**secret, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def locked() -> Any:
    """A worker with all of the sandbox."""
    return inside(ORDERS)


def test_every_feature_holds_here(locked: Any) -> None:
    assert locked["hello"]["sandbox"] == dict.fromkeys(FEATURES, HOLDS)


@pytest.mark.parametrize("attempt", FORBIDDEN)
def test_a_worker_cannot(attempt: str, locked: Any) -> None:
    assert locked["attempts"][attempt] == "EPERM"


@pytest.mark.parametrize("attempt", NEEDED)
def test_a_worker_can(attempt: str, locked: Any) -> None:
    assert locked["attempts"][attempt] == "done"


def test_all_of_it_can_be_done_outside() -> None:
    """What shows above is the sandbox, and no want of rights of the tests themselves."""
    outside = inside({**ORDERS, "sandbox": False})
    may = {name for name, outcome in outside["attempts"].items() if outcome != "EPERM"}
    assert may >= {*NEEDED, "read a file", "write a file", "open a TCP socket", "signal the server"}
    assert set(outside["hello"]["sandbox"].values()) == {"switched off by workers.sandbox"}


def test_every_codec_is_there_all_the_same(locked: Any) -> None:
    outside = inside({**ORDERS, "sandbox": False})
    assert locked["hello"]["source_types"] == outside["hello"]["source_types"]
    assert {"jpeg", "png", "webp", "avif", "gif"} <= set(locked["hello"]["source_types"])


def test_nothing_is_left_of_the_environment(locked: Any) -> None:
    assert locked["environment"] == {}


@pytest.mark.parametrize(
    ("orders", "code"),
    [
        ({"confined-only": {"uid": 65534, "max_memory_bytes": 512 * MIB}}, "EACCES"),
        ({"sealed-only": True}, "EPERM"),
    ],
    ids=["Landlock", "seccomp"],
)
def test_each_of_two_walls_keeps_files_away_alone(orders: Mapping[str, Any], code: str) -> None:
    told = inside(orders)
    assert {told["attempts"][name] for name in OF_FILES} <= {code, "ENOENT"}
    assert told["attempts"]["read a file"] == code


def test_a_kernel_without_landlock_is_told_and_the_rest_holds() -> None:
    told = inside(ORDERS, "no-landlock")
    states = told["hello"]["sandbox"]
    assert states.pop("landlock") == "Function not implemented"
    assert set(states.values()) == {HOLDS}
    assert told["attempts"]["read a file"] == "EPERM"


def test_a_machine_without_libseccomp_is_told_and_the_rest_holds() -> None:
    told = inside(ORDERS, "no-libseccomp")
    states = told["hello"]["sandbox"]
    assert "pyseccomp" in states.pop("seccomp")
    assert set(states.values()) == {HOLDS}
    assert told["attempts"]["read a file"] == "EACCES"


def test_a_worker_whose_loaders_leak_is_not_fit() -> None:
    told = inside(ORDERS, "leaky-loaders")
    assert "loaders stay open that should be blocked" in told["unfit"]
    assert "matrixload" in told["unfit"]


def test_workers_that_are_to_stay_root_are_told_of() -> None:
    states = inside({**ORDERS, "uid": 0})["hello"]["sandbox"]
    assert states.pop("user") == "workers.uid is 0, so the workers remain root"
    assert set(states.values()) == {HOLDS}
