"""A bucket of an object storage: requests with time limits, a circuit breaker and named errors.

`obstore` is imported with this module, so import it only if a bucket is used.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore, from_url

from proxy.runtime.circuit_breaker import CircuitBreaker
from proxy.settings.object_storage import S3Settings

if TYPE_CHECKING:
    # Names of the library that exist for type checkers only.
    from obstore import GetResult

PIECE_BYTES = 1024 * 1024
MIN_BYTES_PER_S = 4 * 1024 * 1024
"""Slowest transfer that is waited for, beyond the time limit of a request."""
_PROBE_KEY = ".smartserve-probe"
_CODE = re.compile(r"<Code>(\w+)</Code>|\(code: (\w+)\)")
_DENIED = ("403 Forbidden", "401 Unauthorized")
_REASONS = {
    "InvalidAccessKeyId": "the access key does not exist",
    "SignatureDoesNotMatch": "the secret does not belong to the access key",
    "AccessDenied": "the access key may not do this",
    "NoSuchBucket": "the bucket does not exist",
    "RequestTimeTooSkewed": "the clock of this machine differs from that of the storage",
}
"""Codes in the answers of S3 servers, for operators."""
_ROLE_ADDRESS = "http://169.254.169.254/"
"""Where the library requests credentials of the machine's role if it has no others."""
_NO_CREDENTIALS = (
    "there are no credentials: s3.access_key_id and AWS_ACCESS_KEY_ID are empty, and the machine's"
    " role cannot be read"
)


class BucketError(Exception):
    """A request to a bucket failed. The text is for operators and contains no secret."""

    kind = "unavailable"


class ObjectMissing(BucketError):
    """There is no object with this key."""

    kind = "missing"


class BucketMissing(BucketError):
    """The bucket does not exist, or not in this region."""

    kind = "no_bucket"


class AccessRefused(BucketError):
    """The credentials are wrong, or do not permit the request."""

    kind = "denied"


class ObjectExists(BucketError):
    """An object with this key exists already; it was not replaced."""

    kind = "exists"


class BucketOverdue(BucketError):
    """The storage did not answer in time."""

    kind = "timeout"


class ConditionIgnored(BucketError):
    """The storage replaces objects although the request forbids it."""

    kind = "unavailable"


class BucketUnavailable(BucketError):
    """The storage cannot be reached, answers with an error, or its circuit breaker is open."""


def reason_of(error: BaseException) -> str:
    """Return the cause of an error of obstore in one line."""
    text = str(error)
    if reason := _REASONS.get(_code(text)):
        return reason
    if _ROLE_ADDRESS in text:
        return _NO_CREDENTIALS
    # What follows is a dump of the structures of the library.
    first = text.partition("Debug source")[0].partition("<?xml")[0]
    return " ".join(first.split())[:300] or type(error).__name__


def _code(text: str) -> str:
    """Return the code in the answer of the storage, or an empty string."""
    found = _CODE.search(text)
    return (found[1] or found[2]) if found else ""


def _translated(error: BaseError | OSError) -> BucketError:
    text, reason = str(error), reason_of(error)
    # A missing bucket has the class of a missing object, and with LIST that of any error.
    if _code(text) == "NoSuchBucket":
        return BucketMissing(reason)
    if isinstance(error, FileNotFoundError):
        return ObjectMissing(reason)
    if isinstance(error, AlreadyExistsError):
        return ObjectExists(reason)
    refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    # Of several deleted objects each has its own code, in an answer with status 200.
    refused = refused or _code(text) in _REASONS
    if refused or any(status in text for status in _DENIED):
        return AccessRefused(reason)
    return BucketUnavailable(reason)


@dataclass(frozen=True, slots=True)
class ObjectBody:
    """An object whose body has not been received."""

    byte_size: int
    etag: str
    _result: GetResult

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces of about 1 MiB; errors are not translated."""
        async for piece in self._result.stream(min_chunk_size=PIECE_BYTES):
            # They have the buffer protocol; the library's own type is not a `bytes`.
            yield memoryview(piece)  # type: ignore[misc]


def open_store(address: str, settings: S3Settings, secret: str) -> ObjectStore:
    """Return a client of a bucket, which connects with the first request.

    Raises:
        BaseError, ValueError: the settings are not valid for this kind of storage.
    """
    options: dict[str, Any] = {
        "client_options": {
            "allow_http": settings.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=settings.timeout_s),
            # It would end the transfer of a large original; `Bucket` has limits of its own.
            "timeout": timedelta(days=1),
        },
        # Ten retries take 11.7 s if no server listens.
        "retry_config": {"max_retries": 0, "retry_timeout": timedelta(0)},
    }
    if address.startswith("s3://"):
        given = {
            "endpoint": settings.endpoint.rstrip("/"),
            "access_key_id": settings.access_key_id,
            "secret_access_key": secret,
        }
        options |= {name: value for name, value in given.items() if value}
        options["region"] = settings.region
        options["virtual_hosted_style_request"] = settings.virtual_hosted
    return from_url(address, **options)


class Bucket:
    """Requests to one bucket. All methods raise `BucketError`.

    Failures of the storage, as opposed to those of one object, open the breaker.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        name: str,
        timeout_s: float,
        breaker_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``name`` is that of the circuit breaker in the log."""
        self._store = store
        self.timeout_s = timeout_s
        self.breaker = CircuitBreaker(name, pause_s=breaker_s, clock=clock)

    async def get(self, key: str) -> ObjectBody:
        """Return an object as soon as its answer begins."""
        async with self._request(self.timeout_s):
            result = await self._store.get_async(key)
        return ObjectBody(result.meta["size"], result.meta["e_tag"] or "", result)

    async def read(self, key: str, *, max_bytes: int) -> bytes | None:
        """Return a whole object, or None if it is longer than ``max_bytes``."""
        async with self._request(self.timeout_s):
            result = await self._store.get_async(key)
            if result.meta["size"] > max_bytes:
                return None
            return bytes(await result.bytes_async())

    @asynccontextmanager
    async def receiving(self, body: ObjectBody) -> AsyncIterator[None]:
        """Limit the time of the block, which receives a body, and translate its errors."""
        async with self._request(self.timeout_s + body.byte_size / MIN_BYTES_PER_S):
            yield

    async def byte_size(self, key: str) -> int:
        """Return the size of an object."""
        async with self._request(self.timeout_s):
            return (await self._store.head_async(key))["size"]

    async def create(self, key: str, body: bytes) -> None:
        """Store an object unless one with this key exists (`ObjectExists`)."""
        async with self._request(self.timeout_s + len(body) / MIN_BYTES_PER_S):
            # One request: the parts of a multipart upload have no condition.
            await self._store.put_async(key, body, mode="create", use_multipart=False)

    async def delete(self, keys: list[str]) -> None:
        """Delete objects; those that do not exist are ignored."""
        async with self._request(self.timeout_s):
            await self._store.delete_async(keys)

    async def keys(self, prefix: str) -> list[str]:
        """Return all keys that start with ``prefix``, which ends with a slash."""
        async with self._request(self.timeout_s):
            return [meta["path"] async for page in self._store.list(prefix) for meta in page]

    async def check(self) -> None:
        """Return if the bucket can be listed.

        Only a list distinguishes a missing bucket from a missing object, and a wrong secret from an
        object that is not readable.
        """
        await self.keys(f"{_PROBE_KEY}/")

    async def check_writes(self, prefix: str) -> None:
        """Return if objects below ``prefix`` can be created once and deleted."""
        key = f"{prefix}{_PROBE_KEY}"
        await self.delete([key])
        await self.create(key, b"smartserve")
        try:
            await self.create(key, b"smartserve")
        except ObjectExists:
            await self.delete([key])
        else:
            await self.delete([key])
            raise ConditionIgnored("the storage ignores If-None-Match: it replaces objects")

    @asynccontextmanager
    async def _request(self, limit_s: float) -> AsyncIterator[None]:
        breaker = self.breaker
        if breaker.open:
            raise BucketUnavailable("the storage failed a moment ago")
        try:
            with breaker.trial(), _named_errors():
                async with asyncio.timeout(limit_s):
                    yield
        except (BucketUnavailable, BucketOverdue) as error:
            breaker.trip(str(error))
            raise
        except BucketError:
            # The storage answers.
            breaker.succeed()
            raise
        else:
            breaker.succeed()


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise BucketOverdue("the storage did not answer in time") from error
    except (BaseError, OSError) as error:
        raise _translated(error) from error
