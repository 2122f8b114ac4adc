"""Extraction of metadata beside exiftool itself, and what it costs those who request images."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Self

import structlog
import uvloop
from PIL import ExifTags, Image

from proxy.domain.request import WIDTHS
from proxy.metadata.exiftool import ARGUMENTS, ExifToolProgram, find_program
from proxy.metadata.extraction import ExtractOptions
from proxy.metadata.service import MetadataService
from proxy.metadata.start import open_metadata
from proxy.settings import MetadataSettings, WorkerSettings
from tests.benchmarks.client import Connection, fetched, get
from tests.benchmarks.originals import copies, enlarged, imported, kodak
from tests.benchmarks.processes import peak_bytes, resident_bytes
from tests.benchmarks.report import Comparison, Row, Table
from tests.benchmarks.servers import Address, Smartserve, Unmeasurable, nginx, smartserve
from tests.benchmarks.turns import in_turns
from tests.benchmarks.wrk import load
from tests.metadata.files import png, text_chunk
from tests.platform.sending import SECRET, token
from tests.support.golden import GOLDEN
from tests.support.waiting import eventually

_MIB = 1024**2
_TURNS = 5
_PER_TURN = 20
_ONCE_PER_TURN = 3
_PHOTO = (3900, 2600)
"""Of a photograph of about 3 MB."""
_CAMERA = "metadata-extractor/Canon IXUS 400.jpg"
"""With the maker notes of a camera; golden files are not in this repository."""
_OURS, _RESIDENT, _ONCE = "smartserve", "exiftool, resident", "exiftool, a process per file"
_SLOWEST, _QUICKER = 2.0, 6.0
"""Limits of issue 15: times of a resident exiftool, and times as quick as a process per file."""
_KILLS = 10
_REPLACED_S = 1.0
_SETTINGS = {"USERS__JWT_SECRET": SECRET, "LOG__ACCESS": "false", "UPGRADES__ENABLED": "false"}
_UPLOADS = 100
_LARGE = (7150, 7150)
"""Of an uncompressed TIFF of about 150 MB."""
_GROWTH_MIB = 32.0
_SLOWER = 1.25
_SERVING_TURNS = 3
_RENDERS = 80
_HIT_S = 4
_CLIENTS = 8
_WHOLE = """
import hashlib, sys
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
content = open(sys.argv[1], "rb").read()
hashlib.sha256(content).hexdigest()
print(resident() - before)
"""


def measure() -> Table:
    """Measure milliseconds per file, and seconds until a killed engine is replaced."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    program = find_program(os.environ)
    if not isinstance(program, ExifToolProgram):
        raise Unmeasurable(program)
    with tempfile.TemporaryDirectory(prefix="smartserve-metadata-") as folder:
        photos = {name: _written(Path(folder), name, exif) for name, exif in _exif().items()}
        sizes = {f"{path.stat().st_size / 1e6:.1f} MB": None for path in photos.values()}
        # On the event loop of the server.
        taken, replaced = uvloop.run(_taken(Path(folder), program, photos))
    rows: list[Row] = []
    for name in photos:
        ours, resident, once = (taken[f"{one}, {name}"] for one in (_OURS, _RESIDENT, _ONCE))
        rows += [
            Row(f"{_RESIDENT}, {name}", resident, yardstick=resident),
            Row(f"{_OURS}, {name}", ours, yardstick=resident, limit=_SLOWEST),
            Row(f"{_ONCE}, {name}", once, yardstick=ours, target=_QUICKER, remark="to smartserve"),
        ]
    milliseconds = [1000 * one for one in replaced]
    limit = [1000 * _REPLACED_S]
    rows.append(Row("until a killed engine is replaced", milliseconds, yardstick=limit, limit=1.0))
    name = next(iter(photos))
    return Table(
        f"milliseconds to extract the metadata of a JPEG of {' or '.join(sizes)}, median of"
        f" {_PER_TURN} in each of {_TURNS} turns",
        rows,
        [
            f"exiftool {program.version}, with smartserve's arguments; not confined.",
            "smartserve also walks the container, names the generator, and computes the quality.",
            "The file has arrived already, and is in the page cache.",
        ],
        compared=[
            Comparison(
                "ms to extract the metadata of a JPEG of 3 MB",
                peer,
                taken[f"{_OURS}, {name}"],
                taken[f"{peer}, {name}"],
                low=True,
            )
            for peer in (_RESIDENT, _ONCE)
        ],
    )


def _exif() -> dict[str, bytes]:
    """Return EXIF data by name: that of a camera, if it is there, and a few tags."""
    few = Image.Exif()
    few[ExifTags.Base.Make], few[ExifTags.Base.Model] = "Canon", "Canon EOS R5"
    few.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    found = {"few tags": few.tobytes()}
    if GOLDEN is not None:
        with Image.open(GOLDEN / _CAMERA) as photo:
            found = {"maker notes": photo.info["exif"], **found}
    return found


def _written(folder: Path, name: str, exif: bytes) -> Path:
    """Write a photograph of 3 MB with this EXIF data."""
    content = enlarged(kodak()[1], *_PHOTO).read_bytes()
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    path = folder / f"{name}.jpg"
    path.write_bytes(content[:2] + segment + content[2:])
    return path


class _Resident:
    """An exiftool that stays open, as others use it."""

    def __init__(self, program: ExifToolProgram) -> None:
        self._process = subprocess.Popen(
            [*_command(program), "-stay_open", "True", "-@", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def read(self, path: Path) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n".join([*ARGUMENTS, str(path), "-execute1\n"]).encode())
        process.stdin.flush()
        received = bytearray()
        while not received.endswith(b"{ready1}\n"):
            received += os.read(process.stdout.fileno(), 65_536)


def _command(program: ExifToolProgram) -> list[str]:
    return [program.perl, program.script, "-config", ""]


async def _taken(
    folder: Path, program: ExifToolProgram, photos: dict[str, Path]
) -> tuple[dict[str, list[float]], list[float]]:
    """Return milliseconds by contestant and photograph, and seconds until engines are replaced."""
    settings = MetadataSettings(temp_root=str(folder / "files"), engines=1)
    taken: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        resident = stack.enter_context(_Resident(program))
        service = await stack.enter_async_context(open_metadata(settings, WorkerSettings()))
        for turn in range(-1, _TURNS):
            for name, path in photos.items():
                once = [*_command(program), *ARGUMENTS, str(path)]
                figures = {
                    _RESIDENT: _timed(partial(resident.read, path), _PER_TURN),
                    _ONCE: _timed(partial(_run, once), _ONCE_PER_TURN),
                }
                figures[_OURS] = await _extracted(service, path)
                if turn >= 0:
                    for key, figure in figures.items():
                        taken.setdefault(f"{key}, {name}", []).append(figure)
        return taken, [await _replaced(service) for _ in range(_KILLS)]


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.PIPE)


def _timed(work: Callable[[], None], times: int) -> float:
    """Return the median milliseconds of some work."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return 1000 * sorted(taken)[times // 2]


async def _extracted(service: MetadataService, path: Path) -> float:
    """Return the median milliseconds of an extraction."""
    taken = []
    with service.new_file(max_bytes=_MIB * 100) as file:
        await file.write(path.read_bytes())
        await file.finish()
        for _ in range(_PER_TURN):
            began = time.perf_counter()
            found = await service.extract(file, ExtractOptions(path.name))
            taken.append(time.perf_counter() - began)
            if found.processing_insights["fallback_extraction"]:
                raise Unmeasurable("exiftool did not read the photograph")
    return 1000 * sorted(taken)[_PER_TURN // 2]


async def _replaced(service: MetadataService) -> float:
    """Kill the engine; return the seconds until another one is ready."""
    (killed,) = service.engine_pids
    began = time.perf_counter()
    os.kill(killed, signal.SIGKILL)
    await eventually(
        lambda: killed not in service.engine_pids and service.statistics()["engines_idle"] > 0,
        timeout_s=60,
        interval_s=0.002,
    )
    return time.perf_counter() - began


def measure_serving() -> Table:
    """Measure what extraction costs the server: p99 of images, memory, and uploads at once."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-extract-")))
        (originals := place / "originals").mkdir()
        # Two contestants, each with images of its own in each turn and the warm-up.
        needed = 2 * (_SERVING_TURNS + 1) * _RENDERS // len(_VARIANTS)
        ids = imported(copies(kodak(), originals, count=needed), place / "data")
        settings = {**_SETTINGS, "METADATA__TEMP_ROOT": str(place / "files")}
        server = stack.enter_context(smartserve(place / "data", settings=settings))
        photo = _written(place, "few tags", _exif()["few tags"]).read_bytes()
        _upload(server.address, photo)
        burst, statuses = _burst(server.address, photo)
        growth, whole = _growth(server), _whole_mib()
        (root := place / "root").mkdir()
        peer = stack.enter_context(nginx(place / "nginx", root))
        taken = _serving(server.address, ids, peer, root)
    rows = [
        Row("answers with 200", [float(statuses)], yardstick=[_UPLOADS], target=1.0),
        Row("ms to an answer, p50", [burst[len(burst) // 2]]),
        Row("ms to an answer, p99", [burst[len(burst) * 99 // 100 - 1]]),
        Row("MiB by which reading 150 MB as a whole grows a process", [whole], yardstick=[whole]),
        Row("MiB by which an upload of 150 MB grows the server", [growth], yardstick=[whole]),
        Row(f"the same, to {_GROWTH_MIB:.0f} MiB", [growth], yardstick=[_GROWTH_MIB], limit=1.0),
    ]
    for kind in ("hits", "renders"):
        alone, beside = taken[f"{kind}, alone"], taken[f"{kind}, {_BESIDE}"]
        rows += [
            Row(f"ms, p99 of {kind}, alone", alone, yardstick=alone),
            Row(f"ms, p99 of {kind}, {_BESIDE}", beside, yardstick=alone, limit=_SLOWER),
        ]
    alone, beside = taken["nginx, alone"], taken[f"nginx, {_BESIDE}"]
    rows += [
        Row("ms, p99 of nginx, alone", alone, yardstick=alone),
        Row(f"ms, p99 of nginx, {_BESIDE}", beside, yardstick=alone),
    ]
    return Table(
        f"{_UPLOADS} uploads of a JPEG of {len(photo) / 1e6:.1f} MB at once, memory of an upload,"
        f" and p99 of images beside a saturated extraction, {_SERVING_TURNS} turns",
        rows,
        [
            f"Saturated: {_CLIENTS} clients send files with 4,000 texts; exiftool is always busy.",
            f"Hits: wrk with 8 connections for {_HIT_S} s.",
            "nginx sends the bytes of the hits from a file, beside the same extraction.",
            f"Renders: {_RENDERS} misses of one client, JPEG and WebP of four widths.",
        ],
    )


_BESIDE = "extraction saturated"
_VARIANTS = [f"w={width}&format={fmt}" for width in WIDTHS[4:8] for fmt in ("jpeg", "webp")]


def _upload(address: Address, content: bytes, *, name: str = "a.jpg") -> float:
    """Return the milliseconds of an extraction over HTTP."""
    with Connection(address) as connection:
        answer = connection.upload("/api/extract", content, token=token(1), name=name)
    if answer.status != HTTPStatus.OK:
        raise Unmeasurable(f"an upload was answered with {answer.status}: {answer.body[:300]!r}")
    return 1000 * answer.last_byte_s


def _numbered(content: bytes, number: int) -> bytes:
    """Return a JPEG with a comment, because equal files are found in the cache."""
    comment = f"{number:08}".encode()
    return content[:2] + b"\xff\xfe\0\x0a" + comment + content[2:]


def _burst(address: Address, photo: bytes) -> tuple[list[float], int]:
    """Send all uploads at the same moment; return sorted milliseconds, and how many were 200."""
    start = threading.Barrier(_UPLOADS)

    def send(number: int) -> tuple[int, float]:
        content = _numbered(photo, number)
        with Connection(address) as connection:
            start.wait()
            answer = connection.upload("/api/extract", content, token=token(1))
        return answer.status, 1000 * answer.last_byte_s

    with ThreadPoolExecutor(_UPLOADS) as executor:
        answers = list(executor.map(send, range(_UPLOADS)))
    answered = sum(status == HTTPStatus.OK for status, _ in answers)
    return sorted(milliseconds for _, milliseconds in answers), answered


def _growth(server: Smartserve) -> float:
    """Return by how many MiB an upload of 150 MB grows the server process at most."""
    content = enlarged(kodak()[0], *_LARGE, "tif").read_bytes()
    before = resident_bytes(server.pid)
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")
    _upload(server.address, content)
    return (peak_bytes(server.pid) - before) / _MIB


def _whole_mib() -> float:
    path = enlarged(kodak()[0], *_LARGE, "tif")
    done = subprocess.run(
        [sys.executable, "-c", _WHOLE, str(path)], check=True, capture_output=True, text=True
    )
    return int(done.stdout) / _MIB


def _serving(
    address: Address, ids: Sequence[int], peer: Address, root: Path
) -> dict[str, list[float]]:
    """Return p99 in milliseconds of hits and renders, alone and beside extractions.

    ``peer`` serves the files of ``root``.
    """
    hit = f"/serve/{ids[0]}?size=thumbnail&format=webp"
    (root / "image.webp").write_bytes(get(address, hit).body)
    fresh = iter(ids)
    per_turn = _RENDERS // len(_VARIANTS)

    def hits() -> float:
        return load(address, hit, accept="*/*", seconds=_HIT_S, connections=8).p99_ms

    def static() -> float:
        return load(peer, "/image.webp", accept="*/*", seconds=_HIT_S, connections=8).p99_ms

    def renders() -> float:
        some = [next(fresh) for _ in range(per_turn)]
        targets = [f"/serve/{one}?{variant}" for one in some for variant in _VARIANTS]
        _, answers = fetched(address, targets, clients=1)
        taken = sorted(1000 * answer.last_byte_s for answer in answers)
        return taken[len(taken) * 99 // 100]

    def beside(measured: Callable[[], float]) -> float:
        with _saturated(address):
            return measured()

    return in_turns(
        {
            "hits, alone": lambda _: hits(),
            f"hits, {_BESIDE}": lambda _: beside(hits),
            "nginx, alone": lambda _: static(),
            f"nginx, {_BESIDE}": lambda _: beside(static),
            "renders, alone": lambda _: renders(),
            f"renders, {_BESIDE}": lambda _: beside(renders),
        },
        turns=_SERVING_TURNS,
        warm_up=_SERVING_TURNS,
    )


@contextmanager
def _saturated(address: Address) -> Iterator[None]:
    """Keep the extraction busy for the length of the block."""
    ended = threading.Event()
    # Composed once: what the clients compute would slow down images as well.
    texts = b"".join(text_chunk("keyword", f"{number}") for number in range(4_000))

    def send() -> None:
        while not ended.is_set():
            # Each file is new, because equal ones are found in the cache.
            keyword = text_chunk(secrets.token_hex(8), "")
            # On a connection of its own: the server closes it after an upload.
            _upload(address, png(keyword, texts), name="a.png")

    with ThreadPoolExecutor(_CLIENTS) as executor:
        running = [executor.submit(send) for _ in range(_CLIENTS)]
        try:
            yield
        finally:
            ended.set()
    for one in running:
        one.result()
