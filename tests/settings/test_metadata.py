"""Settings of metadata extraction."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from proxy.settings import MetadataSettings, WorkerSettings


def test_the_processes_have_the_sandbox_of_the_workers_and_limits_of_their_own() -> None:
    workers = WorkerSettings(count=7, uid=4711, sandbox=False, deadline_s=1)
    own = MetadataSettings(engines=2, queue=5, engine_timeout_s=9).worker_settings(workers)
    assert (own.uid, own.sandbox) == (4711, False)
    assert (own.count, own.max_queue, own.deadline_s) == (2, 5, 9)


def test_the_processes_have_the_lowest_priority() -> None:
    assert MetadataSettings().worker_settings(WorkerSettings()).nice == 19


@pytest.mark.parametrize(
    "wrong",
    [
        *({"engine": "exif"}, {"engines": -1}, {"timeout_s": 0}),
        *({"default_tier": "gold"}, {"anonymous": "maybe"}, {"max_bytes_free": 0}),
        {"max_bytes_professional": 1024},
        {"max_bytes_enterprise": 2**40},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MetadataSettings.model_validate(wrong)
