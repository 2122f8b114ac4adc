"""Originals of several storages: local paths, and addresses such as ``s3://bucket/key``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial

from proxy.domain.errors import QueueFull
from proxy.runtime.byte_budget import ByteBudget
from proxy.storage.originals import OriginalReader
from proxy.storage.originals.fetched import FetchedFile
from proxy.storage.originals.local_store import LocalOriginals, OpenSource, ReadableOriginal

_RETRY_AFTER_S = 10


class RoutedOriginals:
    """Opens each original in the storage that the scheme of its path names.

    A path without a scheme, or with one of no storage, is that of a local file.
    """

    def __init__(
        self, local: LocalOriginals, remote: Mapping[str, OriginalReader], *, download_bytes: int
    ) -> None:
        """``remote`` has the storages by scheme, such as ``s3``; all are closed by `aclose`.

        ``download_bytes`` limits the fetched originals that are sent to clients.
        """
        self._local = local
        self.remote = remote
        # A part of the memory for all fetched originals: slow clients must not stop renders.
        self._downloads = ByteBudget(download_bytes)
        self.check = local.check

    def _of(self, path: str) -> OriginalReader:
        scheme, separator, _ = path.partition("://")
        # RFC 3986, 3.1: schemes are case-insensitive.
        return (separator and self.remote.get(scheme.lower())) or self._local

    async def open(self, path: str) -> OpenSource:
        """Open an original; raises as `LocalOriginals.open` does."""
        return await self._of(path).open(path)

    async def byte_size(self, path: str) -> int:
        """Return the size of an original without its bytes; raises as `open` does."""
        return await self._of(path).byte_size(path)

    async def open_file(self, path: str) -> ReadableOriginal:
        """Open an original to read it in pieces; the caller closes it. Raises as `open` does.

        Also QueueFull, if clients download too many bytes.
        """
        reader = self._of(path)
        if reader is self._local:
            return await self._local.open_file(path)
        size = await reader.byte_size(path)
        if not self._downloads.try_take(size):
            reason = "too many originals are being downloaded"
            raise QueueFull(reason, retry_after_s=_RETRY_AFTER_S)
        try:
            source = await reader.open(path)
        except BaseException:
            self._downloads.give(size)
            raise
        file = FetchedFile(source, also=partial(self._downloads.give, size))
        return ReadableOriginal(self._local.pread, file, source.version)

    def statistics(self) -> Mapping[str, float]:
        """Return the sums of all storages."""
        total: Counter[str] = Counter()
        for reader in {self._local, *self.remote.values()}:
            total.update(reader.statistics())
        return total

    async def aclose(self) -> None:
        """Reject further calls."""
        for reader in {self._local, *self.remote.values()}:
            await reader.aclose()
