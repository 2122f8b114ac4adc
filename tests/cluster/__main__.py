"""``make cluster``: runs a cluster until Ctrl-C, and prints its addresses."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.cluster.nodes import cluster
from tests.support.server import SAMPLES


async def _run() -> None:
    images = sorted(one for one in SAMPLES.iterdir() if one.suffix in {".jpg", ".png"})
    with tempfile.TemporaryDirectory(prefix="smartserve-cluster-") as folder:
        async with cluster(Path(folder), images) as running:
            parts = running.parts
            print(f"nginx      {running.front}/serve/1")
            for number, node in enumerate(running.nodes, 1):
                print(f"server {number}   {node.base}/serve/1   log {node.log}")
            print(f"MariaDB    127.0.0.1:{parts.mariadb.port}")
            print(f"Redis      {parts.redis.url}")
            print(f"S3         {parts.s3.endpoint}/{parts.bucket}")
            print("Ctrl-C stops all of them and deletes their data.", flush=True)
            await asyncio.Event().wait()


def main() -> None:
    """Run the cluster."""
    # asyncio cancels the task at Ctrl-C, so that all servers are stopped; SIGTERM does the same.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with suppress(KeyboardInterrupt):
        asyncio.run(_run())


if __name__ == "__main__":
    main()
