"""Builds the readers of originals: of local files, and of each kind of address that is enabled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import structlog

from proxy.app.object_storage import open_bucket
from proxy.library.import_files import BUCKET_SCHEMES
from proxy.settings import Settings
from proxy.storage.originals import OriginalReader, Originals
from proxy.storage.originals.local_store import LocalOriginals

if TYPE_CHECKING:
    from proxy.storage.originals.fetched import SourceFetcher
    from proxy.storage.originals.http_store import HttpOriginals
    from proxy.storage.originals.routed import RoutedOriginals

log = structlog.get_logger(__name__)

_DOWNLOADS = 2
"""Downloads of originals may hold one part in this of the memory for fetched originals."""


def build_originals(settings: Settings, local: LocalOriginals) -> Originals:
    """Return what opens the originals of all rows; closing it closes ``local``, too.

    Raises:
        ConfigurationError: `[s3]` is not valid, or its package is not installed.
    """
    if not (settings.s3.buckets or settings.http.hosts):
        return local
    # Imported only if a row may have an address.
    from proxy.runtime.byte_budget import ByteBudget  # noqa: PLC0415
    from proxy.storage.originals.fetched import SourceFetcher  # noqa: PLC0415
    from proxy.storage.originals.routed import RoutedOriginals  # noqa: PLC0415

    max_bytes = settings.storage.max_fetched_bytes
    # All kinds of addresses share it.
    fetcher = SourceFetcher(ByteBudget(max_bytes))
    remote: dict[str, OriginalReader] = {}
    if settings.s3.buckets:
        remote |= _in_buckets(settings, fetcher)
    if settings.http.hosts:
        remote |= _on_hosts(settings, fetcher)
    return RoutedOriginals(local, remote, download_bytes=max_bytes // _DOWNLOADS)


def on_web_servers(originals: Originals) -> HttpOriginals | None:
    """Return what reads originals on other web servers; None if `http.hosts` is empty."""
    if isinstance(originals, LocalOriginals):
        return None
    reader = cast("RoutedOriginals", originals).remote.get("https")
    return cast("HttpOriginals | None", reader)


def in_buckets(originals: Originals) -> Mapping[str, OriginalReader]:
    """Return what reads objects, by the scheme of their addresses."""
    if isinstance(originals, LocalOriginals):
        return {}
    remote = cast("RoutedOriginals", originals).remote
    return {scheme: reader for scheme, reader in remote.items() if scheme in BUCKET_SCHEMES}


def _on_hosts(settings: Settings, fetcher: SourceFetcher) -> Mapping[str, OriginalReader]:
    from proxy.storage.originals.http_addresses import SCHEMES  # noqa: PLC0415
    from proxy.storage.originals.http_store import HttpOriginals  # noqa: PLC0415

    if networks := settings.http.allow_private:
        advice = "list only networks that contain nothing but servers of images"
        log.warning("private_originals_allowed", networks=networks, advice=advice)
    reader = HttpOriginals(settings.http, fetcher, max_bytes=settings.storage.max_original_bytes)
    return dict.fromkeys(SCHEMES, reader)


def _in_buckets(settings: Settings, fetcher: SourceFetcher) -> Mapping[str, OriginalReader]:
    addresses = settings.s3.buckets
    buckets = {one: open_bucket(settings, one, "original_reads") for one in addresses}
    from proxy.storage.originals.object_store import ObjectOriginals  # noqa: PLC0415

    reader = ObjectOriginals(buckets, fetcher, max_bytes=settings.storage.max_original_bytes)
    return dict.fromkeys({one.partition("://")[0] for one in addresses}, reader)
