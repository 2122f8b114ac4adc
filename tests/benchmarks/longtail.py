"""Hits spread over many renditions on disk, against nginx with the same files.

SQLite has more rows than the row cache, and the directory more renditions than memory. MariaDB has
as many rows as the row cache, and each has been read once.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path
from statistics import median
from threading import Lock

import pymysql

from proxy.app.services import open_services
from proxy.domain.media import Focus, Media, MediaFacts
from proxy.domain.render_plan import RenderPlanner
from proxy.domain.request import parse_request
from proxy.domain.variant import Variant
from proxy.settings import load_settings
from proxy.storage.renditions.disk_state import RenditionPaths
from proxy.storage.renditions.rendition_file import WriteTicket, write_file
from tests.benchmarks import stills
from tests.benchmarks.client import fetched
from tests.benchmarks.processes import family
from tests.benchmarks.report import Comparison, Row, Table
from tests.benchmarks.servers import (
    Address,
    Unmeasurable,
    nginx,
    nginx_version,
    program,
    smartserve,
)
from tests.benchmarks.turns import in_turns
from tests.support.mariadb import MariaDB, private_mariadb
from tests.support.server import CHROME

TARGET = 0.15
"""Of nginx's rate over the same files (issue 14, line 1)."""
CPU_MS = 0.3
P99_OF_P50 = 3

ROWS, FILES = 1_000_000, 300_000
KNOWN = 100_000
"""Rows and files of the measurement with MariaDB: as many as the row cache holds."""
CONNECTIONS = 16

_TURNS = 5
_SECONDS = 4
_QUERY = "size=thumbnail"
_NGINX, _SERVED = "nginx, static files", "smartserve"
_SETTINGS = {"LOG__ACCESS": "false", **stills.ONE_SIZE}
_CAMERAS = ((6000, 4000), (4032, 3024), (4608, 3456), (5472, 3648), (1920, 1080), (3000, 2000))
_UPDATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_BATCH = 10_000
_SUMMARY = re.compile(r"^SUMMARY (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Spread:
    """One turn of random requests."""

    rate: float
    """Requests per second."""
    p50_ms: float
    p99_ms: float
    cpu_ms: float = 0.0
    """Processor time of the server per request."""


def measure() -> Table:
    """Measure requests per second, latencies and processor time per request, with SQLite."""
    with tempfile.TemporaryDirectory(prefix="smartserve-tail-") as name:
        place = Path(name)
        fill(place / "data")
        return _table(_turns(place, {}), f"{ROWS:,} rows in SQLite", FILES)


def measure_mariadb() -> Table:
    """Measure the same with MariaDB and rows that are all in the row cache."""
    for needed in ("mariadbd", "mariadb-install-db", "mariadb"):
        program(needed)
    with (
        tempfile.TemporaryDirectory(prefix="smartserve-tail-") as name,
        private_mariadb("--innodb-buffer-pool-size=128M") as database,
    ):
        place, schema = Path(name), database.create_database()
        fill_mariadb(place / "data", database, schema, rows=KNOWN)
        settings = {"DATABASE__URL": database.url(schema)}
        taken = _turns(place, settings, all_known=True)
    return _table(taken, f"{KNOWN:,} known rows in MariaDB", KNOWN)


def _turns(
    place: Path, settings: Mapping[str, str], *, all_known: bool = False
) -> Mapping[str, Sequence[Spread]]:
    """Measure nginx and the server in turns; with ``all_known`` each target was requested once."""
    for needed in ("nginx", "wrk"):
        program(needed)
    data = place / "data"
    with ExitStack() as stack:
        server = stack.enter_context(smartserve(data, settings={**_SETTINGS, **settings}))
        static = stack.enter_context(nginx(place / "nginx", data / "renditions"))
        contestants: dict[str, Callable[[int], Spread]] = {
            _NGINX: lambda turn: spread(static, data / "files.txt", seed=turn),
            _SERVED: lambda turn: spread(
                server.address, data / "targets.txt", seed=turn, pid=server.pid
            ),
        }
        if all_known:
            targets = (data / "targets.txt").read_text().split()
            fetched(server.address, targets, clients=CONNECTIONS, accept=CHROME)
        for warm_up in contestants.values():
            warm_up(_TURNS)
        return in_turns(contestants, turns=_TURNS, alternate=True)


def spread(address: Address, targets: Path, *, seed: int, pid: int | None = None) -> Spread:
    """Request random targets of a file for one turn; ``pid`` is the server's process.

    Raises:
        Unmeasurable: a response was no success, or a connection failed.
    """
    script = Path(__file__).with_name("longtail.lua")
    arguments: list[str | Path] = [
        *("--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{_SECONDS}s"),
        *("--script", script, "--header", f"Accept: {CHROME}"),
        *(f"http://{address[0]}:{address[1]}", "--", targets, str(seed)),
    ]
    before = cpu_s(pid)
    done = subprocess.run([program("wrk"), *arguments], check=False, capture_output=True, text=True)
    match = _SUMMARY.search(done.stdout)
    if match is None or int(match[3]) or not int(match[1]):
        raise Unmeasurable(f"wrk failed, or not all answers were 200: {done.stdout}{done.stderr}")
    requests, seconds = int(match[1]), int(match[2]) / 1e6
    cpu_ms = 1000 * (cpu_s(pid) - before) / requests
    return Spread(requests / seconds, float(match[4]) / 1000, float(match[5]) / 1000, cpu_ms)


def cpu_s(pid: int | None) -> float:
    """Return the processor time that a process and its descendants have used."""
    ticks = 0
    for member in family(pid) if pid is not None else ():
        # The name in the second field may contain spaces.
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def fill(data_dir: Path, *, rows: int = ROWS, files: int = FILES) -> None:
    """Create a data directory: rows with their facts, and a final of some of them.

    ``targets.txt`` has the targets that are stored, ``files.txt`` their paths below
    ``renditions``, in the same order.
    """
    planner = asyncio.run(_prepare(data_dir))
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as database:
        database.execute("PRAGMA synchronous = OFF")
        for statement, values in _batches(rows):
            database.executemany(statement.replace("%s", "?"), values)
        database.commit()
    _store_some(data_dir, planner, rows=rows, files=files)


def fill_mariadb(data_dir: Path, server: MariaDB, schema: str, *, rows: int) -> None:
    """As `fill`, with the rows in an empty database of MariaDB and a final of each."""
    planner = asyncio.run(_prepare(data_dir, url=server.url(schema)))
    with closing(
        pymysql.connect(
            host="127.0.0.1",
            port=server.port,
            user="root",
            database=schema,
            init_command="SET time_zone = '+00:00'",
        )
    ) as database:
        with database.cursor() as cursor:
            for statement, values in _batches(rows):
                cursor.executemany(statement, values)
        database.commit()
    _store_some(data_dir, planner, rows=rows, files=rows)


async def _prepare(data_dir: Path, *, url: str = "") -> RenderPlanner:
    """Create the tables, and return what plans requests."""
    settings = load_settings(overrides={"data_dir": str(data_dir), "database": {"url": url}})
    async with open_services(settings) as services:
        return services.serving.planner


def _batches(rows: int) -> Iterator[tuple[str, list[tuple[object, ...]]]]:
    media = library(rows)
    while some := list(islice(media, _BATCH)):
        yield from inserts(some).items()


def _store_some(data_dir: Path, planner: RenderPlanner, *, rows: int, files: int) -> None:
    step = rows // files
    stored = (one for one in library(rows) if one.id % step == 0)
    store(data_dir, planner, islice(stored, files))


def library(rows: int) -> Iterator[Media]:
    """Yield media with facts, always the same: half of a camera's size, half cropped."""
    random_ = random.Random(1)
    for media_id in range(1, rows + 1):
        width, height = random_.choice(_CAMERAS)
        if media_id % 2:
            width, height = random_.randint(width // 2, width), random_.randint(height // 2, height)
        path = f"{media_id % 1000:03}/{media_id}.jpg"
        media = Media(
            id=media_id,
            user_id=media_id % 1000 + 1,
            data_type="product",
            original_name=f"IMG_{media_id}.jpg",
            mime_type="image/jpeg",
            file_size=2_500_000,
            bulk_path=path,
            library_path=None,
            status="completed",
            updated_at=_UPDATED,
        )
        facts = MediaFacts(
            content_hash=sha256(path.encode()).hexdigest(),
            byte_size=2_500_000,
            source_type="jpeg",
            width=width,
            height=height,
            has_alpha=False,
            pages=1,
            flat_background=False,
            focus=Focus(round(random_.random(), 4), round(random_.random(), 4)),
            source_path=path,
            row_version=media.row_version,
        )
        yield replace(media, facts=facts)


def inserts(media: Sequence[Media]) -> dict[str, list[tuple[object, ...]]]:
    """Return statements, with ``%s`` for parameters, and their values."""
    names = (
        *("id", "user_id", "data_type", "original_name", "mime_type", "file_size"),
        *("bulk_path", "status"),
    )
    rows = [
        (0, f"{_UPDATED:%Y-%m-%d %H:%M:%S}", *(getattr(one, name) for name in names))
        for one in media
    ]
    of_facts = (
        *("content_hash", "byte_size", "source_type", "width", "height", "has_alpha", "pages"),
        *("flat_background", "source_path", "row_version"),
    )
    known = [(one.id, one.facts) for one in media if one.facts is not None]
    facts = [
        (
            media_id,
            one.focus and one.focus.x,
            one.focus and one.focus.y,
            *(getattr(one, name) for name in of_facts),
        )
        for media_id, one in known
    ]
    return {
        _insert("media_files", ("main_api_id", "updated_at", *names)): rows,
        _insert("media_facts", ("media_id", "focus_x", "focus_y", *of_facts)): facts,
    }


def _insert(table: str, columns: Sequence[str]) -> str:
    values = ", ".join(["%s"] * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})"


def store(data_dir: Path, planner: RenderPlanner, media: Iterator[Media]) -> None:
    """Write the final of each medium, and the lists of targets and files."""
    paths = RenditionPaths(str(data_dir / "renditions"))
    request = parse_request(_QUERY, sizes=planner.rules.sizes)
    body, publishing = _body(), Lock()
    with (data_dir / "targets.txt").open("w") as targets, (data_dir / "files.txt").open("w") as of:
        for one in media:
            if one.facts is None:
                raise AssertionError
            variant: Variant = planner.plan(one, one.facts, request, CHROME).variant
            write_file(paths, WriteTicket(variant), body, publishing=publishing)
            targets.write(f"/serve/{one.id}?{_QUERY}\n")
            of.write(f"{paths.rendition(variant).removeprefix(paths.root)}\n")


def _body() -> bytes:
    """Return a thumbnail as a server renders it."""
    with (
        tempfile.TemporaryDirectory(prefix="smartserve-tail-") as place,
        smartserve(Path(place) / "data", "--samples", settings=stills.ONE_SIZE) as server,
    ):
        return stills.picture(server, tier="memory").body


def _table(taken: Mapping[str, Sequence[Spread]], rows_in: str, files: int) -> Table:
    rates = {name: [one.rate for one in turns] for name, turns in taken.items()}
    rows = [
        Row(
            name,
            rates[name],
            yardstick=rates[_NGINX],
            target=TARGET if name == _SERVED else None,
            remark=remark(taken[name]),
        )
        for name in taken
    ]
    served = taken[_SERVED]
    rows += [
        Row(
            "smartserve, ms of processor time per request",
            [one.cpu_ms for one in served],
            yardstick=[CPU_MS],
            limit=1.0,
        ),
        Row(
            "smartserve, p99 in ms, to p50",
            [one.p99_ms for one in served],
            yardstick=[one.p50_ms for one in served],
            limit=P99_OF_P50,
        ),
    ]
    return Table(
        f"requests per second; {files:,} thumbnails in random order, {rows_in}; one"
        f" process each, wrk with {CONNECTIONS} connections, {_TURNS} turns of {_SECONDS} s",
        rows,
        [
            f"Processor time: the ratio is that to {CPU_MS} ms.",
            "All files had just been written: the kernel has most of them in memory.",
            f"All answers were 200; {nginx_version()}, one worker, sendfile, no access log.",
        ],
        compared=[
            Comparison(
                f"hits/s spread over {files:,} files, {rows_in}, {CONNECTIONS} connections",
                _NGINX,
                rates[_SERVED],
                rates[_NGINX],
            )
        ],
    )


def remark(turns: Sequence[Spread]) -> str:
    """Return the medians of latencies and processor time."""
    p50, p99 = median(one.p50_ms for one in turns), median(one.p99_ms for one in turns)
    cpu_ms = median(one.cpu_ms for one in turns)
    used = f", {cpu_ms:.3f} ms of CPU each" if cpu_ms else ""
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms{used}"
