"""Row 9: nothing in an id, an extension or a path of the database leads out of the root."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image

from tests.benchmarks.client import Answer, Connection
from tests.faults.conftest import Launch
from tests.faults.server import Server
from tests.faults.table import Figure, Record
from tests.faults.trace import traced
from tests.support.server import Library
from tests.support.swapping import swapped

pytestmark = pytest.mark.slow

INSIDE, OUTSIDE = (40, 30), (50, 50)
"""Sizes of the image that may be served and of the one that may not."""
FIRST_ID = 5_000_000
RACES = 40

OF_LIBC = {"/sys/devices/system/cpu/online"}
"""malloc(3) reads it for each new thread, to determine the number of arenas."""

STEPS = (
    "..",
    "%2e%2e",
    ".%2E",
    "%252e%252e",
    "%25252e%25252e",
    "%c0%ae%c0%ae",
    "%e0%80%ae%e0%80%ae",
    "%uff0e%uff0e",
    "%EF%BC%8E%EF%BC%8E",
    "..;",
    "..%00",
    "..%3b",
    "%2e%2e%20",
)
SLASHES = ("/", "%2f", "%2F", "%252f", "%5c", "\\", "%c0%af", "%e0%80%af", "%EF%BC%8F", ";/", "//")
ODD_IDS = (
    "1%00",
    "%001",
    "1%00.webp",
    "1.webp%00.jpg",
    "1%0a",
    "1%0d%0aX:1",
    "+1",
    "-1",
    "1e0",
    "0x1",
    "1.",
    "1..webp",
    ".webp",
    "1.we/bp",
    "1.webp.jpg",
    "1.w%65bp%2f..",
    "%D9%A1",
    "%EF%BC%91",
    "%E2%91%A0",
    "%c0%b1",
    "1%20",
    "%201",
    "1~",
    "1[page=1]",
    "1.jpg[shrink=2]",
    "1;v=1",
    "1%ff",
    "99999999999999999999",
    "1/2",
    "/1",
    "%2f1",
    "file:///etc/passwd",
    "*",
    "~root",
    "$HOME",
    "con.jpg",
)


def hostile_targets() -> Iterator[str]:
    """Yield targets that try to leave the root; none is that of an image."""
    for route in ("/serve/", "/api/images/"):
        yield from (route + odd for odd in ODD_IDS)
        for step in STEPS:
            for slash in SLASHES:
                up = f"{step}{slash}" * 6
                yield f"{route}{up}etc{slash}passwd"
                yield f"{route}1{slash}{up}etc{slash}passwd.jpg"


def picture(side: tuple[int, int], colour: str) -> bytes:
    """Return an image of one colour."""
    target = io.BytesIO()
    Image.new("RGB", side, colour).save(target, "PNG")
    return target.getvalue()


class TrappedRoot:
    """A storage root with traps, beside files that must stay private."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.root = data_dir / "originals"
        self.secret = data_dir.parent / "secret"
        self.secret.mkdir()
        (self.secret / "x.png").write_bytes(picture(OUTSIDE, "red"))
        (self.root.parent / "originals-old").mkdir()
        (self.root.parent / "originals-old" / "x.png").write_bytes(picture(OUTSIDE, "red"))
        (self.root / "in").mkdir()
        self._ids = iter(range(FIRST_ID, 2 * FIRST_ID))
        self._expected: dict[int, int] = {}
        self._set_traps()
        self._set_names()

    def _set_traps(self) -> None:
        root, secret = self.root, self.secret
        (root / "link.png").symlink_to(secret / "x.png")
        (root / "relative.png").symlink_to("../../secret/x.png")
        (root / "linked").symlink_to(secret)
        (root / "up").symlink_to("..")
        (root / "slash").symlink_to("/")
        (root / "chain").symlink_to("linked")
        (root / "in" / "link").symlink_to(secret)
        os.mkfifo(root / "fifo")
        with suppress(PermissionError):
            os.mknod(root / "device", 0o666 | 0o020000, os.makedev(1, 5))
        with closing(socket.socket(socket.AF_UNIX)) as listener:
            here = os.open(root, os.O_PATH)
            listener.bind(f"/proc/self/fd/{here}/socket")
            os.close(here)

    def _set_names(self) -> None:
        for name in ("x.png[shrink=2]", "a\nb.png", "..x.png", "%2e%2e", "-rf.png", "in/x.png"):
            (self.root / name).write_bytes(picture(INSIDE, "green"))

    def paths(self) -> Mapping[str, int]:
        """Return paths for the database, with the status that a request for each must return."""
        root, secret = self.root, self.secret
        outside = (
            "../secret/x.png",
            "../../secret/x.png",
            "in/../../../secret/x.png",
            f"{secret}/x.png",
            f"//{secret}/x.png",
            f"{root}/../../secret/x.png",
            f"{root}/../originals-old/x.png",
            f"{root}-old/x.png",
            f"{root}{secret}/x.png",
            f"{root}/{root}/../../../secret/x.png",
            "/etc/passwd",
            "/dev/zero",
            "/proc/self/environ",
            "/proc/self/cwd/pyproject.toml",
            "file:///etc/passwd",
            "link.png",
            "relative.png",
            "linked/x.png",
            "up/../secret/x.png",
            "up/smartserve.db",
            f"slash{secret}/x.png",
            "chain/x.png",
            "in/link/x.png",
            "fifo",
            "device",
            "socket",
            "in",
            "in/",
            "in/x.png/",
            "in/x.png/..",
            ".",
            "in/x.png\0.jpg",
            "in/x.png[page=1]",
            "x.png",
        )
        inside = ("x.png[shrink=2]", "a\nb.png", "..x.png", "%2e%2e", "-rf.png", "in/x.png")
        return dict.fromkeys(outside, 404) | dict.fromkeys((*inside, f"{root}/in/x.png"), 200)

    def announce(self, paths: list[str]) -> dict[int, str]:
        """Insert rows with these paths; return the paths by media id."""
        rows = {next(self._ids): path for path in paths}
        with closing(sqlite3.connect(self.data_dir / "smartserve.db", timeout=30)) as database:
            database.executemany(
                "INSERT INTO media_files (id, main_api_id, user_id, data_type, bulk_path, status) "
                "VALUES (?, 1, 1, 'event', ?, 'completed')",
                rows.items(),
            )
            database.commit()
        return rows

    @contextmanager
    def swapping(self) -> Iterator[list[str]]:
        """Yield paths whose file or directory is a link to the secret half of the time."""
        for place in ("race", "race-in/here"):
            (self.root / place).mkdir(parents=True)
            (self.root / place / "x.png").write_bytes(picture(INSIDE, "green"))
        file, directory = self.root / "race" / "x.png", self.root / "race-in" / "here"
        with swapped(file, self.secret / "x.png"), swapped(directory, self.secret):
            yield ["race/x.png", "race-in/here/x.png"]


def ask(server: Server, target: str) -> Answer:
    """Return one response, on a connection of its own."""
    with Connection(("127.0.0.1", server.port)) as connection:
        return connection.get(target)


def asked_for_each(server: Server, ground: TrappedRoot) -> int:
    """Request every path of the root; return their number."""
    rows = ground.announce(list(ground.paths()))
    for media_id, path in rows.items():
        answer = ask(server, f"/serve/{media_id}?size=thumbnail")
        assert answer.status == ground.paths()[path], (path, answer.body)
        if answer.status == 200:
            assert Image.open(io.BytesIO(answer.body)).size == (30, 30)
    return len(rows)


def asked_for_hostile_ids(server: Server) -> int:
    """Request every hostile target; return their number."""
    targets = list(hostile_targets())
    for target in targets:
        answer = ask(server, target)
        assert answer.status in (400, 404), (target, answer)
        assert answer.headers["content-type"] == "application/problem+json"
        assert b"root:" not in answer.body
    return len(targets)


def statuses_while_swapping(server: Server, ground: TrappedRoot) -> Counter[int]:
    """Return the statuses of requests for swapped files; no body is the secret."""
    statuses: Counter[int] = Counter()
    with ground.swapping() as paths:
        for media_id in ground.announce(paths * RACES):
            answer = ask(server, f"/serve/{media_id}?w=640&format=png")
            statuses[answer.status] += 1
            if answer.status == 200:
                assert Image.open(io.BytesIO(answer.body)).size == INSIDE
    return statuses


async def test_every_hostile_id_is_answered_with_a_problem(launch: Launch) -> None:
    server = await launch()
    assert await asyncio.to_thread(asked_for_hostile_ids, server) > 600


async def test_no_path_in_the_database_leads_out_of_the_root(launch: Launch) -> None:
    server = await launch()
    ground = TrappedRoot(server.data_dir)
    assert await asyncio.to_thread(asked_for_each, server, ground) > 30


async def test_a_file_swapped_for_a_link_never_reveals_the_secret(launch: Launch) -> None:
    server = await launch()
    statuses = await asyncio.to_thread(
        statuses_while_swapping, server, TrappedRoot(server.data_dir)
    )
    assert statuses.keys() <= {200, 404}


@pytest.mark.drill
async def test_no_request_opens_a_file_outside_the_root(
    launch: Launch, library: Library, record: Record, tmp_path: Path
) -> None:
    """About 15 s."""
    server = await launch()
    ground = TrappedRoot(server.data_dir)
    acts: list[Callable[[], object]] = [
        lambda: asked_for_hostile_ids(server),
        lambda: asked_for_each(server, ground),
        lambda: statuses_while_swapping(server, ground),
        lambda: ask(server, f"/serve/{library.ids['photo']}?size=grid"),
    ]
    await asyncio.to_thread(ask, server, f"/serve/{library.ids['logo']}?size=grid")
    async with traced(server.pid, tmp_path / "trace") as trace:
        for act in acts:
            await asyncio.to_thread(act)
        opened = trace.opened()
    inside = [path for path in opened if Path(path).is_relative_to(server.data_dir)]
    # The trace works: the images that may be opened are in it.
    assert sum(path.startswith(str(ground.root)) for path in inside) > 10
    assert set(opened) - set(inside) <= OF_LIBC
    asked = len(list(hostile_targets())) + len(ground.paths()) + 2 * RACES
    measured = f"{len(inside)} opened below the data directory, none elsewhere"
    record(Figure(9, "hostile ids, paths and swapped files asked for", asked, 0, measured))
