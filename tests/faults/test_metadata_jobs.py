"""If a server is killed while it runs a metadata job, another server completes the job."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.benchmarks.processes import family
from tests.faults.conftest import Launch
from tests.faults.outage import moved_in
from tests.faults.server import Sections, Server
from tests.metadata.files import jpeg
from tests.support.mariadb import MariaDB
from tests.support.server import Library
from tests.support.uploads import MAIN
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_LONG_S = 120.0
_JOBS = "/api/extract/jobs"
_KEYED = {"Authorization": f"Bearer {MAIN['key']}"}


@asynccontextmanager
async def keyed(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    async with server.client(headers=_KEYED) as client:
        yield client


async def add(server: Server) -> str:
    """Send a file that is in no cache, and return the id of its job."""
    form = aiohttp.FormData()
    content = jpeg(comment=secrets.token_hex(16).encode())
    form.add_field("file", content, filename="a.jpg", content_type="image/jpeg")
    async with keyed(server) as client, client.post(_JOBS, data=form) as answer:
        assert answer.status == 202, await answer.text()
        return str((await answer.json())["id"])


async def seen(server: Server, job_id: str, *statuses: str) -> dict[str, Any]:
    """Return the job as soon as it has one of these statuses."""
    job: dict[str, Any] = {}

    async def reached() -> bool:
        nonlocal job
        async with keyed(server) as client, client.get(f"{_JOBS}/{job_id}") as answer:
            assert answer.status == 200, await answer.text()
            job = await answer.json()
        return job["status"] in statuses

    await eventually(reached, timeout_s=_LONG_S)
    return job


def files(folder: Path) -> list[str]:
    """The files of jobs."""
    return [one.name for one in folder.iterdir() if one.name != "folder-id"]


def engines(server: Server) -> list[int]:
    """The processes of a server, without itself."""
    return [pid for pid in family(server.pid) if pid != server.pid]


@pytest.fixture(params=["mariadb", "sqlite"])
async def url(
    request: pytest.FixtureRequest, library: Library, tmp_path: Path
) -> tuple[str, list[Path]]:
    """Return a database, and two data directories of servers that share it."""
    folders = [library.copy(tmp_path / name) for name in ("here", "there")]
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{folders[0] / 'smartserve.db'}", folders
    server: MariaDB = request.getfixturevalue("mariadb")
    name = await moved_in(server, folders[0], library.ids)
    return f"mysql+aiomysql://proxy@127.0.0.1:{server.port}/{name}", folders


async def test_the_job_of_a_killed_server_is_taken_over_and_the_lost_attempt_counts(
    launch: Launch, url: tuple[str, list[Path]], tmp_path: Path
) -> None:
    address, (here, there) = url
    shared = tmp_path / "jobs"
    metadata = {"engine": "pillow", "engines": 1, "job_lease_s": 2, "job_root": shared}
    sections: Sections = {"main": MAIN, "database": {"url": address}}

    def own(folder: Path) -> Sections:
        temp = {"temp_root": tmp_path / f"{folder.name}-metaextract"}
        return {**sections, "metadata": {**metadata, **temp}}

    victim = await launch(own(here), data_dir=here)
    # The engines start with the first job.
    await seen(victim, await add(victim), "completed")
    await eventually(lambda: files(shared) == [], timeout_s=_LONG_S)
    stopped = engines(victim)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    job_id = await add(victim)
    job = await seen(victim, job_id, "processing")
    assert job["attempts"] == 1
    await victim.kill()
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert files(shared) == [job_id]
    survivor = await launch(own(there), data_dir=there)
    job = await seen(survivor, job_id, "completed", "failed")
    assert (job["status"], job["attempts"]) == ("completed", 2)
    assert job["result"]["metadata"]["exif"]["make"] == "Canon"
    await eventually(lambda: files(shared) == [], timeout_s=_LONG_S)
    assert await survivor.metric("smartserve_metadata_jobs_total", outcome="taken_over") == 1


async def test_a_server_that_cannot_read_the_file_leaves_the_job_to_the_one_that_can(
    launch: Launch, url: tuple[str, list[Path]], tmp_path: Path
) -> None:
    address, (here, there) = url
    metadata = {"engine": "pillow", "engines": 1, "job_lease_s": 2}
    sections: Sections = {"main": MAIN, "database": {"url": address}}

    def own(folder: Path) -> Sections:
        temp = {"temp_root": tmp_path / f"{folder.name}-metaextract"}
        return {**sections, "metadata": {**metadata, **temp}}

    victim = await launch(own(here), data_dir=here)
    await seen(victim, await add(victim), "completed")
    stopped = engines(victim)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    job_id = await add(victim)
    await seen(victim, job_id, "processing")
    await victim.kill()
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    other = await launch(own(there), data_dir=there)
    # Its lease has expired, and the other server does not take it.
    await seen(other, job_id, "pending")
    await seen(other, await add(other), "completed")
    job = await seen(other, job_id, "pending")
    assert job["attempts"] == 1
    await victim.start()
    job = await seen(other, job_id, "completed", "failed")
    assert (job["status"], job["attempts"]) == ("completed", 2)
