"""The uploaded files of metadata jobs, which stay until their job has ended.

They are in a folder of their own and not in that of temporary files, which is emptied when its
process ends. Servers may share the folder or have one each: a number in it shows which.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Event

import structlog

from proxy.domain.errors import (
    ConfigurationError,
    SmartserveError,
    SourceError,
    SourceMissing,
    UploadStorageError,
)
from proxy.runtime.tempfiles import STALE_S, files_in
from proxy.settings import StorageSettings
from proxy.settings.secrets import generated_key
from proxy.storage.originals.local_store import LocalOriginals, OpenSource
from proxy.storage.originals.sweep import sweep

_NAME = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ID_FILE = "folder-id"
_ID_DIGITS = 32
_MAX_BYTES = 1024**3
"""The limit of the highest tier."""
_UNUSABLE = "The file of the job cannot be stored. Retry later."

log = structlog.get_logger(__name__)


class JobFiles:
    """Files by the ids of their jobs."""

    def __init__(self, root: Path, settings: StorageSettings) -> None:
        """Create nothing: the folder is created when the first file is added."""
        self._root = root
        own = {"max_original_bytes": _MAX_BYTES, "strip_prefix": ""}
        self._files = LocalOriginals(root, settings.model_copy(update=own))
        self._folder_id = ""

    async def known_id(self) -> str | None:
        """Return `folder_id`, or None if no job has been added yet: then nothing is created."""
        known = bool(self._folder_id) or await asyncio.to_thread((self._root / _ID_FILE).exists)
        return await self.folder_id() if known else None

    async def folder_id(self) -> str:
        """Return the number of the folder, which is equal for all servers that share it.

        Raises:
            UploadStorageError: the folder cannot be created or read.
        """
        if not self._folder_id:
            try:
                key = await asyncio.to_thread(generated_key, self._root, _ID_FILE)
            except ConfigurationError as error:
                log.warning("metadata_jobs_folder_unfit", category="error", reasons=error.faults)
                raise UploadStorageError(_UNUSABLE) from error
            self._folder_id = key[:_ID_DIGITS]
        return self._folder_id

    async def add(self, job_id: str, descriptor: int) -> None:
        """Store a copy of an open file durably.

        Raises:
            UploadStorageError: the disk is full or failed.
        """
        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            await self._files.add(job_id, descriptor)
        except SourceError as error:
            raise UploadStorageError(_UNUSABLE) from error

    @asynccontextmanager
    async def opened(self, job_id: str) -> AsyncIterator[OpenSource]:
        """Yield a file that is open.

        Raises:
            SourceMissing: somebody has deleted it.
            SourceError: it cannot be read.
        """
        try:
            source = await self._files.open(job_id)
        except SourceMissing as error:
            raise SourceMissing("The file of the job is missing. Send it again.") from error
        with source:
            yield source

    async def remove(self, job_id: str) -> None:
        """Delete the file if it exists. If that fails, the sweep deletes it."""
        try:
            await self._files.remove(job_id)
        except SmartserveError as error:
            log.warning("metadata_job_file_kept", category="error", cause=error.reason)

    async def abandoned(self) -> Collection[str]:
        """Return the ids of files that are an hour old; their jobs may have ended."""
        return await asyncio.to_thread(self._stale)

    def _stale(self) -> list[str]:
        # Copies that a killed process has not finished.
        sweep(str(self._root), Event())
        limit = time.time() - STALE_S
        found = []
        with suppress(OSError):
            found = [
                file.name
                for file, status in files_in(str(self._root))
                if _NAME.fullmatch(file.name) and status.st_mtime < limit
            ]
        return found

    async def aclose(self) -> None:
        """Reject further calls."""
        await self._files.aclose()
