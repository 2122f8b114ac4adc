"""The checks of Redis, with a real server, and of locks in the rendition directory."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.doctor import cluster
from proxy.doctor.check import Finding, Verdict
from proxy.settings import Settings
from tests.doctor.conftest import run_area
from tests.support.redis import RedisServer
from tests.support.server import make_settings


async def redis_of(tmp_path: Path, url: str, **section: Any) -> Finding:
    settings = make_settings(tmp_path, cluster={"redis_url": url, **section})
    return (await run_area("redis", settings))["redis"]


async def locks_of(settings: Settings) -> Finding:
    return (await run_area("redis", settings))["render locks"]


@pytest.fixture
def shared(tmp_path: Path) -> Settings:
    """Settings of a server with a shared rendition directory; the directory exists."""
    settings = make_settings(tmp_path, cluster={"render_once": True})
    settings.rendition_directory.mkdir(parents=True)
    return settings


async def test_without_redis_nothing_is_checked(settings: Settings) -> None:
    found = await run_area("redis", settings)
    assert {one.verdict for one in found.values()} == {Verdict.SKIPPED}
    assert found["redis"].seen == "cluster.redis_url is not set"


async def test_a_redis_that_answers_passes(tmp_path: Path, redis: RedisServer) -> None:
    found = await redis_of(tmp_path, redis.url, redis_timeout_s=20)
    assert found.verdict is Verdict.OK
    assert found.seen.startswith("PING answered in ")
    # What the check has set is gone after a second.
    assert all(0 < redis.execute("PTTL", key) <= 1000 for key in redis.execute("KEYS", "*"))


async def test_a_port_on_which_nothing_listens_fails(tmp_path: Path) -> None:
    with socket.socket() as unused:
        # Bound and not listening, so that no other program gets the port.
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        found = await redis_of(tmp_path, f"redis://:secret-password@127.0.0.1:{port}/0")
    assert found.verdict is Verdict.FAIL
    assert f"127.0.0.1:{port}" in found.seen
    assert found.advice.startswith("start Redis, or correct cluster.redis_url")
    assert "secret-password" not in found.seen + found.advice


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a program that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_a_redis_that_hangs_fails_after_the_timeout(tmp_path: Path, silent: int) -> None:
    url = f"redis://127.0.0.1:{silent}/0"
    found = await redis_of(tmp_path, url, redis_timeout_s=0.2)
    assert (found.verdict, found.seen) == (Verdict.FAIL, "no answer within 0.2 s")
    assert "cluster.redis_timeout_s" in found.advice


async def test_a_paused_redis_fails_after_the_timeout(tmp_path: Path, redis: RedisServer) -> None:
    redis.pause()
    found = await redis_of(tmp_path, redis.url, redis_timeout_s=0.2)
    assert (found.verdict, found.seen) == (Verdict.FAIL, "no answer within 0.2 s")


@pytest.mark.parametrize(
    ("rights", "reason"),
    [
        (["resetkeys", "~other:*"], "keys"),
        (["-publish"], "publish"),
        (["resetchannels"], "channels"),
        (["-subscribe"], "subscribe"),
        (["-eval"], "eval"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
async def test_missing_rights_fail_with_the_words_of_redis(
    rights: list[str], reason: str, tmp_path: Path, redis: RedisServer
) -> None:
    redis.execute("ACL", "SETUSER", "images", "reset", "on", ">pass", "~*", "&*", "+@all", *rights)
    url = f"redis://images:pass@127.0.0.1:{redis.port}/0"
    found = await redis_of(tmp_path, url, redis_timeout_s=20)
    assert found.verdict is Verdict.FAIL
    assert reason in found.seen.lower(), found.seen
    assert "cluster.redis_prefix" in found.advice


async def test_a_wrong_password_and_a_replica_fail(tmp_path: Path, redis: RedisServer) -> None:
    wrong = await redis_of(tmp_path, f"redis://images:wrong@127.0.0.1:{redis.port}/0")
    assert wrong.verdict is Verdict.FAIL
    assert "password" in wrong.seen
    redis.execute("REPLICAOF", "127.0.0.1", "1")
    try:
        replica = await redis_of(tmp_path, redis.url, redis_timeout_s=20)
    finally:
        redis.execute("REPLICAOF", "NO", "ONE")
    assert replica.verdict is Verdict.FAIL
    assert "read only replica" in replica.seen.lower()
    assert "primary" in replica.advice


async def test_locks_of_a_shared_directory_pass_and_leave_no_file(shared: Settings) -> None:
    found = await locks_of(shared)
    assert (found.verdict, found.seen) == (Verdict.OK, "a locked byte is refused to others")
    assert list(shared.rendition_directory.iterdir()) == []


async def test_the_file_of_the_servers_is_used_if_it_exists(shared: Settings) -> None:
    (shared.rendition_directory / "locks").mkdir()
    found = await locks_of(shared)
    assert found.verdict is Verdict.FAIL
    assert found.seen.endswith("/locks: Is a directory")


async def test_a_directory_that_is_missing_fails(tmp_path: Path) -> None:
    found = await locks_of(make_settings(tmp_path, cluster={"render_once": True}))
    assert found.verdict is Verdict.FAIL
    assert found.seen.endswith(": No such file or directory")


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Simulate a file system without locks: there is none on this machine.

    An error of 0 grants every lock.
    """

    def replace(error: int) -> None:
        def simulated(_file: int, _command: int, _argument: bytes) -> bytes:
            if error:
                raise OSError(error, os.strerror(error))
            return b""

        monkeypatch.setattr(fcntl, "fcntl", simulated)

    return replace


async def test_a_file_system_without_locks_fails(
    shared: Settings, control: Callable[[int], None]
) -> None:
    control(errno.ENOLCK)
    found = await locks_of(shared)
    assert (found.verdict, found.seen) == (
        Verdict.FAIL,
        f"{shared.rendition_directory}/locks: No locks available",
    )
    assert "NFS 4" in found.advice
    control(0)
    found = await locks_of(shared)
    assert found.verdict is Verdict.FAIL
    assert "two open files can lock the same byte" in found.seen


async def test_with_redis_locks_that_fail_are_a_warning(
    tmp_path: Path, redis: RedisServer, control: Callable[[int], None]
) -> None:
    settings = make_settings(tmp_path, cluster={"redis_url": redis.url})
    settings.rendition_directory.mkdir(parents=True)
    control(errno.ENOLCK)
    found = await locks_of(settings)
    assert found.verdict is Verdict.WARN
    assert found.advice.startswith("with Redis they are used only while it fails")


@pytest.mark.parametrize(
    ("render_once", "verdict"),
    [(True, Verdict.WARN), ("auto", Verdict.OK)],
    ids=("several servers", "one server"),
)
async def test_locks_of_one_machine_only_matter_to_several_servers(
    render_once: str | bool,  # noqa: FBT001 - the values of the setting
    verdict: Verdict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "local_lock_mount", lambda _root: "nfs4")
    settings = make_settings(
        tmp_path, cluster={"render_once": render_once}, server={"processes": 2}
    )
    settings.rendition_directory.mkdir(parents=True)
    found = await locks_of(settings)
    assert found.verdict is verdict
    if verdict is Verdict.WARN:
        assert "is on nfs4, whose locks hold on this machine only" in found.seen
        assert "without nolock" in found.advice
