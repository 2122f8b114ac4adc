"""What the doctor examines, joined: ways to each part, opened only when it is looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from proxy.app.ingest import has_worker, open_main_api
from proxy.app.services import one_worker
from proxy.app.startup_checks import installation_faults
from proxy.app.storage import schemas
from proxy.doctor.http_client.client import AiohttpProbe
from proxy.doctor.rounds import Installation
from proxy.domain.ingest_item import QueueReport
from proxy.settings import Settings
from proxy.settings.exposure import is_loopback
from proxy.storage.database.ingest_report import queue_report
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import open_media_repository
from proxy.storage.originals.local_store import LocalSources

_MARGIN_S = 5.0


@asynccontextmanager
async def open_installation(
    settings: Settings,
    config: Path | None,
    *,
    url: str,
    public: str,
    media_id: int | None = None,
) -> AsyncIterator[Installation]:
    """The installation, with the server's own address and the one in front, empty for none.

    ``media_id`` is that of a picture that somebody misses.
    """
    async with AsyncExitStack() as stack:
        timeout_s = settings.workers.max_queue_wait_s + settings.workers.deadline_s + _MARGIN_S
        visit = partial(AiohttpProbe, timeout_s=timeout_s)
        server = await stack.enter_async_context(visit(url))
        sources = LocalSources(settings.storage_root, settings.storage)
        stack.push_async_callback(sources.aclose)
        yield Installation(
            settings=settings,
            config=config,
            startup_faults=installation_faults,
            port=_port(url),
            schemas=schemas(settings),
            rows=partial(open_media_repository, settings.database_url, settings.database),
            sources=sources,
            worker=partial(one_worker, settings),
            main_api=partial(open_main_api, settings, settings.ingest.main_api_url.rstrip("/")),
            queue=partial(_report, settings) if has_worker(settings) else None,
            server=server,
            public=await stack.enter_async_context(visit(public)) if public else None,
            media_id=media_id,
        )


def _port(url: str) -> int | None:
    """The port of a server of this machine."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None
    return port if parts.hostname and is_loopback(parts.hostname) else None


async def _report(settings: Settings) -> QueueReport:
    writer = LeasedWriter(settings.database_url, settings.database, lease_s=settings.ingest.lease_s)
    try:
        return await queue_report(writer)
    finally:
        await writer.aclose()
