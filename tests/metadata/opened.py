"""The service with real processes, and the extraction of bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from proxy.metadata.extraction import Extraction, ExtractOptions
from proxy.metadata.service import ExtractionTelemetry, MetadataService
from proxy.metadata.start import open_metadata
from proxy.settings import MetadataSettings, WorkerSettings

LONG_S = 600.0


@asynccontextmanager
async def service_of(
    root: Path,
    *,
    environment: dict[str, str] | None = None,
    telemetry: ExtractionTelemetry | None = None,
    **settings: Any,
) -> AsyncIterator[MetadataService]:
    values = {"temp_root": str(root / "metaextract"), "engines": 1, "timeout_s": LONG_S}
    own = MetadataSettings.model_validate({"nice": 0, **values, **settings})
    opening = open_metadata(
        own, WorkerSettings(), environment=environment or {}, telemetry=telemetry
    )
    async with opening as service:
        yield service


async def extract(
    service: MetadataService, content: bytes, name: str = "a.jpg", **options: Any
) -> Extraction:
    with service.new_file(max_bytes=10**9) as file:
        await file.write(content)
        await file.finish()
        return await service.extract(file, ExtractOptions(name, **options))
