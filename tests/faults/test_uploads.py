"""Rows 12 and 18 for uploads: hostile forms and kills of a real server."""

from __future__ import annotations

import asyncio
import gzip
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.faults.conftest import Launch
from tests.faults.server import Server
from tests.faults.table import Figure, Record
from tests.faults.test_bodies import resident_bytes
from tests.support.uploads import BOUNDED, KEY, KEYED, PHOTO, SECRET, form, parts, signed
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_MIB = 1024 * 1024
_FLAT_BYTES = 24 * _MIB
_MAIN: dict[str, dict[str, object]] = {
    "main": {"key": KEY, "max_file_bytes": 5 * _MIB},
    "users": {"jwt_secret": SECRET},
}
_HEAD = 'form-data; name="profile_image"; filename="x.jpg"'


def temp_files(data_dir: Path) -> list[str]:
    root = data_dir / "temp_images"
    return sorted(f"/temp_images/{path.relative_to(root)}" for path in root.rglob("*.*"))


async def queued(server: Server) -> list[str]:
    """Return the paths of the queue, in order."""
    async with (
        server.client() as client,
        client.get("/api/media/pending/all", headers=KEYED) as answer,
    ):
        images: list[dict[str, Any]] = (await answer.json())["images"]
    return sorted(image["image_path"] for image in images)


async def test_hostile_forms_use_up_neither_memory_nor_disk(launch: Launch, record: Record) -> None:
    server = await launch(_MAIN)
    large = PHOTO.ljust(6 * _MIB, b"\0")
    forms: list[tuple[int, bytes, dict[str, str]]] = [
        (413, parts({"Content-Disposition": _HEAD}, body=large), {}),
        (415, gzip.compress(bytes(64 * _MIB), mtime=0), {"Content-Encoding": "gzip"}),
        (400, parts(*[{"Content-Disposition": 'form-data; name="x"'}] * 5000, body=b"x"), {}),
        (400, parts(*[{"Content-Disposition": _HEAD}] * 11), {}),
        (400, b"x\r\n" * 500_000, {}),
        (400, b"--b\r\n" + b"X: y\r\n" * 100_000, {}),
        (415, parts({"Content-Disposition": _HEAD}, body=b"%PDF-1.7" + bytes(_MIB)), {}),
    ]
    async with server.client() as client:
        before, peak, lost, times = resident_bytes(server.pid), 0, 0, 0
        for _ in range(3):
            found = await asyncio.gather(*(_ask(client, *one) for one in forms))
            lost += sum(
                status != expected for status, (expected, *_) in zip(found, forms, strict=True)
            )
            times += len(forms)
            peak = max(peak, resident_bytes(server.pid))
    assert lost == 0
    assert peak - before < _FLAT_BYTES
    assert temp_files(server.data_dir) == await queued(server) == []
    assert "Traceback" not in server.output()
    grown = f"server grew by {(peak - before) / _MIB:.0f} MiB"
    record(Figure(12, "forms too large, packed, of many parts, of other types", times, lost, grown))


async def _ask(
    client: aiohttp.ClientSession, _expected: int, body: bytes, headers: dict[str, str]
) -> int:
    async def pieces() -> Any:
        for at in range(0, len(body), 65_536):
            yield body[at : at + 65_536]

    sent = {**signed(), **BOUNDED, **headers}
    async with client.patch("/users/me", data=pieces(), headers=sent) as answer:
        return answer.status


async def test_an_answered_upload_survives_a_kill(launch: Launch, record: Record) -> None:
    """An answered upload has its row and file; every row has its file; others are deleted."""
    server = await launch(_MAIN)
    answered: set[str] = set()
    kills = 4
    for turn in range(kills):
        known = len(answered)
        uploading = [asyncio.create_task(_keep_uploading(server, answered)) for _ in range(4)]
        await eventually(partial(_has_more, answered, than=known), timeout_s=60)
        # The kill comes at a different moment in each round.
        await asyncio.sleep(turn * 0.13)
        server.signal(signal.SIGKILL)
        await asyncio.gather(*uploading)
        await server.stop()
        await server.start()
    rows = set(await queued(server))
    files = set(temp_files(server.data_dir))
    lost = len(answered - rows) + len(rows - files)
    assert lost == 0
    await eventually(
        lambda: not [path for path in temp_files(server.data_dir) if path.endswith(".part")]
    )
    measured = f"{len(answered)} answered, {len(files - rows)} files for the sweep"
    record(Figure(18, "kills while uploads come in", kills, lost, measured))


def _has_more(answered: set[str], *, than: int) -> bool:
    return len(answered) > than


async def _keep_uploading(server: Server, answered: set[str]) -> None:
    """Upload until the server has ended."""
    with suppress(aiohttp.ClientError, OSError):
        async with server.client() as client:
            while True:
                data = form({"profile_image": PHOTO})
                async with client.patch("/users/me", data=data, headers=signed()) as answer:
                    found = await answer.json()
                    assert answer.status == 200, found
                    answered.add(found["images"][0]["image_path"])
