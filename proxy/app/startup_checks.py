"""Checks before a start: exposure without keys, versions, missing packages and folders."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.version import InvalidVersion, Version

from proxy.app.object_storage import object_storage_faults
from proxy.domain.errors import ConfigurationError
from proxy.domain.worker_protocol import WorkerInfo
from proxy.settings import Settings, TracingSettings, access_faults
from proxy.telemetry.tracing import Tracing, open_tracing

FLOORS = {"aiohttp": "3.14.4", "aiomysql": "0.3.2", "libvips": "8.18.7", "pyvips": "3.2"}
"""The oldest versions of dependencies that are safe to serve with."""
_OWN_PACKAGES = ("aiohttp", "aiomysql")
"""Packages with a minimum version that run in the server process."""
_EXPORTER = "opentelemetry.exporter.otlp.proto.http"
"""Its package requires the SDK."""


def check_start(settings: Settings) -> None:
    """Return if the server may listen with these settings.

    Raises:
        ConfigurationError: a route without a key is reachable by others, or a package of the server
            is older than its minimum version.
    """
    if faults := [*access_faults(settings), *_package_faults(), *tracing_faults(settings.tracing)]:
        raise ConfigurationError(faults)


def tracing_faults(section: TracingSettings) -> list[str]:
    """Return a sentence if tracing is enabled and OpenTelemetry is not installed."""
    try:
        # Looked up without importing it, which takes 0.2 s.
        missing = section.enabled and find_spec(_EXPORTER) is None
    except ModuleNotFoundError:
        # find_spec imports the parent package, which may be missing as well.
        missing = True
    advice = "tracing.enabled: OpenTelemetry is not installed; pip install 'smartserve[otel]'"
    return [advice] if missing else []


def start_tracing(section: TracingSettings) -> AbstractAsyncContextManager[Tracing]:
    """Return a context manager that records spans; see `open_tracing`.

    Raises:
        ConfigurationError: tracing is enabled, and OpenTelemetry's SDK is not installed.
    """
    if faults := tracing_faults(section):
        raise ConfigurationError(faults)
    return open_tracing(section)


def _package_faults() -> list[str]:
    return floor_faults({name: metadata.version(name) for name in _OWN_PACKAGES})


def floor_faults(found: Mapping[str, str]) -> list[str]:
    """Return a sentence for each version below its minimum; names without one are ignored."""
    return [
        f"{name}: {version or 'an unknown version'} is below {FLOORS[name]}, the oldest version"
        " that is safe; install what requirements.lock names"
        for name, version in found.items()
        if name in FLOORS and not at_least(version, FLOORS[name])
    ]


def at_least(version: str, floor: str) -> bool:
    """Return whether a version is ``floor`` or later (PEP 440); False if it cannot be parsed."""
    # Not compared as text: "3.14" is later than "3.9".
    try:
        return Version(version) >= Version(floor)
    except InvalidVersion:
        return False


def check_worker(hello: WorkerInfo) -> None:
    """Return if the worker's libvips is recent enough to decode untrusted images.

    Raises:
        ConfigurationError: libvips or pyvips is older than its minimum version.
    """
    if faults := floor_faults({"libvips": hello.libvips, **hello.codecs}):
        raise ConfigurationError(faults)


def installation_faults(settings: Settings) -> list[str]:
    """Return a sentence for each setting that this machine does not satisfy."""
    # Imported here: `serve` checks its settings before it imports the database and HTTP clients.
    from proxy.analysis.providers.factory import provider_faults  # noqa: PLC0415
    from proxy.storage.database.engine import parse_url  # noqa: PLC0415
    from proxy.storage.database.mysql_tls import split_tls  # noqa: PLC0415

    faults = [*access_faults(settings), *_package_faults()]
    urls = {"database.url": settings.database_url, "main.url": settings.main.url}
    for setting, url in urls.items():
        # An empty main.url means the media database, which is checked already.
        try:
            if url:
                split_tls(parse_url(url, setting=setting), setting=setting)
        except ConfigurationError as error:
            faults.extend(error.faults)
    for key, named in (
        ("storage.root", settings.storage.root),
        ("renditions.directory", settings.renditions.directory),
        ("main.temp_root", settings.main.temp_root),
    ):
        # A folder without a setting is below the data directory, and is created at the start.
        if named and not Path(named).is_dir():
            faults.append(f"{key}: {named} is not a folder on this machine")
    faults += [*provider_faults(settings.vision), *tracing_faults(settings.tracing)]
    return [*faults, *object_storage_faults(settings.s3)]
