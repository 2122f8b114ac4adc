"""Entry point of the confined process that parses files, started by a `WorkerPool`.

``python -m proxy.metadata.worker <socket descriptor> <options>``. It runs the container walk, the
fallback engine, the validation of Content Credentials and everything that interprets the text of a
file; the server parses none of it.
"""

from __future__ import annotations

import codecs
import contextlib
import encodings.aliases
import json
import os
import traceback
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from proxy.domain.errors import ConfigurationError, MetadataTooLarge, UnknownImageFormat
from proxy.domain.worker_protocol import (
    METADATA_PARTS,
    JobFailure,
    MetadataJob,
    MetadataRead,
    MetadataStep,
    WorkerInfo,
)
from proxy.metadata import pillow_engine
from proxy.metadata.container.collector import BROTLI_VERSION
from proxy.metadata.container.result import BlockKind, Walk
from proxy.metadata.container.walk import walk
from proxy.metadata.content_credentials import CredentialsReader
from proxy.metadata.extraction import split_bulk
from proxy.metadata.report import report
from proxy.metadata.tags import parse
from proxy.rendering.worker import sandbox
from proxy.rendering.worker.job_loop import run_worker
from proxy.runtime.tempfiles import write_all

_PROVENANCE = "dcterms:provenance"
"""XMP property with the address of a remote manifest."""


class MetadataWorker:
    """What a process keeps from one job to the next: the settings of the credentials' library."""

    def __init__(self) -> None:
        self._credentials = CredentialsReader("")
        self._stealth = True

    def prepare(self, options: Mapping[str, Any]) -> WorkerInfo:
        """Load all modules and enter the sandbox: afterwards no file can be opened.

        Raises:
            ConfigurationError: the trust list cannot be read.
        """
        extra = options["extra"]
        self._credentials = CredentialsReader(_trust_list(extra.get("c2pa_trust_list", "")))
        self._stealth = bool(extra.get("stealth"))
        pillow_engine.load_plugins()
        _load_encodings()
        versions = {
            "pillow": pillow_engine.VERSION,
            "c2pa": self._credentials.version or "",
            "brotli": BROTLI_VERSION,
        }
        # Modules are also loaded by their first use.
        sample = BytesIO(pillow_engine.sample())
        report(sample, walk(sample), None, None, file_name="sample.jpg", advanced=True)
        if not options["sandbox"]:
            off = dict.fromkeys(sandbox.FEATURES, "switched off by workers.sandbox")
            return WorkerInfo("", (), versions, off)
        states = sandbox.confine(uid=options["uid"], max_memory_bytes=options["max_memory_bytes"])
        # Its first use allocates executable memory, which is impossible after the second step.
        self._credentials.read(sample, "jpeg")
        os.environ.clear()
        return WorkerInfo("", (), versions, {**states, **sandbox.seal()})

    def run(self, job: Any, source: int, target: int, *attachments: int) -> Any:
        """Run a job; return its reply."""
        if not isinstance(job, MetadataJob):
            raise TypeError(job)
        with os.fdopen(source, "rb", closefd=False) as file:
            return _answered(lambda: self._step(job, file, target, *attachments))

    def _step(
        self, job: MetadataJob, file: BinaryIO, target: int, *attachments: int
    ) -> MetadataRead:
        file.seek(0)
        found = walk(file)
        read = MetadataRead(found.format, has_credentials=_has_credentials(found))
        match job.step:
            case MetadataStep.WALK:
                return read
            case MetadataStep.CREDENTIALS:
                file.seek(0)
                described = self._credentials.read(file, found.format)
                write_all(target, json.dumps(described).encode())
                return read
            case MetadataStep.DESCRIBE:
                printed, claims, validated = _parts(attachments[0])
                reported = report(
                    file,
                    found,
                    _tags(printed),
                    json.loads(claims) if claims else None,
                    file_name=job.file_name,
                    media_type=job.media_type,
                    stealth=self._stealth,
                    validation=_tags(validated),
                    advanced=job.advanced,
                )
                metadata, bulk = split_bulk(reported.content["metadata"])
                head = orjson.dumps({**reported.content, "metadata": metadata})
                write_all(target, b"\n".join((head, *bulk)))
                return MetadataRead(read.format, read.has_credentials, reported.fallback)


def _load_encodings() -> None:
    """Load every codec of text: a lookup imports its module, and files name their encoding."""
    for name in frozenset(encodings.aliases.aliases.values()):
        with contextlib.suppress(LookupError, ImportError):
            codecs.lookup(name)


def _trust_list(path: str) -> str:
    try:
        return Path(path).read_text() if path else ""
    except (OSError, ValueError) as error:
        raise ConfigurationError([f"metadata.c2pa_trust_list: {error}"]) from error


def _tags(printed: bytes) -> Any:
    """Return exiftool's tags, or None if it printed no JSON."""
    try:
        return parse(printed) if printed else None
    except ValueError:
        return None


def _has_credentials(found: Walk) -> bool:
    remote = any(one.keyword == _PROVENANCE for one in found.xmp)
    return remote or found.block(BlockKind.C2PA) is not None


def _parts(descriptor: int) -> list[bytes]:
    at = METADATA_PARTS.size
    parts = []
    for length in METADATA_PARTS.unpack(os.pread(descriptor, at, 0)):
        parts.append(os.pread(descriptor, length, at))
        at += length
    return parts


def _answered(work: Callable[[], MetadataRead]) -> MetadataRead | JobFailure:
    """Do the work and return its result, or the failure that stopped it."""
    try:
        return work()
    except UnknownImageFormat as error:
        return JobFailure("unknown_format", error.detail)
    except MetadataTooLarge as error:
        return JobFailure("metadata_too_large", error.detail)
    except pillow_engine.NoEngineCouldRead as error:
        return JobFailure("unread", str(error))
    except MemoryError:
        return JobFailure("metadata_too_large", "The metadata needs more memory than allowed.")
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        # Without the text of the error, which may contain text of the file: that must not be logged
        frames = "".join(traceback.format_tb(error.__traceback__)[-10:])
        detail = f"The file cannot be read: unexpected {type(error).__name__}, see the log."
        return JobFailure("unread", detail, traceback=frames)


if __name__ == "__main__":
    worker = MetadataWorker()
    run_worker(worker.prepare, worker.run)
