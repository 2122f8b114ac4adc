"""``smartserve doctor``: its output and exit codes, and the checks of real servers (slow)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from proxy.cli import app, load
from tests.benchmarks.servers import bare_environment, smartserve
from tests.deploy.front import nginx
from tests.doctor.test_table import names
from tests.support.mariadb import MariaDB
from tests.support.ports import free_port
from tests.support.server import Library

load("doctor")


def invoke(*arguments: str | Path, **environment: str) -> Result:
    """Run the command in this process; what it logs would be mixed with its output."""
    with capture_logs():
        return CliRunner().invoke(app, ["doctor", *map(str, arguments)], env=environment)


def checks(output: str) -> dict[str, dict[str, Any]]:
    return {one["check"]: one for one in json.loads(output)["checks"]}


def of(found: dict[str, dict[str, Any]], verdict: str) -> list[str]:
    return [name for name, one in found.items() if one["verdict"] == verdict]


def test_a_server_that_is_not_running_fails_with_advice(data_dir: Path) -> None:
    done = invoke("--data-dir", data_dir, "--url", f"http://127.0.0.1:{free_port()}", "--json")
    found = checks(done.stdout)
    assert (done.exit_code, of(found, "fail")) == (1, ["server"])
    assert "systemctl status smartserve" in found["server"]["advice"]
    assert found["server"]["alert"] == "The server is not ready"
    assert found["served formats"]["verdict"] == "skipped"


def test_a_pipe_receives_one_line_for_each_check(data_dir: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    done = invoke("--data-dir", data_dir, "--url", address, SMARTSERVE_FACES__ENABLED="false")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[1] for line in lines] == names()
    assert {len(line) for line in lines} <= {3, 4}
    (server,) = (line for line in lines if line[1] == "server")
    assert "Connection refused" in server[2]
    assert server[3].endswith("(deploy/OPERATING.md: The server is not ready)")
    assert "1 fail (server), 0 warn, " in done.stderr


def test_a_terminal_receives_a_table(data_dir: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    done = invoke("--data-dir", data_dir, "--url", address, FORCE_COLOR="1", COLUMNS="80")
    plain = " ".join(done.stdout.replace("\x1b", " ").split())
    assert "finding, and what to do" in plain
    assert "31mfail" in plain


def test_settings_that_cannot_be_loaded_are_the_only_check(tmp_path: Path) -> None:
    config = tmp_path / "broken.toml"
    config.write_text("[server]\nport = 70000\n[storag]\nroot = '/x'\n")
    done = invoke("--config", config, "--json")
    found = checks(done.stdout)
    assert (done.exit_code, list(found)) == (1, ["settings"])
    assert "server.port" in found["settings"]["seen"]
    assert "storag" in found["settings"]["seen"]


def test_an_empty_machine_stays_empty(tmp_path: Path) -> None:
    done = invoke("--data-dir", tmp_path / "data", "--url", f"http://127.0.0.1:{free_port()}")
    assert done.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_the_files_of_a_stopped_server_are_not_changed(data_dir: Path) -> None:
    def state() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}

    before = state()
    invoke("--data-dir", data_dir, "--url", f"http://127.0.0.1:{free_port()}")
    assert state() == before


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "proxy.cli", "doctor", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**bare_environment(), **environment},
    )


@pytest.mark.slow
def test_a_sound_installation_behind_nginx_passes(
    data_dir: Path, library: Library, tmp_path: Path
) -> None:
    with (
        smartserve(data_dir, settings={"WORKERS__COUNT": "1"}) as server,
        nginx(tmp_path / "front", "cache", upstream=server.address[1]) as front,
    ):
        addresses = "--url", f"http://127.0.0.1:{server.address[1]}", "--public", front.base
        one_worker = {"SMARTSERVE_WORKERS__COUNT": "1"}
        done = run("--data-dir", data_dir, *addresses, "--json", **one_worker)
    found = checks(done.stdout)
    assert (done.returncode, list(found), of(found, "fail")) == (0, names(), [])
    # A busy machine may be slow, and this data directory has no model.
    assert set(of(found, "warn")) <= {"worker", "server", "database", "face detector"}
    not_used = ["http originals", "http originals safety", "object storage", "redis"]
    not_used += ["render locks", "main API"]
    assert of(found, "skipped") == not_used
    whole = json.loads(done.stdout)
    assert whole["healthy"] is True
    assert whole["counts"] == {
        **dict.fromkeys(("ok", "warn", "fail", "skipped"), 0),
        **Counter(one["verdict"] for one in found.values()),
    }


@pytest.mark.slow
def test_an_image_without_its_original_is_explained(data_dir: Path, library: Library) -> None:
    media_id = library.ids["logo"]
    shutil.rmtree(data_dir / "originals")
    (data_dir / "originals").mkdir()
    with smartserve(data_dir, settings={"WORKERS__COUNT": "1"}) as server:
        url = f"http://127.0.0.1:{server.address[1]}"
        done = run(str(media_id), "--data-dir", data_dir, "--url", url, "--json")
    found = checks(done.stdout)
    assert (done.returncode, list(found)) == (1, names(image=True))
    assert found["image row"]["verdict"] == "ok"
    assert "is missing" in found["image original"]["seen"]
    assert f"/serve/{media_id} answers 404" in found["served formats"]["seen"]


@pytest.mark.slow
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
    found = checks(done.stdout)
    assert done.returncode == 1
    assert "Can't connect" in found["database"]["seen"]
    assert found["database"]["alert"] == "The database is away"
    assert found["server readiness"]["seen"].startswith("database: ")
    assert "see the checks" in found["server readiness"]["advice"]
    assert url not in done.stdout
