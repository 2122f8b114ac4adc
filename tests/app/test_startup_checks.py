"""Checks before a start."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from proxy.app.startup_checks import (
    FLOORS,
    at_least,
    check_start,
    check_worker,
    floor_faults,
    installation_faults,
    start_tracing,
    tracing_faults,
)
from proxy.domain.errors import ConfigurationError
from proxy.domain.worker_protocol import WorkerInfo
from proxy.settings import TracingSettings
from proxy.telemetry.tracing import OFF
from tests.support.server import make_settings


@pytest.mark.parametrize(
    ("libvips", "codecs", "reason"),
    [
        ("8.18.6", {"pyvips": "3.2.0"}, "libvips: 8.18.6 is below 8.18.7"),
        ("8.18.7-rc1", {"pyvips": "3.2.0"}, "libvips: 8.18.7-rc1 is below"),
        ("8.19.0", {"pyvips": "3.1.1"}, "pyvips: 3.1.1 is below 3.2"),
    ],
)
def test_a_worker_below_a_floor_is_refused(
    libvips: str, codecs: dict[str, str], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        check_worker(WorkerInfo(libvips, ("jpeg",), codecs))


def test_a_worker_at_the_floors_is_taken() -> None:
    check_worker(WorkerInfo("8.18.7", ("jpeg",), {"pyvips": "3.2.0", "libheif": "unknown"}))


@pytest.mark.parametrize(
    ("version", "floor", "enough"),
    [
        ("3.14.4", "3.14.4", True),
        ("3.14.5", "3.14.4", True),
        ("3.14.10", "3.14.4", True),
        ("3.15", "3.14.4", True),
        ("4.0.0a1", "3.14.4", True),
        ("3.14.4.post1", "3.14.4", True),
        ("3.14.4+local.7", "3.14.4", True),
        ("3.14.4-r2", "3.14.4", True),
        ("v3.14.4", "3.14.4", True),
        ("3.2", "3.2.0", True),
        ("3.2.0", "3.2", True),
        (" 3.14.4\n", "3.14.4", True),
        ("3.14.3", "3.14.4", False),
        ("3.14", "3.14.4", False),
        ("3.9.9", "3.14.4", False),
        ("3", "3.14.4", False),
        ("3.14.4rc1", "3.14.4", False),
        ("3.14.4.dev3", "3.14.4", False),
        ("3.14.4-beta", "3.14.4", False),
        ("3.14.4b2", "3.14.4", False),
        ("8.9.7", "8.18.7", False),
        ("", "3.14.4", False),
        ("unknown", "3.14.4", False),
        ("latest-9", "3.14.4", False),
    ],
)
def test_versions_are_compared_by_pep_440(version: str, floor: str, *, enough: bool) -> None:
    assert at_least(version, floor) == enough


def test_the_minimum_versions_have_no_known_vulnerability() -> None:
    assert (FLOORS["aiohttp"], FLOORS["libvips"]) == ("3.14.4", "8.18.7")


def test_a_version_below_its_minimum_is_a_sentence_with_advice() -> None:
    found = {"aiohttp": "3.14.3", "libvips": "8.18.7", "aom": "0.1", "aiomysql": ""}
    advice = "the oldest version that is safe; install what requirements.lock names"
    assert floor_faults(found) == [
        f"aiohttp: 3.14.3 is below 3.14.4, {advice}",
        f"aiomysql: an unknown version is below 0.3.2, {advice}",
    ]


def test_the_server_starts_with_its_defaults(tmp_path: Path) -> None:
    check_start(make_settings(tmp_path))


def test_the_server_does_not_start_with_an_old_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "3.14.3" if name == "aiohttp" else installed(name)
    )
    with pytest.raises(ConfigurationError, match=r"aiohttp: 3\.14\.3 is below"):
        check_start(make_settings(tmp_path))


def test_tracing_without_its_packages_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.app.startup_checks.find_spec", lambda _: None)
    assert tracing_faults(TracingSettings(enabled=False)) == []
    (fault,) = tracing_faults(TracingSettings(enabled=True))
    assert "pip install 'smartserve[otel]'" in fault
    with pytest.raises(ConfigurationError, match=r"tracing\.enabled"):
        start_tracing(TracingSettings(enabled=True))


async def test_tracing_that_is_disabled_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.app.startup_checks.find_spec", lambda _: None)
    async with start_tracing(TracingSettings(enabled=False)) as tracing:
        assert tracing is OFF


def test_a_configured_folder_that_is_missing_is_a_fault(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    settings = make_settings(tmp_path / "data", storage={"root": str(missing)})
    assert f"storage.root: {missing} is not a folder on this machine" in installation_faults(
        settings
    )


def test_a_url_that_is_no_database_is_a_fault(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "data", database={"url": "nonsense"})
    assert any(fault.startswith("database.url") for fault in installation_faults(settings))
