"""The extraction of metadata: one function, of which all routes, jobs and commands are views.

A file is walked in a confined process before exiftool reads it, because a small file can make
exiftool use gigabytes. If exiftool is missing, late, or dies, a fallback reads the file.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import orjson
import structlog

from proxy import __version__
from proxy.domain.errors import (
    BadEngineOutput,
    CapacityError,
    ExtractionFailed,
    ExtractionTimeout,
    MetadataError,
    MetadataTooLarge,
    Overloaded,
    RenderError,
    SourceTooLarge,
    UnknownImageFormat,
)
from proxy.domain.worker_protocol import METADATA_PARTS, MetadataJob, MetadataRead, MetadataStep
from proxy.metadata.exiftool import ExifToolJob, ExifToolReply
from proxy.metadata.extraction import (
    FALLBACK_REASONS,
    IDLE_STATISTICS,
    OUTCOMES,
    PROGRESS,
    SCHEMA,
    Extraction,
    ExtractOptions,
    Progress,
    join_bulk,
)
from proxy.metadata.formats import FORMATS
from proxy.metadata.generation.file_name import generator_of
from proxy.metadata.quality import efficiency
from proxy.metadata.temp_folder import ReceivedFile, TempFolder
from proxy.rendering.pool.admission import Admission, FailureCache
from proxy.rendering.pool.pool import WorkerPool
from proxy.runtime.tempfiles import write_all
from proxy.settings import MetadataSettings

_KIND = "metadata"
_FAILURE_S = 60.0

log = structlog.get_logger(__name__)


class ExtractionTelemetry(Protocol):
    """Records what an extraction has measured."""

    def stage(self, stage: str, seconds: float) -> None:
        """Record the duration of a stage: one of `METADATA_STAGES`."""

    def completeness(self, share: float) -> None:
        """Record the part of a file's metadata from which a tag was read."""


@dataclass(slots=True)
class _Run:
    """What one extraction has found so far."""

    read: MetadataRead
    printed: bytes = b""
    peak_bytes: int | None = None
    fallback_reason: str = ""
    credentials: bytes = b""
    validation: bytes = b""
    hashes: Mapping[str, str] | None = None


class MetadataService:
    """Extracts metadata. Use `proxy.metadata.start`, and `new_file` for what is received."""

    def __init__(
        self,
        settings: MetadataSettings,
        *,
        folder: TempFolder,
        workers: WorkerPool,
        engines: WorkerPool | str,
        admission: Admission,
        processes: int,
        trust_list: str = "",
        telemetry: ExtractionTelemetry | None = None,
    ) -> None:
        """``engines`` are the exiftool processes, or the reason why there are none.

        ``processes`` is the number of processes of each kind, ``trust_list`` the SHA-256 of
        ``metadata.c2pa_trust_list``.
        """
        self._settings = settings
        self._trust_list = trust_list
        self._processes = processes
        self._telemetry = telemetry
        self._folder = folder
        self._workers = workers
        self._engines = engines if isinstance(engines, WorkerPool) else None
        self._admission = admission
        self._failures = FailureCache(
            failure_s=_FAILURE_S, quarantine_s=_FAILURE_S, kinds=(ExtractionFailed, RenderError)
        )
        self.missing = "" if isinstance(engines, WorkerPool) else engines
        """Why exiftool is not used, with advice; empty if it is."""
        self._fallbacks: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._peak_bytes = 0

    def new_file(self, *, max_bytes: int) -> ReceivedFile:
        """Create a file for what is received. Use it as a context manager: the exit deletes it.

        Raises:
            UploadStorageError: the disk is full or failed.
        """
        return self._folder.new_file(max_bytes=max_bytes)

    @property
    def folder(self) -> Path:
        """The folder of this process's temporary files."""
        return self._folder.path

    @property
    def engine_pids(self) -> tuple[int, ...]:
        """Process ids of exiftool."""
        return () if self._engines is None else self._engines.pids

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of exiftool (empty if it is not used), Pillow, c2pa and Brotli (empty: none)."""
        exiftool = "" if self._engines is None else self._engines.hello.codecs["exiftool"]
        return {"exiftool": exiftool, **self._workers.hello.codecs}

    def variant(self, options: ExtractOptions) -> str:
        """Return a hash of all on which an extraction depends, except for the file's content."""
        settings, name = self._settings, options.file_name
        depends = (
            # Releases read more from the same file.
            *(__version__, SCHEMA, dict(self.versions), options.advanced),
            *(settings.c2pa, settings.stealth, self._trust_list),
            # All that is read from the name: files of other names share the extraction.
            *(name.rpartition(".")[2].lower() if "." in name else "", generator_of(name)),
            options.media_type,
        )
        return sha256(orjson.dumps(depends)).hexdigest()

    @property
    def gaps(self) -> Mapping[str, str]:
        """Sandbox features that are not active, by name, each with its reason."""
        engines = {} if self._engines is None else self._engines.gaps
        return {**self._workers.gaps, **engines}

    async def extract(
        self,
        file: ReceivedFile,
        options: ExtractOptions = ExtractOptions(),  # noqa: B008 - it is frozen
        *,
        progress: Progress = lambda _percent, _stage: None,
    ) -> Extraction:
        """Extract the metadata of a file that is received completely.

        Raises:
            UnknownImageFormat: its content is no supported format.
            MetadataTooLarge: it exceeds a limit of metadata.
            ExtractionFailed: neither engine could read it, now or a minute ago.
            ExtractionTimeout: the time limit is exceeded.
            CapacityError: too many files wait, or the service is stopping.
        """
        self._failures.check(file.sha256)
        arrived = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.timeout_s), self._admission.enter(_KIND):
                began = time.monotonic()
                self._record("queue", began - arrived)
                extraction = await self._extract(
                    file, options, progress, arrived=arrived, began=began
                )
                self._admission.learn(_KIND, time.monotonic() - began)
        except TimeoutError:
            self.count_timeout(file)
            limit = f"{self._settings.timeout_s:g} s"
            raise ExtractionTimeout(f"The extraction took longer than {limit}.") from None
        except (MetadataError, CapacityError) as error:
            self._counts[_outcome(error)] += 1
            self._failures.remember(file.sha256, error)
            raise
        self._counts["ok"] += 1
        progress(PROGRESS["complete"], "complete")
        return extraction

    def count_timeout(self, file: ReceivedFile) -> None:
        """Count and log a file whose time limit has ended: that of `extract`, or of its caller."""
        self._counts["timeout"] += 1
        log_event("metadata_timeout", category="performance", bytes=file.byte_size)

    async def _extract(
        self,
        file: ReceivedFile,
        options: ExtractOptions,
        progress: Progress,
        *,
        arrived: float,
        began: float,
    ) -> Extraction:
        with self._timed("walk"):
            run = _Run(await self._walk(file, options))
        progress(PROGRESS["walked"], "walked")
        with self._timed("engine"):
            await self._run_engine(file, options, run)
        progress(PROGRESS["engine"], "engine")
        if self._settings.c2pa and run.read.has_credentials and self.versions["c2pa"]:
            with self._timed("credentials"):
                run.credentials = await self._read_credentials(file)
        progress(PROGRESS["credentials"], "credentials")
        if options.advanced:
            with self._timed("validate"):
                run.validation = await self._validate(file, options, run)
            run.hashes = {**await file.other_hashes(), "sha256": file.sha256}
        with self._timed("describe"):
            content = await self._describe(file, options, run)
        return self._result(file, run, content, arrived=arrived, began=began)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Record the duration of the block, also if it fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._record(stage, time.monotonic() - began)

    def _record(self, stage: str, seconds: float) -> None:
        if self._telemetry is not None:
            self._telemetry.stage(stage, seconds)

    async def _walk(self, file: ReceivedFile, options: ExtractOptions) -> MetadataRead:
        read, _ = await self._run_step(file, MetadataJob(MetadataStep.WALK, options.file_name))
        return read

    async def _run_step(
        self, file: ReceivedFile, job: MetadataJob, attachment: int | None = None
    ) -> tuple[MetadataRead, bytes]:
        """Run a step in a worker; return its reply and its output."""
        output = bytearray()
        try:
            read = await self._workers.run(
                job, file.descriptor, output.extend, attachment=attachment
            )
        except RenderError as error:
            # The worker died of the file, or was late.
            raise ExtractionFailed("No engine could read the file.") from error
        return read, bytes(output)

    async def _run_engine(self, file: ReceivedFile, options: ExtractOptions, run: _Run) -> None:
        """Let exiftool read the file; note the reason if it does not."""
        if self._engines is None:
            run.fallback_reason = "missing"
            return
        job = ExifToolJob.of(file, suffix=_suffix(run.read.format, options.file_name))
        reply = await self._engine_reply(self._engines, job)
        if isinstance(reply, str):
            run.fallback_reason = reply
            return
        run.printed, run.peak_bytes = reply.output, reply.peak_bytes
        self._peak_bytes = max(self._peak_bytes, reply.peak_bytes or 0)

    async def _engine_reply(self, engines: WorkerPool, job: ExifToolJob) -> ExifToolReply | str:
        """Return the reply, or one of `FALLBACK_REASONS`."""
        try:
            # Until a process is free: if none can be started any more, the fallback must run.
            async with asyncio.timeout(self._settings.engine_timeout_s) as waiting:
                return await engines.run(job, None, on_start=lambda: waiting.reschedule(None))
        except TimeoutError:
            return "start"
        except Overloaded:
            # It got too little CPU time; the fallback needs less.
            return "timeout"
        except SourceTooLarge:
            return "output"
        except RenderError as error:
            return "timeout" if error.status == _GATEWAY_TIMEOUT else "died"

    async def _validate(self, file: ReceivedFile, options: ExtractOptions, run: _Run) -> bytes:
        """Return what exiftool prints for ``-validate``; a failure must not lose the rest."""
        if self._engines is None or not run.printed:
            return b""  # it would fail again
        suffix = _suffix(run.read.format, options.file_name)
        job = ExifToolJob.of(file, suffix=suffix, validate=True)
        reply = await self._engine_reply(self._engines, job)
        return b"" if isinstance(reply, str) else reply.output

    async def _read_credentials(self, file: ReceivedFile) -> bytes:
        """Return the description of the credentials; a failure must not lose the rest."""
        try:
            _, described = await self._run_step(file, MetadataJob(MetadataStep.CREDENTIALS))
        except MetadataError:
            log_event("metadata_credentials_failed", category="error", bytes=file.byte_size)
            return _UNREADABLE_CREDENTIALS
        return described

    async def _describe(
        self, file: ReceivedFile, options: ExtractOptions, run: _Run
    ) -> dict[str, Any]:
        attachment = os.memfd_create(_KIND)
        try:
            parts = (run.printed, run.credentials, run.validation)
            write_all(attachment, METADATA_PARTS.pack(*map(len, parts)) + b"".join(parts))
            job = MetadataJob(
                MetadataStep.DESCRIBE,
                options.file_name,
                options.advanced,
                options.media_type,
            )
            read, output = await self._run_step(file, job, attachment)
            # No line of JSON contains a line feed.
            head, *bulk = output.split(b"\n")
            content: dict[str, Any] = orjson.loads(head)
            content["metadata"] = join_bulk(content["metadata"], bulk)
        except (ExtractionFailed, ValueError) as error:
            # The engine has answered, but not with what can be read, and the fallback cannot help.
            if isinstance(error, ExtractionFailed) and run.fallback_reason != "output":
                if not self.missing:
                    raise
                # Exiftool reads formats that Pillow does not.
                reason = f"{error.detail} The server runs without exiftool: {self.missing}."
                raise ExtractionFailed(reason) from error
            raise BadEngineOutput("The output of the engines cannot be read.") from error
        finally:
            os.close(attachment)
        if read.fallback:
            reason = run.fallback_reason or "unreadable"
            run.fallback_reason = reason
            self._fallbacks[reason] += 1
            log_event("metadata_fallback", category="error", reason=reason)
        return content

    def _result(
        self,
        file: ReceivedFile,
        run: _Run,
        content: Mapping[str, Any],
        *,
        arrived: float,
        began: float,
    ) -> Extraction:
        elapsed_s = time.monotonic() - began
        fallback = bool(run.fallback_reason)
        versions = self.versions
        name = "pillow" if fallback else "exiftool"
        metadata = {
            **content["metadata"],
            "sha256": file.sha256,
            "engine": {
                "name": name,
                "version": versions[name],
                "walk": __version__,
                "c2pa": versions["c2pa"] or None if self._settings.c2pa else None,
            },
        }
        quality = {
            **content["quality"],
            "processing_efficiency": efficiency(elapsed_s, file.byte_size),
            "streaming_enabled": True,
        }
        completeness = quality["extraction_completeness"]
        if self._telemetry is not None and completeness is not None:
            self._telemetry.completeness(completeness)
        reasons = dict(metadata["reasons"])
        no_library = "" if versions["c2pa"] else "the extra c2pa is not installed"
        if no_c2pa := no_library if self._settings.c2pa else "metadata.c2pa is off":
            reasons["engine.c2pa"] = no_c2pa
            if run.read.has_credentials:
                reasons["c2pa"] = f"the Content Credentials were not read: {no_c2pa}"
        if run.peak_bytes is None:
            reasons["memory_usage_mb"] = (
                "exiftool did not read the file" if fallback else "the kernel does not report it"
            )
        if fallback and self.missing:
            reasons["fallback_extraction"] = self.missing
        metadata["reasons"] = reasons
        peak = run.peak_bytes
        log_event(
            "metadata_extracted",
            category="result",
            format=metadata["format"],
            engine=name,
            bytes=file.byte_size,
            fields=content["fields"],
            ms=round(elapsed_s * 1000, 1),
        )
        return Extraction(
            metadata=metadata,
            quality_metrics=quality,
            processing_insights={
                "total_fields_extracted": content["fields"],
                "processing_time_ms": round(elapsed_s * 1000, 1),
                "queued_ms": round((began - arrived) * 1000, 1),
                "memory_usage_mb": None if peak is None else round(peak / 1e6, 1),
                "streaming_enabled": True,
                "fallback_extraction": fallback,
                "engine_version": versions[name],
                "cached": False,
            },
            advanced=run.hashes and {"hashes": run.hashes, **content["advanced"]},
        )

    def statistics(self) -> Mapping[str, float]:
        """Return the outcomes, fallbacks by reason, engines, their restarts and their memory."""
        engines = {} if self._engines is None else self._engines.statistics()
        workers = self._workers.statistics()
        restarts = {key: value for key, value in engines.items() if key.startswith(_RESTARTS)}
        return {
            **IDLE_STATISTICS,
            **{f"extractions_{name}": self._counts[name] for name in OUTCOMES},
            **{f"fallbacks_{name}": self._fallbacks[name] for name in FALLBACK_REASONS},
            **restarts,
            **{f"worker_{key}": workers[key] for key in workers if key.startswith(_RESTARTS)},
            **{key: self._admission.statistics()[key] for key in ("waiting", "inside")},
            "workers_up": workers["up"],
            "engines_up": engines.get("up", 0),
            "engines_idle": engines.get("idle", 0),
            # 0 if none is wanted: then none is missing.
            "engines_expected": self._processes if self._settings.engine == "exiftool" else 0,
            "engine_peak_bytes": self._peak_bytes,
        }


_RESTARTS = "restarts_"
_GATEWAY_TIMEOUT = 504
_UNREADABLE_CREDENTIALS = (
    b'{"state": "unreadable", "trust": "untrusted", "issuer": null, "claim_generator": null,'
    b' "generators": [], "actions": [], "codes": [], "active_manifest": null, "manifests": [],'
    b' "remote_url": null, "signed_at": null}'
)


def log_event(event: str, *, category: str, **fields: object) -> None:
    """Log an event of one of the categories spawn, result, error, performance and security.

    Never with a text, a position or a name from a file.
    """
    level = log.warning if category in ("error", "performance", "security") else log.info
    level(event, category=category, **fields)


def _outcome(error: MetadataError | CapacityError) -> str:
    match error:
        case UnknownImageFormat():
            return "unknown_format"
        case MetadataTooLarge():
            return "too_large"
        case MetadataError():
            return "failed"
        case CapacityError():
            return "rejected"


def _suffix(image_format: str, file_name: str) -> str:
    """Return the extension for exiftool, which distinguishes formats based on TIFF by it."""
    declared = file_name.rpartition(".")[2].lower()
    known = any(declared in one.extensions for one in FORMATS.values())
    # Only an extension of the table: the name of a client must not reach a program.
    return declared if image_format == "tiff" and known else FORMATS[image_format].extensions[0]
