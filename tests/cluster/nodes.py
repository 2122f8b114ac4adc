"""A cluster on one machine: three servers with MariaDB, Redis, SeaweedFS and nginx in front."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.servers import Smartserve, bare_environment, smartserve
from tests.deploy.front import nginx
from tests.deploy.programs import DEPLOY
from tests.support.mariadb import MariaDB, private_mariadb
from tests.support.redis import RedisServer, private_redis
from tests.support.seaweedfs import SeaweedFS, private_seaweedfs

NODES = 3
_SMARTSERVE = (sys.executable, "-m", "proxy.cli")
_EXAMPLES = [f"127.0.0.1:{8081 + number}" for number in range(NODES)]
"""The addresses in ``deploy/nginx/cluster.conf``."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster. Each server has a directory of its own."""

    nodes: Sequence[Smartserve]
    front: str
    """Base of the addresses of nginx."""
    mariadb: MariaDB
    redis: RedisServer
    s3: SeaweedFS
    bucket: str
    settings: Mapping[str, str]
    """Of all servers, as ``smartserve`` takes them."""

    def command(self, *arguments: str | Path, data_dir: Path) -> subprocess.CompletedProcess[str]:
        """Run a command of smartserve as another member of the cluster."""
        variables = {f"SMARTSERVE_{name}": value for name, value in self.settings.items()}
        return subprocess.run(
            [*_SMARTSERVE, *arguments, "--data-dir", data_dir],
            env=bare_environment() | variables,
            capture_output=True,
            text=True,
            check=True,
        )


@contextmanager
def cluster(folder: Path, images: Sequence[Path], **extra: str) -> Iterator[Cluster]:
    """Run a cluster with a library of images for the length of the block."""
    with ExitStack() as stack:
        enter = stack.enter_context
        mariadb, redis, s3 = (
            enter(private_mariadb()),
            enter(private_redis()),
            enter(private_seaweedfs()),
        )
        bucket = s3.create_bucket()
        originals = folder / "originals"
        originals.mkdir()
        settings = {
            "DATABASE__URL": mariadb.url(mariadb.create_database()),
            "STORAGE__ROOT": str(originals),
            "CLUSTER__REDIS_URL": redis.url,
            "S3__ENDPOINT": s3.endpoint,
            "S3__ACCESS_KEY_ID": s3.key[0],
            "S3__SECRET_ACCESS_KEY": s3.key[1],
            "S3__RENDITIONS": f"s3://{bucket}/renditions",
            "WORKERS__COUNT": "1",
            **extra,
        }
        variables = {f"SMARTSERVE_{name}": value for name, value in settings.items()}
        subprocess.run(
            [*_SMARTSERVE, "import", *images, "--data-dir", folder / "import"],
            env=bare_environment() | variables,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        nodes = [
            enter(smartserve(folder / f"node-{number + 1}", settings=settings))
            for number in range(NODES)
        ]
        upstream = (DEPLOY / "nginx" / "cluster.conf").read_text()
        for example, node in zip(_EXAMPLES, nodes, strict=True):
            upstream = upstream.replace(example, f"{node.address[0]}:{node.address[1]}")
        unused = 9
        single = (DEPLOY / "nginx" / "upstream.conf").read_text()
        single = single.replace("127.0.0.1:8080", f"127.0.0.1:{unused}")
        changes = [("upstream.conf", single, upstream)]
        front = enter(nginx(folder / "front", "files", upstream=unused, changes=changes))
        yield Cluster(nodes, front.base, mariadb, redis, s3, bucket, settings)
