"""``make cluster``: runs a cluster until Ctrl-C, and prints its addresses."""

from __future__ import annotations

import signal
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.cluster.nodes import cluster
from tests.support.server import SAMPLES


def main() -> None:
    """Run the cluster."""
    images = sorted(one for one in SAMPLES.iterdir() if one.suffix in {".jpg", ".png"})
    with (
        tempfile.TemporaryDirectory(prefix="smartserve-cluster-") as folder,
        cluster(Path(folder), images) as running,
    ):
        print(f"nginx      {running.front}/serve/1")
        for number, node in enumerate(running.nodes, 1):
            host, port = node.address
            print(f"server {number}   http://{host}:{port}/serve/1   log {node.log}")
        print(f"MariaDB    127.0.0.1:{running.mariadb.port}")
        print(f"Redis      {running.redis.url}")
        print(f"S3         {running.s3.endpoint}/{running.bucket}")
        print("Ctrl-C stops all of them and deletes their data.", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    # As Ctrl-C: the servers are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
