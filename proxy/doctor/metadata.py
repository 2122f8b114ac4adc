"""Checks of metadata extraction: the engines are started, and extract the metadata of a sample."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import proxy
from proxy.doctor.check import (
    Finding,
    Findings,
    area,
    as_bytes,
    as_time,
    fail,
    ok,
    reason_of,
    skip,
    warn,
)
from proxy.doctor.installation import Installation
from proxy.domain.errors import ConfigurationError, SmartserveError
from proxy.metadata.extraction import Extraction
from proxy.metadata.local_file import MAX_BYTES, extract_file
from proxy.metadata.service import MetadataService
from proxy.settings import Settings

_SAMPLE = Path(proxy.__file__).parent / "samples" / "kodak-23.jpg"


@area("metadata engine", "metadata sandbox", "metadata folder")
async def check_metadata(installation: Installation) -> Findings:
    """Start one process of each kind, and extract the metadata of a sample."""
    settings = installation.settings
    if not settings.metadata.enabled:
        yield skip("metadata.enabled = false")
        return
    began = time.monotonic()
    try:
        async with installation.metadata() as service:
            start_s = time.monotonic() - began
            found: Extraction | str
            try:
                found = await extract_file(service, _SAMPLE)
            except SmartserveError as error:
                found = reason_of(error)
            yield judge_engine(settings, service, found, start_s=start_s)
            yield judge_sandbox(settings, service.gaps)
            free = shutil.disk_usage(service.folder).free
    except ConfigurationError as error:
        # The folder is unfit, or no process of Python came up.
        advice = "correct the setting; 'smartserve metadata extract FILE' prints the details"
        yield fail("; ".join(error.faults), advice)
        return
    yield judge_folder(settings, free)


def judge_engine(
    settings: Settings, service: MetadataService, found: Extraction | str, *, start_s: float
) -> Finding:
    """Report an engine that is missing or does not work; ``found`` is an extraction or an error."""
    if isinstance(found, str):
        return fail(found, "see the output of 'smartserve metadata extract FILE'")
    versions = service.versions
    c2pa = versions["c2pa"] or "not installed"
    text = f"Pillow {versions['pillow']}, c2pa {c2pa}, started in {as_time(start_s)}"
    if settings.metadata.engine == "pillow":
        return ok(f'{text}; metadata.engine = "pillow"')
    if service.missing:
        return warn(f"{service.missing}; {text}", "without exiftool the fallback reads EXIF only")
    text = f"exiftool {versions['exiftool']}, {text}"
    if found.processing_insights["fallback_extraction"]:
        return fail(f"exiftool cannot read the sample; {text}", "see the server's log")
    return ok(text)


def judge_sandbox(settings: Settings, gaps: Mapping[str, str]) -> Finding:
    """Report sandbox features that do not confine the processes."""
    if not settings.workers.sandbox:
        advice = "set workers.sandbox = true: the processes read files from untrusted users"
        return warn("workers.sandbox = false", advice)
    text = "; ".join(f"{feature}: {why}" for feature, why in gaps.items())
    advice = "see the check 'worker sandbox'"
    return warn(text or "all features are in force", advice, when=bool(gaps))


def judge_folder(settings: Settings, free_bytes: int) -> Finding:
    """Report a folder without room for one file of the largest size."""
    text = f"{settings.metadata.temp_root}, {as_bytes(free_bytes)} free"
    advice = f"files of up to {as_bytes(MAX_BYTES)} are stored there while they are read"
    return warn(text, advice, when=free_bytes < MAX_BYTES)
