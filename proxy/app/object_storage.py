"""Opens the buckets of `[s3]`, and checks them before the server starts."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING

import structlog

from proxy.domain.errors import ConfigurationError
from proxy.runtime.supervised_task import TaskSupervisor
from proxy.settings import S3Settings, Settings, s3_secret

if TYPE_CHECKING:
    # Imports obstore, of 15 MB, which a server without buckets does not need.
    from proxy.storage.bucket import Bucket
    from proxy.storage.renditions.object_tier import ObjectTier

log = structlog.get_logger(__name__)


def object_storage_faults(section: S3Settings) -> list[str]:
    """Return a sentence if buckets are used and their library is not installed."""
    if section.enabled and find_spec("obstore") is None:
        return ["s3: obstore is not installed; pip install 'smartserve[s3]'"]
    return []


def open_bucket(
    settings: Settings, address: str, name: str, *, timeout_s: float | None = None
) -> Bucket:
    """Return a client of a bucket; ``name`` is that of its circuit breaker.

    Raises:
        ConfigurationError: the settings are not valid for this kind of storage.
    """
    section = settings.s3
    if faults := object_storage_faults(section):
        raise ConfigurationError(faults)
    from obstore.exceptions import BaseError  # noqa: PLC0415

    from proxy.storage.bucket import Bucket, open_store, reason_of  # noqa: PLC0415

    try:
        store = open_store(address, section, s3_secret(section))
    except (BaseError, ValueError) as error:
        raise ConfigurationError([f"s3: {address}: {reason_of(error)}"]) from None
    return Bucket(
        store,
        name=name,
        timeout_s=timeout_s or section.timeout_s,
        breaker_s=section.breaker_s,
    )


def build_object_tier(settings: Settings, supervisor: TaskSupervisor) -> ObjectTier:
    """Return the third tier of renditions; raises as `open_bucket` does."""
    from proxy.storage.renditions.object_tier import ObjectTier  # noqa: PLC0415

    section = settings.s3
    address, prefix = bucket_and_prefix(section.renditions)
    return ObjectTier(
        reads=open_bucket(settings, address, "object_reads", timeout_s=section.tier_timeout_s),
        writes=open_bucket(settings, address, "object_writes"),
        prefix=prefix,
        max_bytes=settings.renditions.max_rendition_bytes,
        max_queued_bytes=section.max_queued_bytes,
        supervisor=supervisor,
    )


def bucket_and_prefix(address: str) -> tuple[str, str]:
    """Return the address of a bucket and the prefix of keys: empty, or with a slash at its end."""
    scheme, _, rest = address.partition("://")
    name, _, prefix = rest.partition("/")
    return f"{scheme}://{name}", f"{prefix}/" if prefix else ""


async def check_object_storage(settings: Settings) -> None:
    """Return if the buckets can be used, or if their storage cannot be reached now.

    Raises:
        ConfigurationError: a bucket does not exist, or the credentials do not permit its use.
    """
    faults: list[str] = []
    for setting, address, fault, refused in await bucket_faults(settings):
        if refused:
            faults.append(f"{setting}: {address}: {fault}; see deploy/OBJECT_STORAGE.md")
        else:
            # The server starts: it serves what it has, and the rest when the storage is back.
            log.warning("object_storage_unavailable_at_start", bucket=address, cause=fault)
    if faults:
        raise ConfigurationError(faults)


async def bucket_faults(settings: Settings) -> list[tuple[str, str, str, bool]]:
    """Check all buckets at the same time; return the faults.

    Each has its setting, the address, the reason, and whether a repetition is useless: the storage
    answered and refused.
    """
    section = settings.s3
    checks = [_fault(settings, "s3.buckets", address) for address in section.buckets]
    if section.renditions:
        checks.append(_fault(settings, "s3.renditions", section.renditions))
    return [found for found in await asyncio.gather(*checks) if found is not None]


async def _fault(
    settings: Settings, setting: str, address: str
) -> tuple[str, str, str, bool] | None:
    from proxy.storage.bucket import (  # noqa: PLC0415
        AccessRefused,
        BucketError,
        BucketMissing,
        ConditionIgnored,
    )

    place, prefix = bucket_and_prefix(address)
    bucket = open_bucket(settings, place, "object_storage_check")
    try:
        await bucket.check()
        if setting == "s3.renditions":
            await bucket.check_writes(prefix)
    except BucketError as error:
        refused = isinstance(error, AccessRefused | BucketMissing | ConditionIgnored)
        return setting, address, str(error), refused
    return None
