"""Starting: what has to hold before anything is opened, each fault told as a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from proxy.analysis.providers.factory import provider_faults
from proxy.domain.errors import ConfigurationError
from proxy.domain.worker_protocol import WorkerInfo
from proxy.runtime.min_versions import FLOORS, floor_faults
from proxy.settings import Settings, TracingSettings, access_faults
from proxy.storage.database.engine import check_url
from proxy.telemetry.tracing import Tracing, open_tracing

_OWN_PACKAGES = ("aiohttp", "aiomysql")
"""Those with a floor that run in the server itself."""
_FOR_TRACES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")


def check_start(settings: Settings) -> None:
    """Return where the server may listen with these settings.

    Raises:
        ConfigurationError: strangers could reach what has no key, or the server's own packages are
            below their floors.
    """
    if faults := [*access_faults(settings), *_package_faults(), *tracing_faults(settings.tracing)]:
        raise ConfigurationError(faults)


def tracing_faults(section: TracingSettings) -> list[str]:
    """That traces are switched on and what they need is not installed, as a sentence."""
    if not section.enabled or all(map(_is_there, _FOR_TRACES)):
        return []
    return ["tracing.enabled: OpenTelemetry is not installed; pip install 'smartserve[otel]'"]


def start_tracing(section: TracingSettings) -> AbstractAsyncContextManager[Tracing]:
    """Return a context manager that records spans; see `open_tracing`.

    Raises:
        ConfigurationError: tracing is enabled, and OpenTelemetry's SDK is not installed.
    """
    if faults := tracing_faults(section):
        raise ConfigurationError(faults)
    return open_tracing(section)


def _is_there(module: str) -> bool:
    """Whether a module could be imported; it is not."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _package_faults() -> list[str]:
    return floor_faults({name: metadata.version(name) for name in _OWN_PACKAGES})


def check_worker(hello: WorkerInfo, floors: Mapping[str, str] = FLOORS) -> None:
    """Return for a worker whose libvips is safe to decode strangers' pictures with.

    Raises:
        ConfigurationError: it, or pyvips, is below its floor.
    """
    if faults := floor_faults({"libvips": hello.libvips, **hello.codecs}, floors):
        raise ConfigurationError(faults)


def installation_faults(settings: Settings) -> list[str]:
    """What the settings name and this machine does not have, each as a sentence."""
    faults = [*access_faults(settings), *_package_faults()]
    urls = {"database.url": settings.database_url, "main.url": settings.main.url}
    for setting, url in urls.items():
        try:
            if url:
                check_url(url, setting=setting)
        except ConfigurationError as error:
            faults.extend(error.faults)
    for key, named in (
        ("storage.root", settings.storage.root),
        ("renditions.directory", settings.renditions.directory),
        ("main.temp_root", settings.main.temp_root),
    ):
        if named and not Path(named).is_dir():
            faults.append(f"{key}: {named} is not a folder on this machine")
    return [*faults, *provider_faults(settings.vision), *tracing_faults(settings.tracing)]
