"""A worker's process that claims all it can get, and tells the numbers as JSON."""

from __future__ import annotations

import asyncio
import json
import sys

from proxy.settings import DatabaseSettings
from proxy.storage.database.ingest_queue import IngestQueue
from proxy.storage.database.leased_writer import LeasedWriter


async def _claim(url: str, name: str) -> list[int]:
    writer = LeasedWriter(url, DatabaseSettings(query_timeout_s=30), lease_s=60)
    found = []
    while item := await IngestQueue(writer).claim(f"process-{name}"):
        found.append(item.upload.id)
    await writer.aclose()
    return found


if __name__ == "__main__":
    json.dump(asyncio.run(_claim(*sys.argv[1:])), sys.stdout)
