"""Settings of metadata extraction."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from proxy.settings import MetadataSettings, WorkerSettings, callback_key


def test_the_processes_have_the_sandbox_of_the_workers_and_limits_of_their_own() -> None:
    workers = WorkerSettings(count=7, uid=4711, sandbox=False, deadline_s=1)
    own = MetadataSettings(engines=2, queue=5, engine_timeout_s=9).worker_settings(workers)
    assert (own.uid, own.sandbox) == (4711, False)
    assert (own.count, own.max_queue, own.deadline_s) == (2, 5, 9)


@pytest.mark.parametrize("nice", [0, 7])
def test_the_priority_of_the_processes_is_a_setting(nice: int) -> None:
    own = MetadataSettings(nice=nice).worker_settings(WorkerSettings(nice=5))
    assert (own.nice, MetadataSettings().worker_settings(WorkerSettings()).nice) == (nice, 19)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"engine": "exif"}, {"engines": -1}, {"timeout_s": 0}),
        *({"default_tier": "gold"}, {"anonymous": "maybe"}, {"max_bytes_free": 0}),
        {"max_bytes_professional": 1024},
        {"max_bytes_enterprise": 2**40},
        *({"concurrency": 0}, {"job_lease_s": 0}, {"job_attempts": 0}, {"max_jobs": 0}),
        *({"cache_rows": 0}, {"cache_ttl_s": -1}, {"callback_key": "short"}),
        {"callback_key": "k" * 32, "callback_key_file": "/run/key"},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MetadataSettings.model_validate(wrong)


@pytest.mark.parametrize(
    "host",
    ["hooks.example.org", "hooks.example.org:8443", "xn--bcher-kva.example", "[2606:4700::1]:444"],
)
def test_a_callback_host_has_a_name_and_perhaps_a_port(host: str) -> None:
    assert MetadataSettings(callback_hosts=(host,)).callback_hosts == (host,)


@pytest.mark.parametrize(
    "host",
    [
        *("", "*", "*.example.org", "https://hooks.example.org", "hooks.example.org/path"),
        *("Hooks.example.org", "bücher.example", "user@hooks.example.org", "hooks.example.org:0"),
    ],
)
def test_anything_else_is_no_callback_host(host: str) -> None:
    with pytest.raises(ValidationError):
        MetadataSettings(callback_hosts=(host,))


def test_the_key_of_callbacks_is_generated_once_unless_one_is_set(tmp_path: Path) -> None:
    first = callback_key(MetadataSettings(), tmp_path)
    assert callback_key(MetadataSettings(), tmp_path) == first
    own = MetadataSettings(callback_key="k" * 32)
    assert callback_key(own, tmp_path) == "k" * 32
    assert "k" * 32 not in repr(own)
