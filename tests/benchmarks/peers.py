"""The real peers: imgproxy, imagor, thumbor and IPX, each with a folder of originals.

thumbor and IPX are installed from their registries, with the hashes of their lock files, once into
``$XDG_CACHE_HOME/smartserve-bench`` (``~/.cache``). imgproxy and imagor are in no registry: an
environment variable names the binary of each.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from proxy.domain.formats import Format
from tests.benchmarks.client import Connection
from tests.benchmarks.servers import Address, Unmeasurable, listening, program
from tests.support.ports import free_port

IMGPROXY_BINARY = "SMARTSERVE_BENCH_IMGPROXY"
IMAGOR_BINARY = "SMARTSERVE_BENCH_IMAGOR"
"""The variables with the paths of the binaries."""

_HERE = Path(__file__).parent
_INSTALL_S = 240
_RESPONSE_S = 30
_DONE = "installed"
"""Marker file of a complete environment."""
_FORCED_EFFORT, _FORCED_AVIF_SPEED = 4, 8
"""Equal settings: WebP at effort 4, AVIF at effort 1; libvips sets libaom's speed to 9 - effort."""
_THUMBOR = """
LOADER = "thumbor.loaders.file_loader"
FILE_LOADER_ROOT_PATH = {root!r}
STORAGE = "thumbor.storages.no_storage"
ALLOW_UNSAFE_URL = True
"""
_THUMBOR_EQUAL = f"AVIF_SPEED = {_FORCED_AVIF_SPEED}\nPROGRESSIVE_JPEG = False\n"
"""Pillow's WebP effort is 4."""
_THUMBOR_STORE = """
RESULT_STORAGE = "thumbor.result_storages.file_storage"
RESULT_STORAGE_FILE_STORAGE_ROOT_PATH = {place!r}
RESULT_STORAGE_STORES_UNSAFE = True
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A rendition that is requested of each server."""

    format: Format
    side: int
    square: bool = False
    """Whether it is cropped from the centre to fill a square; otherwise it fits into one."""
    quality: int | None = None
    """The server's own default if None."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How a peer is started."""

    place: Path
    """A folder of its own."""
    originals: Path
    port: int
    processes: int
    """Of a peer that needs to be told; the others use all processors by themselves."""
    equal: bool
    """Whether efforts are those of `_FORCED_EFFORT`, or the peer's own."""
    stored: bool
    """Whether results are kept in files."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line with its environment variables."""

    arguments: Sequence[str | Path]
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that can be measured beside ours."""

    name: str
    launch: Callable[[Setup], Launch]
    target: Callable[[str, Wanted], str]
    """The path of a rendition of an original, by its file name."""
    unequal: frozenset[Format] = frozenset()
    """The formats whose effort it cannot be told."""
    stores: bool = False
    """Whether it can keep results in files."""


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that listens."""

    peer: Peer
    address: Address
    pid: int


def _thumbor_target(name: str, wanted: Wanted) -> str:
    fit = "" if wanted.square else "fit-in/"
    chosen = "" if wanted.quality is None else f":quality({wanted.quality})"
    box = f"{wanted.side}x{wanted.side}"
    return f"/unsafe/{fit}{box}/filters:format({wanted.format}){chosen}/{name}"


def _ipx_target(name: str, wanted: Wanted) -> str:
    # A box would shrink an image that is smaller than it, so originals must not be portraits.
    box = f"s_{wanted.side}x{wanted.side}" if wanted.square else f"w_{wanted.side}"
    chosen = "" if wanted.quality is None else f",q_{wanted.quality}"
    return f"/f_{wanted.format},{box}{chosen}/{name}"


def _imgproxy_target(name: str, wanted: Wanted) -> str:
    side = wanted.side
    box = f"rs:fill:{side}:{side}/g:ce" if wanted.square else f"rs:fit:{side}:{side}"
    chosen = "" if wanted.quality is None else f"/q:{wanted.quality}"
    return f"/unsafe/{box}{chosen}/plain/local:///{name}@{wanted.format}"


def _thumbor(setup: Setup) -> Launch:
    environment = thumbor_environment()
    config = setup.place / "thumbor.conf"
    text = _THUMBOR.format(root=str(setup.originals))
    if setup.stored:
        text += _THUMBOR_STORE.format(place=str(setup.place / "results"))
    config.write_text(text + (_THUMBOR_EQUAL if setup.equal else ""))
    where = ["--ip", "127.0.0.1", "--port", str(setup.port), "--processes", str(setup.processes)]
    options: list[str | Path] = ["--conf", config, "--log-level", "error"]
    return Launch([environment / "bin" / "thumbor", *where, *options], {})


def _ipx(setup: Setup) -> Launch:
    node, environment = program("node"), ipx_environment()
    script = environment / "node_modules" / "ipx" / "bin" / "ipx.mjs"
    where = ["--port", str(setup.port), "--host", "127.0.0.1"]
    return Launch([node, script, "serve", "--dir", setup.originals, *where], {})


def _imgproxy(setup: Setup) -> Launch:
    variables = {
        "IMGPROXY_BIND": f"127.0.0.1:{setup.port}",
        "IMGPROXY_LOCAL_FILESYSTEM_ROOT": str(setup.originals),
        "IMGPROXY_LOG_LEVEL": "error",
        # In megapixels; some originals have a hundred.
        "IMGPROXY_MAX_SRC_RESOLUTION": "200",
    }
    if setup.equal:
        variables["IMGPROXY_AVIF_SPEED"] = str(_FORCED_AVIF_SPEED)
        variables["IMGPROXY_WEBP_EFFORT"] = str(_FORCED_EFFORT)
    return Launch([_binary(IMGPROXY_BINARY)], variables)


def _imagor(setup: Setup) -> Launch:
    where = ["-host", "127.0.0.1", "-port", str(setup.port)]
    options: list[str | Path] = ["-imagor-unsafe", "-file-loader-base-dir", setup.originals]
    if setup.stored:
        options += ["-file-result-storage-base-dir", setup.place / "results"]
    if setup.equal:
        options += ["-vips-avif-speed", str(_FORCED_AVIF_SPEED)]
    return Launch([_binary(IMAGOR_BINARY), *where, *options], {})


IMGPROXY = Peer("imgproxy", _imgproxy, _imgproxy_target)
IMAGOR = Peer("imagor", _imagor, _thumbor_target, stores=True)
THUMBOR = Peer("thumbor", _thumbor, _thumbor_target, stores=True)
IPX = Peer("IPX", _ipx, _ipx_target, unequal=frozenset({Format.AVIF}))
PEERS = (IMGPROXY, IMAGOR, THUMBOR, IPX)


@contextmanager
def running(
    peer: Peer,
    place: Path,
    originals: Path,
    *,
    processes: int = 1,
    equal: bool = False,
    stored: bool = False,
) -> Iterator[Running]:
    """Serve a folder of originals with a peer for the length of the block.

    Raises:
        Unmeasurable: it is not there and cannot be installed, or does not start.
    """
    folder = place / peer.name
    folder.mkdir()
    setup = Setup(folder, originals, free_port(), processes, equal, stored)
    launch = peer.launch(setup)
    log = folder / "output.log"
    with listening(launch.arguments, setup.port, log=log, variables=launch.variables) as pid:
        address = ("127.0.0.1", setup.port)
        _await_response(address)
        yield Running(peer, address, pid)


def _await_response(address: Address) -> None:
    """Wait for any response: IPX first tries its port with another server, which it then closes."""
    deadline = time.monotonic() + _RESPONSE_S
    while True:
        try:
            with Connection(address) as connection:
                connection.get("/")
        except (OSError, Unmeasurable) as error:
            if time.monotonic() > deadline:
                raise Unmeasurable(f"no response on port {address[1]}: {error}") from error
            time.sleep(0.02)
        else:
            return


@contextmanager
def all_running(
    place: Path,
    originals: Path,
    *,
    processes: int = 1,
    equal: bool = False,
    stored: bool = False,
) -> Iterator[tuple[list[Running], list[str]]]:
    """Yield the peers that run here, and a note for each of the others.

    With ``stored``, those that cannot keep results are left out.
    """
    found: list[Running] = []
    missing: list[str] = []
    with ExitStack() as stack:
        for peer in PEERS:
            if stored and not peer.stores:
                continue
            opening = running(
                peer, place, originals, processes=processes, equal=equal, stored=stored
            )
            try:
                found.append(stack.enter_context(opening))
            except Unmeasurable as error:
                missing.append(f"{peer.name}: NOT MEASURED: {error}.")
        yield found, missing


@contextmanager
def thumbor(
    place: Path, originals: Path, *, processes: int = 1, stored: bool = False, settings: str = ""
) -> Iterator[Address]:
    """Serve a folder of originals with thumbor; with ``stored``, results are kept in files.

    Raises:
        Unmeasurable: it cannot be installed, or does not start.
    """
    with running(
        THUMBOR, place.parent, originals, processes=processes, equal=bool(settings), stored=stored
    ) as server:
        yield server.address


def cache() -> Path:
    """Return the folder in which peers are installed, and create it if it is missing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "smartserve-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def thumbor_environment() -> Path:
    """Return a virtual environment with thumbor; install it if it is missing.

    Raises:
        Unmeasurable: it cannot be installed.
    """
    lock = _HERE / "thumbor.lock"
    environment = cache() / "thumbor"
    if not _holds(environment, lock):
        _run([sys.executable, "-m", "venv", environment])
        pip = environment / "bin" / "pip"
        quiet = ["--quiet", "--disable-pip-version-check"]
        _run([pip, "install", *quiet, "--require-hashes", "-r", lock])
        _mark(environment, lock)
    return environment


def ipx_environment() -> Path:
    """Return a folder with IPX in its ``node_modules``; install it if it is missing.

    Raises:
        Unmeasurable: it cannot be installed.
    """
    lock = _HERE / "ipx" / "package-lock.json"
    environment = cache() / "ipx"
    if not _holds(environment, lock):
        environment.mkdir()
        for name in ("package.json", lock.name):
            shutil.copy(lock.with_name(name), environment)
        quiet = ["--no-audit", "--no-fund", "--loglevel", "error"]
        _run([program("npm"), "ci", "--prefix", environment, *quiet])
        _mark(environment, lock)
    return environment


def _binary(variable: str) -> str:
    named = os.environ.get(variable)
    if not named:
        raise Unmeasurable(f"{variable} is not set to the path of its binary")
    found = shutil.which(named)
    if found is None:
        raise Unmeasurable(f"{variable} is {named}, which is no executable file")
    return found


def _holds(environment: Path, lock: Path) -> bool:
    """Return whether what a lock file pins is installed; delete anything else."""
    marker = environment / _DONE
    if marker.exists() and marker.read_text() == _fingerprint(lock):
        return True
    shutil.rmtree(environment, ignore_errors=True)
    return False


def _mark(environment: Path, lock: Path) -> None:
    (environment / _DONE).write_text(_fingerprint(lock))


def _fingerprint(lock: Path) -> str:
    return blake2b(lock.read_bytes(), digest_size=16).hexdigest()


def _run(command: Sequence[str | Path]) -> None:
    print(f"  installing: {' '.join(map(str, command))}", file=sys.stderr, flush=True)
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or error
        raise Unmeasurable(f"{command[0]} cannot install it: {str(told)[-500:]}") from error
