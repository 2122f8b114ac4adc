"""The systemd units: verified by systemd, and their system call filter applied to a live server."""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
import tomllib
from pathlib import Path

import aiohttp
import pytest

from proxy.settings import load_settings
from tests.deploy.contained import contained
from tests.deploy.programs import DEPLOY, program, replaced, run
from tests.faults.responses import fetch
from tests.support.server import ROOT, Library

FOLDER = DEPLOY / "systemd"
UNITS = sorted(file.name for file in FOLDER.glob("*.service"))
PRODUCTION = ROOT / "config" / "production.toml"


def test_systemd_accepts_every_unit_without_a_warning(tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    command = Path(sys.executable).with_name("smartserve")
    for name in UNITS:
        text = replaced((FOLDER / name).read_text(), "/opt/smartserve/bin/smartserve", str(command))
        text = replaced(text, "file:///opt/smartserve/deploy/OPERATING.md", "https://example.org/")
        (tmp_path / name).write_text(text)
    # It warns about users and units that do not exist on this machine, which is expected.
    output = run(analyze, "verify", *(tmp_path / name for name in UNITS), check=False)
    assert [line for line in output.splitlines() if any(name in line for name in UNITS)] == []


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_has_a_low_exposure_score(name: str) -> None:
    output = run(program("systemd-analyze"), "security", "--offline=true", FOLDER / name)
    level = re.search(r"exposure level for \S+ ([0-9.]+)", output)
    assert level is not None
    assert float(level[1]) < 2


def test_both_units_have_the_same_confinement() -> None:
    def confinement(name: str) -> list[str]:
        lines = (FOLDER / name).read_text().splitlines()
        last = lines.index("SystemCallErrorNumber=EPERM")
        return lines[lines.index("NoNewPrivileges=yes") : last]

    first, second = ([line for line in confinement(one) if line[0] != "#"] for one in UNITS)
    assert first == second


def test_the_stop_timeout_covers_the_drain_and_the_folders_are_private() -> None:
    unit = (FOLDER / "smartserve.service").read_text()
    settings = tomllib.loads(PRODUCTION.read_text())
    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert stop is not None
    server = settings["server"]
    assert int(stop[1]) >= server["lame_duck_s"] + server["drain_s"] + 5
    assert settings["data_dir"] == "/var/lib/smartserve"
    assert settings["renditions"]["directory"] == "/var/cache/smartserve"
    # Private, on disk, and writable; /tmp may be memory.
    assert settings["metadata"]["temp_root"] == "/var/lib/smartserve/metaextract"
    files = re.search(r"^LimitNOFILE=(\d+)$", unit, re.MULTILINE)
    assert files is not None
    assert int(files[1]) > 2 * 10_000


def values(name: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.+)$", (FOLDER / name).read_text(), re.MULTILINE)


def test_the_unit_that_runs_the_ingest_worker_may_write_originals() -> None:
    settings = load_settings(PRODUCTION)
    writers = {"smartserve.service"} if settings.ingest.embedded else {"smartserve-ingest.service"}
    root = f"-{settings.storage.root}"
    assert {name for name in UNITS if root in values(name, "ReadWritePaths")} == writers
    # A worker in another process is not woken by an upload.
    assert settings.ingest.poll_interval_s <= 10
    text = (FOLDER / "smartserve.service").read_text()
    assert "systemctl enable --now smartserve smartserve-ingest\n" in text


def test_the_steps_of_the_installation_work_on_a_new_machine(tmp_path: Path) -> None:
    (tmp_path / "etc" / "systemd" / "system").mkdir(parents=True)
    text = (FOLDER / "smartserve.service").read_text()
    # What follows several spaces is a remark.
    steps = re.findall(r"^# {5}(install .+?)(?: {3}.*)?$", text, re.MULTILINE)
    assert len(steps) == 3
    for step in steps:
        run("sh", "-ec", replaced(step, " /etc/", f" {tmp_path}/etc/"), directory=ROOT)
    folder = tmp_path / "etc" / "smartserve"
    assert stat.S_IMODE((folder / "secrets").stat().st_mode) == 0o600
    assert (folder / "production.toml").read_bytes() == PRODUCTION.read_bytes()
    assert sorted(path.name for path in (folder.parent / "systemd" / "system").iterdir()) == UNITS


@pytest.mark.parametrize("file", ["systemd/smartserve.service", "OPERATING.md"])
def test_the_guides_run_commands_with_the_secrets_and_settings_of_the_unit(file: str) -> None:
    text = re.sub(r" \\\n#? +", " ", (DEPLOY / file).read_text())
    (line,) = re.findall(r"^(?:# +)?(systemd-run .+)$", text, re.MULTILINE)
    (user,) = values("smartserve.service", "User")
    (secrets,) = values("smartserve.service", "EnvironmentFile")
    (config,) = (
        one for one in values("smartserve.service", "Environment") if "SMARTSERVE_CONFIG" in one
    )
    (start,) = values("smartserve.service", "ExecStart")
    assert f"--uid={user} -p EnvironmentFile={secrets} -p Environment={config} " in line
    assert f" {start.removesuffix(' serve')} " in line


def allowed(name: str) -> list[str]:
    """Return the system calls that a unit's filter allows, by systemd's own sets."""
    lines = re.findall(r"^SystemCallFilter=(.+)$", (FOLDER / name).read_text(), re.MULTILINE)
    found: set[str] = set()
    for line in lines:
        members = {call for part in line.lstrip("~").split() for call in expanded(part)}
        found = found - members if line.startswith("~") else found | members
    return sorted(found)


def expanded(part: str) -> set[str]:
    """Return a system call, or all of a set and of its subsets."""
    if not part.startswith("@"):
        return {part}
    output = run(program("systemd-analyze"), "syscall-filter", part)
    lines = (line.strip() for line in output.splitlines()[1:])
    members = [line for line in lines if line and not line.startswith("#")]
    return {call for member in members for call in expanded(member)}


@pytest.mark.slow
async def test_it_serves_with_the_system_calls_that_a_unit_allows(
    library: Library, data_dir: Path, tmp_path: Path
) -> None:
    command = [str(Path(sys.executable).with_name("smartserve")), "serve"]
    only = allowed("smartserve.service")
    assert "openat" in only
    assert not {"mount", "chown", "setuid", "bpf"} & set(only)
    settings = {"SMARTSERVE_DATA_DIR": "/var/lib/smartserve"}
    with contained(tmp_path, data_dir, command, settings=settings, only=only) as server:
        async with aiohttp.ClientSession(server.base) as client:
            await server.until_ready(client)
            assert {"landlock", "seccomp", "capabilities"} <= await server.sandbox_features(client)
            for kind in ("avif", "webp", "jpeg", "png"):
                target = f"/serve/{library.ids['photo']}?size=thumbnail&format={kind}"
                assert (await fetch(client, target)).status == 200
        os.kill(server.pid, signal.SIGTERM)
        assert server.process.wait(30) == 0
