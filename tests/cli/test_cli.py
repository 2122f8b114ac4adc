"""The command line, as a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer

from proxy.cli import MODULES, app, load
from tests.support.server import SAMPLES

SMARTSERVE = [sys.executable, "-m", "proxy.cli"]


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*SMARTSERVE, *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )


@contextmanager
def running(
    *arguments: str | Path, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and its base URL."""
    command = [*SMARTSERVE, "serve", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            found = re.search(r"http://\S+", first)
            assert found, first
            yield process, found[0]
        finally:
            process.kill()


def fetch(url: str, accept: str = "*/*") -> tuple[str, bytes, str]:
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.headers["Content-Type"], answer.read(), answer.headers["Cache-Status"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one's own: two pictures in it and below, a copy, and three that are none."""
    top = tmp_path / "pictures"
    (top / "below").mkdir(parents=True)
    shutil.copy(SAMPLES / "logo.png", top / "logo.png")
    shutil.copy(SAMPLES / "badge.png", top / "below" / "Schöne Grüße [1].png")
    shutil.copy(SAMPLES / "logo.png", top / "below" / "same.png")
    (top / "notes.txt").write_text("no picture")
    (top / "icon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (top / "cut.png").write_bytes((SAMPLES / "badge.png").read_bytes()[:9000])
    (top / ".hidden").write_text("left out")
    return top


def test_import_takes_a_folder_and_names_what_it_cannot(data: Path, folder: Path) -> None:
    done = run("import", folder, "--data-dir", data, "--user-id", "5", "--type", "logo", "--json")
    lines = {Path(line["path"]).name: line for line in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1
    assert set(lines) == {
        "logo.png",
        "Schöne Grüße [1].png",
        "same.png",
        "notes.txt",
        "icon.svg",
        "cut.png",
    }
    assert lines["logo.png"]["id"] == lines["same.png"]["id"]
    assert {lines["logo.png"]["known"], lines["same.png"]["known"]} == {False, True}
    assert lines["logo.png"]["url"].endswith(f"/serve/{lines['logo.png']['id']}")
    assert "svg" in lines["icon.svg"]["error"]
    assert [name for name, line in lines.items() if "error" in line] != []
    assert "error" in lines["cut.png"], "a cut file is refused"
    originals = [path for path in (data / "originals").rglob("*") if path.is_file()]
    assert len(originals) == 2, "nothing of a refused file stays"


def test_import_for_a_person_prints_id_and_url(data: Path) -> None:
    done = run("import", SAMPLES / "logo.png", "--data-dir", data)
    assert done.returncode == 0
    assert re.match(r"1\thttp://127.0.0.1:8080/serve/1\t.*logo.png\n", done.stdout)
    again = run("import", SAMPLES / "logo.png", "--data-dir", data)
    assert (again.returncode, "(known)" in again.stdout) == (0, True)


def test_a_path_that_is_not_there_is_named(data: Path, tmp_path: Path) -> None:
    done = run("import", tmp_path / "nothing", "--data-dir", data)
    assert done.returncode == 1
    assert "nothing: No such file" in done.stderr.replace("\n", "")


def test_serve_prints_addresses_that_answer_and_stops_on_sigterm(data: Path) -> None:
    with running("--data-dir", data, "--samples") as (process, base):
        assert process.stdout is not None
        sample = process.stdout.readline().strip()
        assert sample.startswith(f"{base}/serve/")
        assert fetch(sample, "image/avif")[0] == "image/avif"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_server_that_was_killed_serves_the_same_bytes_after(data: Path) -> None:
    with running("--data-dir", data, "--samples") as (process, base):
        before = fetch(f"{base}/serve/1?size=thumbnail")
        process.kill()
        process.wait(10)
    with running("--data-dir", data) as (_, base):
        after = fetch(f"{base}/serve/1?size=thumbnail")
    assert after[:2] == before[:2]


def test_no_worker_outlives_a_server_that_was_killed(data: Path) -> None:
    with running("--data-dir", data) as (process, _):
        children = _children(process.pid)
        process.kill()
        process.wait(10)
    assert children
    deadline = time.monotonic() + 5
    while any(_alive(pid) for pid in children):
        assert time.monotonic() < deadline, "workers are still there"
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_warm_renders_everything_once(data: Path) -> None:
    run("import", SAMPLES / "logo.png", "--data-dir", data)
    # Without a search of the quality, which takes its time.
    quick = {"SMARTSERVE_ENCODERS__TARGET": "0"}
    first = run("warm", "--data-dir", data, **quick)
    assert (first.returncode, first.stdout) == (0, "1\t25 rendered, 0 present\n")
    again = run("warm", "1", "--data-dir", data, **quick)
    assert again.stdout == "1\t0 rendered, 25 present\n"
    with running("--data-dir", data, **quick) as (_, base):
        for accept in ("image/webp", "image/avif,image/webp,*/*;q=0.8", "image/webp,*/*", "*/*"):
            for size in ("thumbnail", "grid", "zoom"):
                status = fetch(f"{base}/serve/1?size={size}", accept)[2]
                assert status.startswith("smartserve; hit"), (accept, size)
                assert not status.endswith("draft")


def test_warm_names_what_it_cannot_do(data: Path) -> None:
    done = run("warm", "77", "--data-dir", data)
    assert done.returncode == 1
    assert "77" in done.stderr


def test_a_purge_reaches_the_memory_of_a_running_server(data: Path) -> None:
    run("import", SAMPLES / "logo.png", "--data-dir", data)
    with running("--data-dir", data, SMARTSERVE_UPGRADES__ENABLED="false") as (_, base):
        url = f"{base}/serve/1?size=grid"
        fetch(url)
        assert fetch(url)[2].endswith("detail=memory")
        assert run("purge", "1", "--data-dir", data).stdout == "1\t1 dropped\n"
        deadline = time.monotonic() + 5
        while fetch(url)[2].endswith("detail=memory"):
            assert time.monotonic() < deadline, "still in memory"
            time.sleep(0.2)


def _renditions(data: Path) -> int:
    return sum(1 for path in (data / "renditions").glob("??/*/*") if path.is_file())


def test_a_purge_by_user_and_size_leaves_the_rest(data: Path) -> None:
    run("import", SAMPLES / "logo.png", "--data-dir", data, "--user-id", "5")
    run("import", SAMPLES / "badge.png", "--data-dir", data, "--user-id", "6")
    with running("--data-dir", data, SMARTSERVE_UPGRADES__ENABLED="false") as (_, base):
        for media_id in (1, 2):
            for query in ("size=grid", "size=grid&dpr=2", "size=thumbnail", "w=64"):
                fetch(f"{base}/serve/{media_id}?{query}")
        deadline = time.monotonic() + 10
        while _renditions(data) < 8:
            assert time.monotonic() < deadline, "not stored"
            time.sleep(0.02)
    done = run("purge", "--user-id", "5", "--size", "grid", "--data-dir", data)
    assert done.stdout == "1\t2 dropped\n"
    assert run("purge", "--user-id", "5", "--size", "grid", "--data-dir", data).stdout == (
        "1\t0 dropped\n"
    )
    assert run("purge", "2", "99", "--user-id", "77", "--data-dir", data).stdout == (
        "2\t4 dropped\n99\t0 dropped\n"
    )
    assert _renditions(data) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name media ids, or --user-id"),
        (["1", "--size", "huge"], "one of thumbnail, small"),
        (["1", "--size", ""], "one of thumbnail, small"),
    ],
)
def test_a_purge_that_names_nothing_or_no_size_is_a_usage_error(
    arguments: list[str], told: str, data: Path
) -> None:
    done = run("purge", *arguments, "--data-dir", data, NO_COLOR="1", COLUMNS="200")
    assert done.returncode == 2
    assert told in done.stderr


def test_check_config_tells_all_faults_at_once(tmp_path: Path) -> None:
    config = tmp_path / "bad.toml"
    config.write_text("[server]\nport = 99999\ncolour = 'red'\n[workers]\ncount = -1\n")
    done = run("check-config", "--config", config)
    assert done.returncode == 2
    for fault in ("server.port", "99999", "server.colour", "workers.count"):
        assert fault in done.stderr
    assert "Traceback" not in done.stderr


def test_check_config_names_faults_of_variables_and_of_the_machine() -> None:
    done = run(
        "check-config",
        SMARTSERVE_ENCODERS__ORDER="avif",
        SMARTSERVE_SERVER__PROT="9",
    )
    assert "encoders.order: must contain jpeg" in done.stderr
    assert "server.prot: no such setting" in done.stderr
    done = run(
        "check-config",
        SMARTSERVE_DATABASE__URL="postgres://user:secret@host/x",
        SMARTSERVE_STORAGE__ROOT="/nowhere",
    )
    assert done.returncode == 2
    assert "database.url" in done.stderr
    assert "storage.root: /nowhere" in done.stderr
    assert "secret" not in done.stderr


def test_a_list_in_the_environment_may_be_written_with_commas() -> None:
    assert run("check-config", SMARTSERVE_ENCODERS__ORDER="webp, avif,jpeg").returncode == 0


def test_output_that_nobody_reads_ends_the_command_quietly(data: Path, folder: Path) -> None:
    command = [*SMARTSERVE, "import", str(folder), "--data-dir", str(data), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read()
        process.wait(30)
    assert b"Traceback" not in told


@pytest.mark.parametrize("later_s", [0, 0.02, 0.05, 0.1])
def test_ctrl_c_ends_an_import_quietly(data: Path, folder: Path, later_s: float) -> None:
    """At several moments of its life: what it is cancelled in is the machine's choice."""
    command = [*SMARTSERVE, "import", str(folder), "--data-dir", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while not (data / "smartserve.db").exists():
            time.sleep(0.01)
        time.sleep(later_s)
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
        code = process.wait(30)
    assert b"Traceback" not in told
    # 1 where it had come to its end: the folder holds a file that is no picture.
    assert code in (130, 1)


@pytest.mark.parametrize(
    "wrong", [["serve", "--nonsense"], ["serve", "--port", "x"], ["import"], ["nonsense"]]
)
def test_a_usage_error_is_told_in_a_sentence(wrong: list[str]) -> None:
    done = run(*wrong)
    assert done.returncode == 2
    assert "Usage:" in done.stderr
    assert "Traceback" not in done.stderr


def test_each_command_is_in_the_module_it_is_imported_from() -> None:
    load()
    commands = typer.main.get_command(app)
    assert isinstance(commands, typer.core.TyperGroup)
    found = {
        name: "installation" if name == "db" else command.callback.__module__.rpartition(".")[2]
        for name, command in commands.commands.items()
        if name == "db" or command.callback is not None
    }
    assert found == MODULES


def test_a_short_command_does_not_wait_for_what_only_the_server_needs() -> None:
    script = "import sys, proxy.cli; proxy.cli.load('purge'); sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_version_is_told() -> None:
    assert run("--version").stdout.startswith("smartserve 0.")


def test_check_config_is_content_with_the_defaults_and_tells_the_versions_inside() -> None:
    done = run("check-config")
    first, libvips, codecs = done.stdout.splitlines()
    assert (done.returncode, first.startswith("ok")) == (0, True)
    assert re.match(r"libvips 8\.\d+\.\d+; opens jpeg, png, webp, avif, gif", libvips)
    for name in ("pyvips", "pyvips-binary"):
        assert re.search(rf"\b{name} \d+\.\d+", codecs)


KEY = "correct-horse-battery-staple"


def test_no_server_starts_on_an_address_of_others_without_a_key(data: Path) -> None:
    done = run("serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", data)
    assert done.returncode == 2
    assert "admin.key: other machines can reach server.host = '0.0.0.0'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not data.exists(), "it was refused before anything was made"
    checked = run("check-config", SMARTSERVE_SERVER__HOST="::")
    assert checked.returncode == 2
    assert "admin.key" in checked.stderr


@pytest.mark.parametrize(
    "settings",
    [{"SMARTSERVE_ADMIN__KEY": KEY}, {"SMARTSERVE_ADMIN__ENABLED": "false"}],
)
def test_with_a_key_or_without_admin_routes_it_starts_on_any_address(
    settings: dict[str, str], data: Path
) -> None:
    with (
        running("--data-dir", data, "--host", "0.0.0.0", **settings) as (_, base),
        urllib.request.urlopen(f"{base}/healthz", timeout=20) as answer,
    ):
        assert answer.status == 200


def test_check_config_never_prints_the_key(tmp_path: Path) -> None:
    """With good and with bad settings, all in one process: most of each run would be imports."""
    (tmp_path / "key").write_text(KEY)
    environments = (
        {"SMARTSERVE_ADMIN__KEY": KEY},
        {"SMARTSERVE_ADMIN__KEY_FILE": str(tmp_path / "key")},
        {"SMARTSERVE_ADMIN__KEY": KEY, "SMARTSERVE_SERVER__PORT": "x"},
        {"SMARTSERVE_ADMIN__KEY": KEY[:15]},
        {"SMARTSERVE_ADMIN__KEY": f"{KEY} {KEY}"},
        {"SMARTSERVE_ADMIN__KEY_FILE": KEY},
        {"SMARTSERVE_ADMIN": KEY},
        {"SMARTSERVE_ADMIN_KEY": KEY},
    )
    script = (
        "import json, os, sys\n"
        "from proxy.cli import main\n"
        "plain = dict(os.environ)\n"
        "for environment in json.loads(sys.argv.pop()):\n"
        "    os.environ.clear()\n"
        "    os.environ.update(plain | environment)\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as end:\n"
        "        print('ended with', end.code, flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "check-config", json.dumps(environments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    codes = re.findall(r"^ended with (\d)$", done.stdout, re.MULTILINE)
    assert codes == ["0", "0", "2", "2", "2", "2", "2", "2"]
    assert KEY[:15] not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_nothing_starts_with_a_package_below_its_floor(
    command: str, data: Path, tmp_path: Path
) -> None:
    """By a package's own record of its version, laid before the one that is installed."""
    record = tmp_path / "older" / "aiohttp-3.14.3.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: aiohttp\nVersion: 3.14.3\n")
    done = run(command, "--data-dir", data, PYTHONPATH=str(record.parent))
    assert done.returncode == 2
    assert "aiohttp: 3.14.3 is below 3.14.4" in done.stderr
    assert "Traceback" not in done.stderr


def test_db_upgrade_is_done_once(data: Path) -> None:
    assert run("db", "upgrade", "--data-dir", data).stdout == "upgraded\n"
    assert run("db", "upgrade", "--data-dir", data).stdout == "up to date\n"


def test_openapi_prints_the_description() -> None:
    described = json.loads(run("openapi").stdout)
    assert "/serve/{name}" in described["paths"]


def test_a_port_that_is_taken_is_said_in_a_sentence(data: Path) -> None:
    with running("--data-dir", data) as (_, base):
        done = run("serve", "--port", base.rpartition(":")[2], "--data-dir", data)
    assert done.returncode == 2
    assert "cannot listen on 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    ["serve", "import", "warm", "analyse", "purge", "check-config", "openapi"],
)
def test_help_reads(command: str) -> None:
    done = run(command, "--help", NO_COLOR="1", COLUMNS="100")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_analyse_tells_what_is_known_as_json_lines(data: Path) -> None:
    run("import", SAMPLES / "logo.png", min(SAMPLES.glob("*.jpg")), "--data-dir", data)
    done = run("analyse", "--data-dir", data)
    assert done.returncode == 0, done.stderr
    found = {one["id"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert set(found) == {1, 2}
    for one in found.values():
        assert 0 < one["quality_score"] <= 100
        assert one["dominant_colors"]
        assert one["style"] is None
        assert one["reasons"]["style"] == "needs a vision model; none is configured"


def test_analyse_names_what_it_cannot_do(data: Path) -> None:
    done = run("analyse", "77", "--data-dir", data)
    assert done.returncode == 1
    assert "77: there is no image with this id" in done.stderr
