"""Engines that extract nothing, for tests of what is around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from proxy.metadata.extraction import Extraction, ExtractOptions, Progress
from proxy.metadata.extractor import Extractor
from proxy.metadata.service import MetadataService
from proxy.metadata.temp_folder import ReceivedFile, TempFolder
from proxy.settings import MetadataSettings

JPEG = b"\xff\xd8\xff\xe0" + bytes(100)
BMP = b"BM" + bytes(12) + (40).to_bytes(4, "little") + bytes(84)
LONG_S = 600.0


def result(*, fallback: bool = False) -> Extraction:
    metadata: dict[str, Any] = {
        "groups": {"IFD0": {"Make": "Canon"}, "Canon": {"SerialNumber": 7}},
        "text": [],
        "c2pa": None,
        "withheld": None,
    }
    insights = {"fallback_extraction": fallback, "cached": False, "queued_ms": 3.0}
    return Extraction(metadata, {}, insights)


class Engines:
    """Stands for the service: counts extractions, and runs ``work`` for each."""

    def __init__(self, folder: TempFolder) -> None:
        self.folder = folder
        self.missing = ""
        self.extracted = self.late = 0
        self.found = result()
        self.work: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0)

    def new_file(self, *, max_bytes: int) -> ReceivedFile:
        return self.folder.new_file(max_bytes=max_bytes)

    def variant(self, options: ExtractOptions) -> str:
        return f"{options.advanced}"

    async def extract(
        self, _file: ReceivedFile, _options: ExtractOptions, *, progress: Progress
    ) -> Extraction:
        self.extracted += 1
        await self.work()
        progress(100, "complete")
        return self.found

    def count_timeout(self, _file: ReceivedFile) -> None:
        self.late += 1

    def statistics(self) -> dict[str, float]:
        return {"engines_up": 1}


class Opener:
    """Opens `Engines`, or fails with the first of ``faults``."""

    def __init__(self, engines: Engines) -> None:
        self.engines = engines
        self.faults: list[Exception] = []
        self.opened = self.closed = 0

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[MetadataService]:
        await asyncio.sleep(0)
        if self.faults:
            raise self.faults.pop()
        self.opened += 1
        yield cast("MetadataService", self.engines)
        self.closed += 1


def extractor_of(engines: Engines, **options: Any) -> Extractor:
    values = {"timeout_s": LONG_S, **options.pop("settings", {})}
    opener = options.pop("opener", None) or Opener(engines)
    settings = MetadataSettings.model_validate(values)
    return Extractor(settings, opener, processes=options.pop("processes", 2), **options)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
