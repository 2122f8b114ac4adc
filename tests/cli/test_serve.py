"""``smartserve serve``, as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.benchmarks.processes import family
from tests.cli.conftest import Invoke
from tests.support.commands import KEY, SMARTSERVE, fetch, run, running, started
from tests.support.ports import free_port
from tests.support.server import SAMPLES
from tests.support.waiting import wait_until


def test_the_worker_starts_before_most_of_the_program_is_imported() -> None:
    heavy = "{'aiohttp', 'sqlalchemy', 'jwt', 'rich', 'proxy.app.services'}"
    script = (
        "import sys; from proxy.cli import load; load('serve');"
        "assert 'proxy.rendering.pool.pool' in sys.modules;"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert done.stdout.strip() == b"[]"


@pytest.mark.slow
def test_a_server_runs_without_packages_that_it_does_not_use(data: Path) -> None:
    with running("--data-dir", data) as (process, _):
        # The first start creates the tables, with alembic.
        process.kill()
        process.wait(20)
    unused = "{'alembic', 'cryptography', 'jwt', 'mako', 'pymysql', 'rich', 'sqlalchemy.orm'}"
    script = (
        "import sys, proxy.cli\n"
        f"sys.argv = ['smartserve', 'serve', '--port', '0', '--data-dir', {str(data)!r}]\n"
        "try:\n    proxy.cli.main()\n"
        f"finally:\n    print(sorted({unused} & set(sys.modules)))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "SMARTSERVE_SERVER__LAME_DUCK_S": "0"},
    ) as process:
        assert process.stdout is not None
        try:
            base = process.stdout.readline().split()[-1]
            with urllib.request.urlopen(f"{base}/readyz", timeout=60) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGTERM)
            assert process.stdout.read().splitlines()[-1] == "[]"
        finally:
            process.kill()


def test_serve_prints_urls_that_answer_and_exits_on_sigterm(data: Path) -> None:
    with running("--data-dir", data, "--samples") as (process, base):
        assert process.stdout is not None
        sample = process.stdout.readline().strip()
        assert sample.startswith(f"{base}/serve/")
        assert fetch(sample, "image/avif")[0] == "image/avif"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.slow
def test_import_prints_the_address_of_the_running_server(data: Path, invoke: Invoke) -> None:
    with running("--data-dir", data) as (_, base):
        done = invoke("import", SAMPLES / "logo.png", "--data-dir", data)
    assert done.stdout.split("\t")[1].startswith(f"{base}/serve/")


@pytest.mark.slow
def test_the_server_answers_and_ends_although_nobody_reads_standard_error(data: Path) -> None:
    # A pipe holds 64 KiB: 350 lines of the access log.
    with started(["--data-dir", data], {}, stderr=subprocess.PIPE) as (process, base):
        for _ in range(1000):
            with urllib.request.urlopen(f"{base}/healthz", timeout=10) as answer:
                assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.slow
def test_the_server_runs_although_nobody_reads_standard_output(data: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    port = free_port()
    command = [*SMARTSERVE, "serve", "--port", str(port), "--samples", "--data-dir", str(data)]
    with subprocess.Popen(command, stdout=writing, stderr=subprocess.DEVNULL) as process:
        os.close(writing)

        def answers() -> bool:
            assert process.poll() is None
            try:
                return bool(fetch(f"http://127.0.0.1:{port}/serve/1"))
            except urllib.error.URLError:
                return False

        wait_until(answers, timeout_s=120)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_serve_refuses_a_public_address_without_a_key(data: Path, invoke: Invoke) -> None:
    done = invoke("serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", data)
    assert done.code == 2
    assert "admin.key: other machines can reach server.host = '0.0.0.0'" in done.stderr
    assert not data.exists(), "it was refused before anything was created"


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"SMARTSERVE_ADMIN__KEY": KEY}, {"SMARTSERVE_ADMIN__ENABLED": "false"}]
)
def test_serve_accepts_a_public_address_with_a_key_or_without_admin_routes(
    settings: dict[str, str], data: Path
) -> None:
    with (
        running("--data-dir", data, "--host", "0.0.0.0", **settings) as (_, base),
        urllib.request.urlopen(f"{base}/healthz", timeout=20) as answer,
    ):
        assert answer.status == 200


@pytest.mark.slow
def test_a_restart_after_a_kill_serves_the_same_bytes(data: Path) -> None:
    with running("--data-dir", data, "--samples") as (process, base):
        before = fetch(f"{base}/serve/1?size=thumbnail")
        process.kill()
        process.wait(10)
    with running("--data-dir", data) as (_, base):
        after = fetch(f"{base}/serve/1?size=thumbnail")
    assert after[:2] == before[:2]


@pytest.mark.slow
def test_no_worker_outlives_a_killed_server(data: Path) -> None:
    with running("--data-dir", data) as (process, _):
        children = family(process.pid)[1:]
        process.kill()
        process.wait(10)
    assert children
    wait_until(lambda: not any(_alive(pid) for pid in children))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_port_in_use_is_reported_without_a_traceback(data: Path) -> None:
    with running("--data-dir", data) as (_, base):
        done = run("serve", "--port", base.rpartition(":")[2], "--data-dir", data)
    assert done.returncode == 2
    assert "cannot listen on 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_nothing_starts_with_a_package_below_its_minimum_version(
    command: str, data: Path, tmp_path: Path
) -> None:
    # The record of an older version precedes the installed one on the path.
    record = tmp_path / "older" / "aiohttp-3.14.3.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: aiohttp\nVersion: 3.14.3\n")
    done = run(command, "--data-dir", data, PYTHONPATH=str(record.parent))
    assert done.returncode == 2
    assert "aiohttp: 3.14.3 is below 3.14.4" in done.stderr
    assert "Traceback" not in done.stderr
