"""A cluster on one machine: three servers with MariaDB, Redis, SeaweedFS and nginx in front."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.servers import bare_environment, command
from tests.cluster.faulty_s3 import FaultyS3
from tests.cluster.network import HERE, Host, LoopThread, host
from tests.deploy.front import Change, nginx
from tests.deploy.programs import DEPLOY
from tests.faults.server import Sections, Server, variables
from tests.faults.tcpproxy import TcpProxy
from tests.platform.sending import SECRET
from tests.support.commands import KEY
from tests.support.mariadb import MariaDB, private_mariadb
from tests.support.redis import RedisServer, private_redis
from tests.support.seaweedfs import SeaweedFS, private_seaweedfs

NODES = 3
_ACCOUNT = "smartserve"
_EXAMPLES = [f"127.0.0.1:{8081 + number}" for number in range(NODES)]
"""The addresses in ``deploy/nginx/cluster.conf``."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the servers share. They reach the database, Redis and S3 through proxies."""

    mariadb: MariaDB
    database: str
    redis: RedisServer
    s3: SeaweedFS
    bucket: str
    database_link: TcpProxy
    redis_link: TcpProxy
    faulty_s3: FaultyS3
    host: Host | None
    """The network of the last server; None if this machine does not permit one."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster. Each server has a directory of its own."""

    parts: Parts
    nodes: Sequence[Server]
    front: str
    """Base of the addresses of nginx."""
    images: Mapping[str, int]
    """Ids of the images by the names of their files."""
    settings: Sections
    """Of all servers."""

    def command(self, *arguments: str | Path, data_dir: Path) -> str:
        """Run a command of smartserve as another member of the cluster; return its output."""
        return _command(self.settings, *arguments, data_dir=data_dir)


def _command(settings: Sections, *arguments: str | Path, data_dir: Path) -> str:
    given = {f"SMARTSERVE_{name}": value for name, value in variables(settings).items()}
    return subprocess.run(
        command(*arguments, "--data-dir", data_dir),
        env=bare_environment() | given,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


@contextmanager
def _running_parts() -> Iterator[Parts]:
    with ExitStack() as stack:
        enter = stack.enter_context
        mariadb, redis = enter(private_mariadb()), enter(private_redis())
        s3, far = enter(private_seaweedfs()), enter(host())
        here = HERE if far is None else far.here
        loop = LoopThread()
        stack.callback(loop.stop)
        database = mariadb.create_database()
        # Not root, which may write to a database that is read-only.
        account = f"CREATE USER {_ACCOUNT}; GRANT ALL ON {database}.* TO {_ACCOUNT};"
        mariadb.execute(account)
        database_link, redis_link = TcpProxy(mariadb.port, here), TcpProxy(redis.port, here)
        faulty_s3 = FaultyS3(s3.port, here)
        for proxy in (database_link, redis_link, faulty_s3):
            loop.run(proxy.__aenter__())
            stack.callback(_stop, loop, proxy)
        yield Parts(
            mariadb,
            database,
            redis,
            s3,
            s3.create_bucket(),
            database_link,
            redis_link,
            faulty_s3,
            far,
        )


def _stop(loop: LoopThread, proxy: TcpProxy | FaultyS3) -> None:
    loop.run(proxy.__aexit__(None, None, None))


def _settings(parts: Parts, folder: Path, changed: Sections) -> Sections:
    database, redis = parts.database_link, parts.redis_link
    url = f"mysql+aiomysql://{_ACCOUNT}@{database.host}:{database.port}/{parts.database}"
    settings: dict[str, Mapping[str, object]] = {
        "database": {"url": url},
        "storage": {"root": folder / "originals"},
        "cluster": {"redis_url": f"redis://{redis.host}:{redis.port}/0"},
        "s3": {
            "endpoint": parts.faulty_s3.endpoint,
            "access_key_id": parts.s3.key[0],
            "secret_access_key": parts.s3.key[1],
            "renditions": f"s3://{parts.bucket}/renditions",
        },
        "admin": {"key": KEY},
        "main": {"key": KEY, "temp_root": folder / "uploads", "allow_loopback_url": True},
        "users": {"jwt_secret": SECRET},
        "workers": {"count": 1},
        "upgrades": {"enabled": True},
    }
    return {
        name: {**settings.get(name, {}), **changed.get(name, {})}
        for name in (*settings, *(name for name in changed if name not in settings))
    }


def _addresses(parts: Parts) -> list[tuple[Sections, Sequence[str]]]:
    """Return of each server the settings of its address, and the command that starts it."""
    found: list[tuple[Sections, Sequence[str]]] = [({}, ()) for _ in range(NODES)]
    if parts.host is not None:
        # nginx has another address there than the one that servers trust by default.
        trusted = json.dumps([parts.host.here])
        section = {"host": parts.host.address, "trusted_proxies": trusted}
        found[-1] = ({"server": section}, parts.host.prefix)
    return found


@asynccontextmanager
async def cluster(
    folder: Path, images: Sequence[Path], changed: Sections | None = None
) -> AsyncIterator[Cluster]:
    """Run a cluster with a library of images for the length of the block."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_context
        parts = enter(_running_parts())
        settings = _settings(parts, folder, changed or {})
        for shared in ("originals", "uploads"):
            (folder / shared).mkdir()
        lines = _command(settings, "import", "--json", *images, data_dir=folder / "import")
        ids = {Path(one["path"]).name: one["id"] for one in map(json.loads, lines.splitlines())}
        nodes = []
        for number, (address, prefix) in enumerate(_addresses(parts), 1):
            node = Server(folder / f"node-{number}", {**settings, **address}, prefix=prefix)
            nodes.append(node)
            stack.push_async_callback(node.stop)
            await node.start()
        front = enter(nginx(folder / "front", "files", upstream=9, changes=_edits(nodes)))
        yield Cluster(parts, nodes, front.base, ids, settings)


def _edits(nodes: Sequence[Server]) -> list[Change]:
    """Return the changes of ``deploy/nginx`` that ``cluster.conf`` describes."""
    upstream = (DEPLOY / "nginx" / "cluster.conf").read_text()
    for example, node in zip(_EXAMPLES, nodes, strict=True):
        upstream = upstream.replace(example, f"{node.host}:{node.port}")
    single = (DEPLOY / "nginx" / "upstream.conf").read_text().replace("127.0.0.1:8080", HERE + ":9")
    return [
        ("upstream.conf", single, upstream),
        (
            "read_timeout.conf",
            (DEPLOY / "nginx" / "read_timeout.conf").read_text(),
            (DEPLOY / "nginx" / "cluster_read_timeout.conf").read_text(),
        ),
    ]
