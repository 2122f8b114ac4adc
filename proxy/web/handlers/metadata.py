"""Extraction over HTTP: several views of one extraction, which differ in names and fields."""

from __future__ import annotations

import asyncio
import math
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

from proxy.domain.errors import BadParameter, CapacityError, MetadataTooLarge, SmartserveError
from proxy.domain.request import Outcome
from proxy.metadata.extraction import PROGRESS, Extraction, ExtractOptions, Tier
from proxy.metadata.extractor import Extractor
from proxy.metadata.progress import ProgressHub
from proxy.runtime.deferred_json import dumps
from proxy.runtime.single_flight import SharedResults
from proxy.web.handlers.metadata_json import analysis_of
from proxy.web.headers import NO_STORE, PRIVATE
from proxy.web.json_response import json_route
from proxy.web.metadata_input import (
    MAX_BATCH,
    CallerGuard,
    FormReceiver,
    NamedFile,
    RefusedFile,
)
from proxy.web.responses import BufferedResponse, whole
from proxy.web.server.request_pipeline import REQUEST_ID

_Answer = Mapping[str, Any]
_BASIC = (
    *("format", "mime_type", "width", "height", "orientation", "color_space"),
    *("exif", "gps", "ai_generation"),
)
"""Members of the metadata that `images_mvp_extract` also has at the top level."""
_MAX_BATCH_BYTES = 64 * 1024 * 1024
"""Of all results of a batch as JSON, which are in memory until the last one is there."""
_HEALTH_ANSWER_S = 8.0
"""The answer must have arrived within 10 s, also on a busy machine."""
_HEALTH_S = 60.0
_HEALTH_SHARED_S = 5.0


@dataclass(frozen=True, slots=True)
class _Extracted:
    name: str
    byte_size: int
    tier: Tier
    found: Extraction
    request_id: str

    def view(self) -> dict[str, Any]:
        """Return the members of `ExtractAnswer`, and of `AdvancedAnswer` if it was requested."""
        return {
            "success": True,
            "filename": self.name,
            "filesize": self.byte_size,
            "tier": self.tier.value,
            **self.found.to_dict(),
            "request_id": self.request_id,
        }

    def quick(self) -> dict[str, Any]:
        """Return the members of `QuickAnswer`."""
        generation = self.found.metadata["ai_generation"]
        return {
            "success": True,
            "filename": self.name,
            "filesize": self.byte_size,
            "is_ai_generated": generation["source"] != "unknown",
            "ai_generator_type": generation["source"],
            "prompt": generation["prompt"],
            "complete_metadata": self.found.metadata,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataHandler:
    """Handles the synchronous routes of metadata."""

    callers: CallerGuard
    forms: FormReceiver
    extractor: Extractor
    progress: ProgressHub

    @json_route("metadata_analyze", coded=True)
    async def analyze(self, request: web.Request) -> _Answer:
        """Return how an image was generated; without a token where settings allow it."""
        one = await self._extract(request, "analyze", field="image", anonymous=True)
        return {**one.quick(), **analysis_of(one.found.metadata)}

    @json_route("metadata_analyze", coded=True, fault="Analysis failed")
    async def quick_analyze(self, request: web.Request) -> _Answer:
        """Return whether an image was generated; without a token where settings allow it."""
        one = await self._extract(request, "analyze", field="image", anonymous=True)
        return one.quick()

    @json_route("metadata_extract", coded=True)
    async def extract(self, request: web.Request) -> _Answer:
        """Return the metadata of a file."""
        return (await self._extract(request, "extract")).view()

    @json_route("metadata_advanced", coded=True)
    async def extract_advanced(self, request: web.Request) -> _Answer:
        """Return the metadata of a file, and facts for examiners."""
        one = await self._extract(request, "advanced", advanced=True)
        return one.view()

    @json_route("metadata_images_mvp", coded=True)
    async def images_mvp_extract(self, request: web.Request) -> _Answer:
        """Return the metadata of a file, with the basic fields at the top level too."""
        one = await self._extract(request, "images_mvp")
        return {**{name: one.found.metadata[name] for name in _BASIC}, **one.view()}

    @json_route("metadata_batch", coded=True)
    async def extract_batch(self, request: web.Request) -> _Answer:
        """Return the metadata of several files; one that fails does not affect the others."""
        caller = self.callers.caller_of(request)
        request_id = request.get(REQUEST_ID, "")
        receiving = self.forms.receive(request, caller, field="files", max_files=MAX_BATCH)
        async with receiving as form:
            batch = _Batch(self.extractor, caller.user_id, form.tier, request_id)
            results = await asyncio.gather(*map(batch.result, form.files))
        return {
            "success": True,
            "tier": form.tier.value,
            "total": len(results),
            "succeeded": batch.succeeded,
            "failed": len(results) - batch.succeeded,
            "results": results,
        }

    async def _extract(
        self,
        request: web.Request,
        route: str,
        *,
        field: str = "file",
        advanced: bool = False,
        anonymous: bool = False,
    ) -> _Extracted:
        caller = self.callers.caller_of(request, anonymous=anonymous)
        receiving = self.forms.receive(
            request,
            caller,
            field=field,
            texts=("sessionId",),
            advanced=advanced,
            on_refusal=self._report_refusal,
        )
        async with receiving as form:
            one = form.only
            options = ExtractOptions(one.name, one.media_type, advanced=advanced, tier=form.tier)
            with self.progress.reporting(form.texts.get("sessionId")) as report:
                report(PROGRESS["received"], "received")
                self.extractor.check(one.file, options)
                await self.extractor.charge(caller.user_id, route)
                found = await self.extractor.extract(one.file, options, progress=report)
                report.complete(found.quality_metrics)
            request_id = request.get(REQUEST_ID, "")
            return _Extracted(one.name, one.file.byte_size, form.tier, found, request_id)

    def _report_refusal(self, texts: Mapping[str, str], error: SmartserveError) -> None:
        # The client is sent the first error, not that of its session id.
        with suppress(BadParameter), self.progress.reporting(texts.get("sessionId")) as report:
            report.fail(error.detail)


class _Batch:
    """The extractions of one batch. Results are kept as JSON: parsed ones need more memory."""

    def __init__(
        self, extractor: Extractor, user_id: int | None, tier: Tier, request_id: str
    ) -> None:
        self._extractor = extractor
        self._user_id = user_id
        self._tier = tier
        self._request_id = request_id
        # A batch must not fill the queue: others wait behind it.
        self._places = asyncio.Semaphore(extractor.processes)
        self._bytes = 0
        self.succeeded = 0

    async def result(self, one: NamedFile | RefusedFile) -> orjson.Fragment:
        """Return the result of a file as JSON."""
        try:
            if isinstance(one, RefusedFile):
                raise one.error
            async with self._places:
                content = dumps(await self._extract(one))
            self._bytes += len(content)
            if self._bytes > _MAX_BATCH_BYTES:
                raise MetadataTooLarge(
                    f"The results of a batch may have {_MAX_BATCH_BYTES} bytes. Send this file in"
                    " another one."
                )
        except SmartserveError as error:
            content = orjson.dumps(
                {
                    "filename": one.name,
                    "success": False,
                    "error": error.detail,
                    "code": error.code,
                }
            )
        else:
            self.succeeded += 1
        return orjson.Fragment(content)

    async def _extract(self, one: NamedFile) -> _Answer:
        options = ExtractOptions(one.name, one.media_type, tier=self._tier)
        self._extractor.check(one.file, options)
        await self._extractor.charge(self._user_id, "batch")
        found = await self._extractor.extract(one.file, options)
        return _Extracted(one.name, one.file.byte_size, self._tier, found, self._request_id).view()


class MetadataHealthHandler:
    """Handles ``/api/extract/health``: extracts a built-in image."""

    def __init__(
        self,
        extractor: Extractor,
        *,
        answer_s: float = _HEALTH_ANSWER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """After ``answer_s`` a request is answered with what is known until then."""
        self._extractor = extractor
        self._answer_s = answer_s
        self._clock = clock
        self._shared: SharedResults[_Answer] = SharedResults()
        self._known: _Answer = {}
        self._known_until = -math.inf

    async def extract_health(self, _request: web.Request) -> BufferedResponse:
        """Report whether an extraction works now; the result is shared for five seconds."""
        found = await self._result()
        headers = [("Content-Type", "application/json"), ("Cache-Control", NO_STORE), *PRIVATE]
        return whole(
            HTTPStatus.SERVICE_UNAVAILABLE if found["status"] == "unhealthy" else HTTPStatus.OK,
            headers,
            orjson.dumps(found),
            outcome=Outcome("metadata_health"),
        )

    def state(self) -> str:
        """Return ``ok``, or what is wrong; ``idle`` until the engines have started."""
        if self._clock() < self._known_until and self._known["status"] == "unhealthy":
            return "failed"
        service = self._extractor.service
        if service is None:
            return "idle"
        return "only the fallback is available" if self._lacks_exiftool() else "ok"

    def _lacks_exiftool(self) -> bool:
        """Return whether exiftool is wanted and could not be started."""
        service = self._extractor.service
        # An engine that the operator has chosen is no fault.
        return service is not None and bool(service.missing) and self._extractor.uses_exiftool

    async def _result(self) -> _Answer:
        if self._clock() < self._known_until:
            return self._known
        began = self._clock()
        try:
            # The extraction continues, and its result answers later requests: a slow start of the
            # engines would otherwise be cancelled, and never end, at each request.
            async with asyncio.timeout(self._answer_s):
                return await self._shared.result("", self._examine)
        except TimeoutError:
            pass
        # Slow is not unhealthy: whether the extraction fails is known when it has ended.
        fault = f"no result within {self._answer_s:g} s" if self._known else "starting"
        return self._answer({}, fault, began=began, busy=True)

    async def _examine(self) -> _Answer:
        began = self._clock()
        insights: Mapping[str, Any] = {}
        fault, busy = "ok", False
        try:
            async with asyncio.timeout(_HEALTH_S):
                insights = (await self._extract()).processing_insights
        except TimeoutError:
            fault, busy = f"no result within {_HEALTH_S:g} s", self._is_busy()
        except SmartserveError as error:
            fault, busy = error.detail, isinstance(error, CapacityError)
        self._known = self._answer(insights, fault, began=began, busy=busy)
        self._known_until = self._clock() + _HEALTH_SHARED_S
        return self._known

    def _is_busy(self) -> bool:
        return self._extractor.statistics().get("waiting", 0) > 0

    def _answer(
        self, insights: Mapping[str, Any], fault: str, *, began: float, busy: bool
    ) -> _Answer:
        service = self._extractor.service
        versions = {} if service is None else service.versions
        fallback = self._extractor.uses_exiftool and bool(insights.get("fallback_extraction"))
        checks = {"extraction": fault, "engine": "ok"}
        if self._lacks_exiftool() or fallback:
            # Not the reason itself, which may have a path.
            checks["engine"] = "exiftool does not read files; `smartserve doctor` says why"
        failed = not insights and not busy
        name = "pillow" if service is not None and service.missing else "exiftool"
        return {
            "status": "unhealthy" if failed else "degraded" if busy or fallback else "healthy",
            "engine": {
                "name": name,
                "version": versions.get(name) or None,
                "available": bool(insights),
            },
            "fallback": fallback,
            "c2pa": bool(versions.get("c2pa")),
            "checks": checks,
            "duration_ms": round(1000 * (self._clock() - began), 1),
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    async def _extract(self) -> Extraction:
        service = await self._extractor.started()
        with service.new_file(max_bytes=1024) as file:
            await file.write(_image())
            await file.finish()
            return await service.extract(file, ExtractOptions())


def _image() -> bytes:
    """Return a PNG of one pixel; each is different, because failures are remembered by content."""
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)),
            _chunk(b"tEXt", b"Comment\0" + secrets.token_hex(8).encode()),
            _chunk(b"IDAT", zlib.compress(bytes(4))),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
