"""Workers have no capabilities and an unprivileged user."""

from __future__ import annotations

import os

import pytest

from proxy.domain.worker_protocol import HOLDS
from tests.rendering.worker.sandbox.processes import OPTIONS, inside, threads
from tests.support.server import Serving


@pytest.mark.skipif(os.geteuid() != 0, reason="workers of another user are not root")
def test_workers_that_remain_root_are_reported() -> None:
    states = inside({**OPTIONS, "uid": 0})["hello"]["sandbox"]
    assert states.pop("user") == "workers.uid is 0, so the workers remain root"
    assert set(states.values()) == {HOLDS}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_workers_of_root_change_to_an_unprivileged_user(server: Serving) -> None:
    for pid in server.services.rendering.pool.pids:
        for status in threads(pid):
            assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65534"}
            assert status["Groups"] == ""
            assert int(status["CapBnd"], 16) == 0
