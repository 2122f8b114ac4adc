"""``smartserve doctor`` as a process of its own, at real servers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.servers import free_port, smartserve
from tests.deploy.front import nginx
from tests.doctor.test_table import names
from tests.support.mariadb import MariaDB
from tests.support.server import Library

COMMAND = [sys.executable, "-m", "proxy.cli", "doctor"]


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if "SMARTSERVE_" not in name}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**bare, **environment},
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {one["check"]: one for one in json.loads(done.stdout)["checks"]}


def of(found: dict[str, dict[str, Any]], verdict: str) -> list[str]:
    return [name for name, one in found.items() if one["verdict"] == verdict]


def test_an_installation_that_is_well_with_nginx_in_front(
    data_dir: Path, library: Library, tmp_path: Path
) -> None:
    with (
        smartserve(data_dir, settings={"WORKERS__COUNT": "1"}) as server,
        nginx(tmp_path / "front", "cache", upstream=server.address[1]) as front,
    ):
        addresses = "--url", f"http://127.0.0.1:{server.address[1]}", "--public", front.base
        once = {"SMARTSERVE_WORKERS__COUNT": "1"}
        done = run("--data-dir", data_dir, *addresses, "--json", **once)
        again = run("--data-dir", data_dir, *addresses, **once)
    found = told(done)
    assert list(found) == names()
    assert of(found, "fail") == []
    assert set(of(found, "warn")) <= {"worker", "server", "database"}, "but a busy machine"
    assert set(of(found, "skipped")) == {"database connections", "main API", "vision keys"}
    assert f"process {server.pid}" in found["user"]["seen"]
    whole = json.loads(done.stdout)
    assert whole["healthy"] is True
    assert whole["counts"] == {
        **dict.fromkeys(("ok", "warn", "fail", "skipped"), 0),
        **Counter(one["verdict"] for one in found.values()),
    }
    assert (done.returncode, again.returncode) == (0, 0)
    lines = [line.split("\t") for line in again.stdout.splitlines()]
    assert [line[1] for line in lines] == names()
    assert {len(line) for line in lines} <= {3, 4}
    assert "0 fail, " in again.stderr


def test_a_server_that_is_not_running_is_a_fault_with_advice(data_dir: Path) -> None:
    done = run("--data-dir", data_dir, "--url", f"http://127.0.0.1:{free_port()}", "--json")
    found = told(done)
    assert (done.returncode, of(found, "fail")) == (1, ["server"])
    assert "systemctl status smartserve" in found["server"]["advice"]
    assert found["server"]["alert"] == "The server is not ready"
    assert found["picture formats"]["verdict"] == "skipped"


def test_the_plain_form_says_what_to_do_and_where_there_is_more(data_dir: Path) -> None:
    done = run("--data-dir", data_dir, "--url", f"http://127.0.0.1:{free_port()}")
    line = next(line for line in done.stdout.splitlines() if line.startswith("fail\tserver\t"))
    assert "Connection refused" in line
    assert line.endswith("(deploy/OPERATING.md: The server is not ready)")
    assert "1 fail (server), 0 warn, " in done.stderr


def test_a_picture_that_does_not_show_is_looked_into(data_dir: Path, library: Library) -> None:
    media_id = library.ids["logo"]
    shutil.rmtree(data_dir / "originals")
    (data_dir / "originals").mkdir()
    with smartserve(data_dir, settings={"WORKERS__COUNT": "1"}) as server:
        url = f"http://127.0.0.1:{server.address[1]}"
        done = run(str(media_id), "--data-dir", data_dir, "--url", url, "--json")
    found = told(done)
    assert list(found) == names(row=True)
    assert done.returncode == 1
    assert found["picture row"]["verdict"] == "ok"
    assert "the original of this picture is missing" in found["picture original"]["seen"]
    assert f"/serve/{media_id} is answered 404" in found["picture formats"]["seen"]


def test_settings_that_cannot_be_loaded_are_the_only_thing_that_is_told(tmp_path: Path) -> None:
    config = tmp_path / "broken.toml"
    config.write_text("[server]\nport = 70000\n[storag]\nroot = '/x'\n")
    done = run("--config", config, "--json")
    found = told(done)
    assert (done.returncode, list(found)) == (1, ["settings"])
    assert "server.port" in found["settings"]["seen"]
    assert "storag" in found["settings"]["seen"]


def test_nothing_is_made_where_nothing_is(tmp_path: Path) -> None:
    """Neither an SQLite file, nor a folder, nor a key."""
    done = run("--data-dir", tmp_path / "data", "--url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_changed_where_a_server_was(data_dir: Path) -> None:
    def state() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}

    before = state()
    run("--data-dir", data_dir, "--url", f"http://127.0.0.1:{free_port()}")
    assert state() == before


def test_a_running_server_whose_database_was_stopped(mariadb: MariaDB, tmp_path: Path) -> None:
    url = mariadb.url(mariadb.create_database())
    settings = {"DATABASE__URL": url, "WORKERS__COUNT": "1"}
    data_dir = tmp_path / "data"
    for folder in ("originals", "renditions"):
        (data_dir / folder).mkdir(parents=True)
    with smartserve(data_dir, settings=settings) as server:
        mariadb.stop()
        try:
            base = f"http://127.0.0.1:{server.address[1]}"
            named = {f"SMARTSERVE_{name}": value for name, value in settings.items()}
            done = run("--data-dir", data_dir, "--url", base, "--json", **named)
        finally:
            mariadb.start()
    found = told(done)
    assert done.returncode == 1
    assert "Can't connect" in found["database"]["seen"]
    assert found["database"]["alert"] == "The database is away"
    assert found["server readiness"]["seen"].startswith("database: ")
    assert found["server readiness"]["advice"] == "see the checks of the database"
    assert "failed since it started" in found["database failures"]["seen"]
    assert url not in done.stdout


@pytest.mark.parametrize("columns", ["80", "200"])
def test_for_a_person_there_is_a_table(columns: str, data_dir: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    done = run(
        *("--data-dir", data_dir, "--url", address),
        FORCE_COLOR="1",
        COLUMNS=columns,
    )
    plain = " ".join(done.stdout.replace("\x1b", " ").split())
    assert "seen, and what to do" in plain
    assert "31mfail" in plain
