"""Originals in buckets: rows whose path is an address such as ``s3://photos/2025/a.jpg``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from proxy.domain.errors import (
    QueueFull,
    SmartserveError,
    SourceMissing,
    SourceTimeout,
    SourceUnavailable,
)
from proxy.storage.bucket import (
    Bucket,
    BucketError,
    BucketOverdue,
    ObjectBody,
    ObjectMissing,
)
from proxy.storage.originals.fetched import SourceFetcher
from proxy.storage.originals.local_store import (
    FAILURES,
    MISSING,
    OVERDUE,
    OpenSource,
    too_large,
)

_MAX_KEY_BYTES = 1024
_BUDGET_WAIT_S = 10.0
_UNAVAILABLE = "the object storage of originals cannot be read"
_NO_BUCKET = "s3.buckets does not contain the bucket of this address"


class ObjectOriginals:
    """Opens originals in buckets as copies in memory. Each bucket is a key of `buckets`."""

    def __init__(
        self, buckets: Mapping[str, Bucket], fetcher: SourceFetcher, *, max_bytes: int
    ) -> None:
        """``buckets`` are clients by address, such as ``s3://photos``."""
        self._buckets = buckets
        self._fetcher = fetcher
        self._max_bytes = max_bytes
        self._statistics = {"opened": 0, **dict.fromkeys(FAILURES.values(), 0)}

    async def open(self, path: str) -> OpenSource:
        """Copy an original into a sealed memory file; the caller closes it.

        Raises:
            SourceMissing: there is no such object, or its bucket is not configured.
            SourceTooLarge: the object is longer than an original may be.
            SourceUnavailable: the storage cannot be read.
            SourceTimeout: the storage did not answer in time.
            QueueFull: too many bytes of other originals are held.
        """
        with self._counted():
            bucket, key = self._locate(path)
            source = await self._copied(bucket, key)
        self._statistics["opened"] += 1
        return source

    async def byte_size(self, path: str) -> int:
        """Return the size of an original without its bytes; raises as `open` does."""
        with self._counted():
            bucket, key = self._locate(path)
            return await bucket.byte_size(key)

    def statistics(self) -> Mapping[str, float]:
        """Return the number of opened originals, and of failures as ``failures_<kind>``."""
        return dict(self._statistics)

    async def aclose(self) -> None:
        """End the threads that copy."""
        await self._fetcher.aclose()

    def _locate(self, path: str) -> tuple[Bucket, str]:
        scheme, _, rest = path.partition("://")
        name, _, key = rest.partition("/")
        bucket = self._buckets.get(f"{scheme.lower()}://{name}")
        if bucket is None:
            raise SourceMissing(MISSING) from BucketError(_NO_BUCKET)
        # The library would drop or encode them: another object than the one of this address.
        names = key.split("/")
        if "" in names or "." in names or ".." in names or not _encodable(key):
            raise SourceMissing(MISSING)
        return bucket, key

    async def _copied(self, bucket: Bucket, key: str) -> OpenSource:
        budget, held = self._fetcher.budget, 0
        try:
            while True:
                body = await self._begin(bucket, key)
                missing = body.byte_size - held
                if missing <= 0 or budget.try_take(missing):
                    held = max(held, body.byte_size)
                    return await self._receive(bucket, body, held)
                # The wait may be long: the storage would close the connection. Nothing is held
                # meanwhile, or two callers could wait for each other.
                budget.give(held)
                wanted, held = body.byte_size, 0
                del body
                await self._wait_for_budget(wanted)
                held = wanted
        except BaseException:
            budget.give(held)
            raise

    async def _begin(self, bucket: Bucket, key: str) -> ObjectBody:
        body = await bucket.get(key)
        if body.byte_size > self._max_bytes:
            raise too_large(self._max_bytes)
        return body

    async def _receive(self, bucket: Bucket, body: ObjectBody, held: int) -> OpenSource:
        async with bucket.receiving(body):
            return await self._fetcher.copy(
                body.pieces(),
                held_bytes=held,
                max_bytes=self._max_bytes,
                byte_size=body.byte_size,
                version=body.etag,
            )

    async def _wait_for_budget(self, count: int) -> None:
        try:
            async with asyncio.timeout(_BUDGET_WAIT_S):
                await self._fetcher.budget.take(count)
        except TimeoutError:
            reason = "too many originals are being fetched"
            raise QueueFull(reason, retry_after_s=2) from None

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            with _translated():
                yield
        except SmartserveError as error:
            # Not the lack of memory, which is not a fault of the storage.
            if type(error) in FAILURES:
                self._statistics[FAILURES[type(error)]] += 1
            raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ObjectMissing as error:
        raise SourceMissing(MISSING) from error
    except BucketOverdue as error:
        raise SourceTimeout(OVERDUE) from error
    except BucketError as error:
        raise SourceUnavailable(_UNAVAILABLE) from error


def _encodable(key: str) -> bool:
    try:
        return len(key.encode()) <= _MAX_KEY_BYTES and "\0" not in key
    # A lone surrogate, from a row that is not UTF-8.
    except UnicodeEncodeError:
        return False
