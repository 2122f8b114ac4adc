"""Row 11: guessing keys is futile, secrets are not printed, no key means no public start."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from tests.benchmarks.servers import command, environment
from tests.faults.conftest import Launch
from tests.faults.server import Server
from tests.faults.table import Figure, Record
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

KEY = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {KEY}"}
NAMED = "a-name-in-the-database-url"
GUESSES = 4000
AT_ONCE = 40


def guesses() -> list[str]:
    """Yield nearly correct keys, random ones, and invalid text of all lengths."""
    near = [KEY[:-1], KEY + "a", KEY.upper(), KEY[::-1], f"{KEY}=", f"{KEY}/{KEY}"]
    near += [KEY[:at] + "x" + KEY[at + 1 :] for at in range(len(KEY))]
    rest = [secrets.token_urlsafe(1 + number % 90) for number in range(GUESSES - len(near))]
    return [*near, *rest]


async def attempt(client: aiohttp.ClientSession, path: str, headers: dict[str, str]) -> int:
    async with client.delete(path, headers=headers) as answer:
        text = await answer.text()
        assert KEY not in text
        assert (answer.status == 429) == ("Retry-After" in answer.headers)
        assert (answer.status == 401) == ("WWW-Authenticate" in answer.headers)
        return answer.status


async def guess_all(server: Server, path: str, keys: Sequence[str], **headers: str) -> Counter[int]:
    """Try keys from this address concurrently; return the number of responses by status."""
    left = iter(keys)
    statuses: Counter[int] = Counter()
    async with server.client() as client:

        async def guess_remaining() -> None:
            for key in left:
                named = {"Authorization": f"Bearer {key}", **headers}
                statuses[await attempt(client, path, named)] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(guess_remaining())
    return statuses


async def get(server: Server, target: str) -> tuple[str, bytes]:
    async with server.client() as client, client.get(target) as answer:
        return answer.headers.get("Cache-Status", ""), await answer.read()


async def stored(server: Server, target: str) -> None:
    """Return when an image is served from memory."""

    async def reached() -> bool:
        return (await get(server, target))[0].endswith("memory")

    await eventually(reached, timeout_s=20)


@pytest.mark.drill
async def test_thousands_of_wrong_keys_open_nothing_and_do_not_delay_images(
    launch: Launch, library: Library, record: Record
) -> None:
    """Ten are compared, the rest are refused; clients without failures are not affected."""
    server = await launch({"admin": {"key": KEY, "failure_window_s": 3000}})
    photo = f"/serve/{library.ids['photo']}?size=grid"
    path = f"/api/media/{library.ids['photo']}/renditions"
    _, body = await get(server, photo)
    await stored(server, photo)

    through = {"X-Forwarded-For": "203.0.113.9"}
    guessing = asyncio.create_task(guess_all(server, path, guesses(), **through))
    asked = lost = 0
    while not guessing.done():
        status, found = await get(server, photo)
        lost += found != body or not status.endswith("memory")
        asked += 1
    statuses = await guessing

    assert statuses == {401: 10, 429: GUESSES - 10}
    assert lost == 0
    for reason, count in {"wrong": 10, "blocked": GUESSES - 10, "missing": 0}.items():
        assert await server.metric("smartserve_auth_failures_total", reason=reason) == count
    async with server.client() as client:
        assert await attempt(client, path, {**BEARER, **through}) == 200, "through the proxy too"
    assert KEY not in server.output()
    record(
        Figure(11, "wrong keys through a proxy", GUESSES, lost, f"10 compared, {asked} pictures")
    )


async def test_wrong_keys_are_limited_and_the_right_one_purges(
    launch: Launch, library: Library, record: Record
) -> None:
    server = await launch({"admin": {"key": KEY, "max_failures": 3, "failure_window_s": 300}})
    photo = f"/serve/{library.ids['photo']}?size=grid"
    path = f"/api/media/{library.ids['photo']}/renditions"
    await get(server, photo)
    await stored(server, photo)

    statuses = await guess_all(server, path, ["wrong"] * 3)
    assert statuses == {401: 3}
    async with server.client() as client:
        assert await attempt(client, path, BEARER) == 200
    assert not (await get(server, photo))[0].endswith("memory"), "purged"
    record(Figure(11, "wrong keys limited, and the right one heard", 3, 0))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError:
        # The kernel lets only root read the environment of a worker.
        return b""


async def test_secrets_are_printed_nowhere(
    launch: Launch, data_dir: Path, library: Library, record: Record
) -> None:
    """Neither the key nor the database's URL appears in a response, a log line, or a worker."""
    named = {"admin": {"key": KEY}, "database": {"url": _renamed(data_dir)}}
    server = await launch({**named, "log": {"level": "debug"}})
    media = library.ids["photo"]
    places: dict[str, bytes] = {}
    targets = ("/metrics", "/openapi.json", "/healthz", "/readyz", f"/serve/{media}?size=grid")
    for target in (*targets, "/serve/x", "/nothing", f"/api/media/{media}/renditions"):
        places[target] = (await get(server, target))[1]
    headers = [{}, BEARER, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {KEY} x"}]
    async with server.client() as client:
        for number, header in enumerate(headers):
            path = f"/api/media/{media}/renditions?size=huge"
            async with client.delete(path, headers=header) as answer:
                shown = f"{answer.status} {answer.headers} {await answer.text()}"
                places[f"answer {number}"] = shown.encode()
    await server.until_workers(2)
    for pid in server.workers():
        for name in ("environ", "cmdline"):
            places[f"worker's {name} {pid}"] = _read(Path(f"/proc/{pid}/{name}"))
        assert b"SMARTSERVE" not in places[f"worker's environ {pid}"], "it has no setting at all"
    places["cmdline"] = _read(Path(f"/proc/{server.pid}/cmdline"))
    places["check-config"] = await _check_config(server.data_dir)
    await server.stop()
    places["log"] = server.log.read_bytes()

    assert len(places["log"]) > 100
    leaks = [place for place, text in places.items() if KEY.encode() in text]
    leaks += [place for place, text in places.items() if NAMED.encode() in text]
    assert leaks == []
    record(Figure(11, "places searched for the key and the database's URL", len(places), 0))


def _renamed(data_dir: Path) -> str:
    """Return the library's database under a name that can be searched for."""
    named = data_dir / f"{NAMED}.db"
    with (
        closing(sqlite3.connect(data_dir / "smartserve.db")) as source,
        closing(sqlite3.connect(named)) as target,
    ):
        source.backup(target)
    return f"sqlite+aiosqlite:///{named}"


async def _check_config(data_dir: Path) -> bytes:
    """Return the output of ``check-config`` with valid and with invalid settings."""
    printed = b""
    for port in ("8080", "x"):
        process = await asyncio.create_subprocess_exec(
            *command("check-config"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment(ADMIN__KEY=KEY, SERVER__PORT=port, DATABASE__URL=_renamed(data_dir)),
        )
        printed += (await process.communicate())[0]
    assert b"ok: defaults" in printed
    assert b"server.port" in printed
    return printed


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_no_start_on_a_public_address_without_a_key(
    host: str, data_dir: Path, record: Record
) -> None:
    refused = Server(data_dir, {"server": {"host": host}})
    await refused.start(fails=True)
    assert await refused.ended() == 2
    assert "the admin routes have no key" in refused.output()

    keyed = Server(data_dir, {"server": {"host": host}, "admin": {"key": KEY}})
    try:
        await keyed.start()
    finally:
        await keyed.stop()
    record(Figure(11, f"start on {host} without a key, and with one", 2, 0))
