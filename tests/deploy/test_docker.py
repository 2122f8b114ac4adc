"""The Dockerfile: linted, its steps tried one by one, its restrictions applied without Docker."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.deploy import container
from tests.deploy.contained import contained
from tests.deploy.origin import Origin
from tests.deploy.programs import DEPLOY, program, run
from tests.faults.responses import fetch
from tests.support.ports import free_port
from tests.support.server import ROOT, Library

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
IGNORED = DEPLOY / "docker" / "Dockerfile.dockerignore"


@dataclass(frozen=True, slots=True)
class Line:
    """An instruction of a Dockerfile and its arguments."""

    name: str
    text: str


def instructions() -> list[Line]:
    whole = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", whole)
    return [Line(*line.split(" ", 1)) for line in joined.splitlines() if line.strip()]


def last(name: str) -> str:
    return [line.text for line in instructions() if line.name == name][-1]


def variables() -> dict[str, str]:
    """Return the variables of ENV, except PATH."""
    found = dict(part.split("=", 1) for part in last("ENV").split())
    return {name: value for name, value in found.items() if name != "PATH"}


def exec_form(text: str) -> list[str]:
    command: list[str] = json.loads(text[text.index("[") :])
    return command


def here(command: list[str]) -> list[str]:
    """Replace the programs of the image in a command by those of this environment."""
    return [str(Path(sys.executable).with_name(command[0])), *command[1:]]


def test_hadolint_reports_nothing() -> None:
    assert run(program("hadolint"), DOCKERFILE) == ""


def test_packages_are_verified_by_hash_and_the_server_is_not_root() -> None:
    installs = [line.text for line in instructions() if "pip install" in line.text]
    assert ["--require-hashes -r requirements.lock" in text for text in installs] == [True, False]
    assert "--no-deps --no-build-isolation" in installs[1]
    assert last("USER") == f"{container.UID}:{container.UID}"
    assert exec_form(last("ENTRYPOINT")) == ["smartserve"]


def test_files_are_on_the_volume_while_their_metadata_is_read() -> None:
    """/tmp may be memory, and files may have 1 GiB."""
    folder = Path(variables()["SMARTSERVE_METADATA__TEMP_ROOT"])
    assert folder.parent == Path(last("VOLUME"))
    assert "libimage-exiftool-perl" in last("RUN")


def test_the_model_of_faces_is_installed_where_the_server_reads_it() -> None:
    wanted = "SMARTSERVE_FACES__DIRECTORY"
    builds = "\n".join(line.text for line in instructions() if line.name == "RUN")
    # Joined by `&&`: the build must fail if the model cannot be installed.
    step = re.search(
        rf"&& {wanted}=(\S+) (/opt/smartserve)/bin/smartserve models install$", builds, re.MULTILINE
    )
    assert step is not None
    assert variables()[wanted] == step[1]
    assert Path(step[2]) in Path(step[1]).parents
    assert f"--from=build {step[2]} {step[2]}" in [
        line.text for line in instructions() if line.name == "COPY"
    ]


def test_dockerignore_allows_exactly_the_copied_files() -> None:
    copied = {
        part
        for line in instructions()
        if line.name == "COPY" and "--from" not in line.text
        for part in line.text.split()[:-1]
    }
    rules = [line for line in IGNORED.read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied


@pytest.mark.slow
def test_the_copied_files_are_enough_to_install_it(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for line in instructions():
        if line.name == "COPY" and "--from" not in line.text:
            for part in line.text.split()[:-1]:
                run("cp", "-r", ROOT / part, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*pip, "--target", target, source)
    described = {"PYTHONPATH": str(target)}
    output = run(
        sys.executable, "-m", "proxy.cli", "openapi", environment=described, directory=target
    )
    assert json.loads(output)["info"]["title"]
    assert (target / "proxy" / "samples" / "logo.png").is_file()
    migrations = target / "proxy" / "storage" / "database" / "migrations"
    assert len(list(migrations.glob("*/*.py"))) >= 2


def test_the_python_of_the_image_is_supported() -> None:
    version = re.search(r"PYTHON=([0-9.]+)-slim", DOCKERFILE.read_text())
    assert version is not None
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert version[1] == wanted.removeprefix(">=")


@pytest.mark.slow
def test_the_health_check_distinguishes_a_live_server_from_none(origin: Origin) -> None:
    check = here(exec_form(last("HEALTHCHECK")))
    for port, code in ((origin.port, 0), (free_port(), 1)):
        asked = os.environ | {"SMARTSERVE_SERVER__PORT": str(port)}
        done = subprocess.run(check, env=asked, stderr=subprocess.DEVNULL, check=False)
        assert done.returncode == code


@pytest.mark.slow
async def test_it_serves_and_drains_as_an_unprivileged_process_1_on_a_read_only_root(
    library: Library, data_dir: Path, tmp_path: Path
) -> None:
    large = f"/serve/{library.ids['large']}"
    command = here([*exec_form(last("ENTRYPOINT")), *exec_form(last("CMD"))])
    with contained(tmp_path, data_dir, command, settings=variables()) as server:
        async with aiohttp.ClientSession(server.base) as client:
            await server.until_ready(client)
            wanted = {"landlock", "seccomp", "no_new_privs", "user", "capabilities"}
            assert wanted <= await server.sandbox_features(client)
            assert (await fetch(client, f"{large}?size=grid&format=avif")).status == 200
            status = Path(f"/proc/{server.pid}/status").read_text()
            assert re.search(r"^NSpid:\s+\d+\s+1$", status, re.MULTILINE)
            assert re.search(rf"^Uid:\s+{container.UID}\s", status, re.MULTILINE)
            assert "CapEff:\t0000000000000000" in status
            async with client.get(f"{large}?size=detail&format=jpeg") as under_way:
                os.kill(server.pid, signal.SIGTERM)
                body = await under_way.read()
            assert body.startswith(b"\xff\xd8")
            assert body.endswith(b"\xff\xd9")
        assert server.process.wait(30) == 0
    log = server.log.read_text()
    assert "sandbox_incomplete" not in log
    assert "Read-only file system" not in log
