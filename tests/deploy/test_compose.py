"""The compose file: valid by its schema, confined, and consistent."""

from __future__ import annotations

import re
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.settings import Settings, access_faults, load_settings
from tests.deploy.front import installed
from tests.deploy.programs import DEPLOY, program, replaced, run
from tests.support.ports import free_port

FOLDER = DEPLOY / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
_DRAINED_S = 5
"""Time after the drain: for the last connections, the workers and the interpreter."""


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Return the folder with the secrets that prepare.sh creates."""
    folder = tmp_path / "compose"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("secrets"))
    # Any other line is an error of a command in the script.
    (line,) = run("sh", folder / "prepare.sh").splitlines()
    assert line.startswith("secrets/: admin_key ")
    return folder


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text.removesuffix("s"))


def test_the_file_is_valid_by_the_schema() -> None:
    schema = "vendor.compose-spec"
    run(program("check-jsonschema"), "--builtin-schema", schema, FOLDER / "compose.yaml")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"].keys() >= {"memory", "pids"}
    assert "privileged" not in service
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", ()))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_health_check(name: str) -> None:
    # One has its check in the image, the other ends when its work is done.
    assert "healthcheck" in SERVICES[name] or name in ("smartserve", "migrate")


@pytest.mark.parametrize("name", SERVICES)
def test_no_password_is_in_the_file(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if re.search("PASSWORD|KEY|SECRET", variable) and "RANDOM" not in variable:
            assert variable.endswith("_FILE")
            assert value.removeprefix("/run/secrets/") in SERVICES[name]["secrets"]


def test_every_image_has_a_version() -> None:
    tags = {name: service["image"].partition(":")[2] for name, service in SERVICES.items()}
    assert {name for name, tag in tags.items() if not tag} == {"smartserve", "migrate"}
    assert "latest" not in tags.values()


def test_every_mounted_file_exists() -> None:
    for kind in ("configs", "secrets", "volumes"):
        for service in SERVICES.values():
            for one in service.get(kind, ()):
                name = one["source"] if isinstance(one, dict) else one.partition(":")[0]
                assert name in COMPOSE[kind]
    files = [one["file"] for one in COMPOSE["configs"].values() if "file" in one]
    assert [file for file in files if not (FOLDER / file).is_file()] == []


def test_only_nginx_and_grafana_are_published() -> None:
    published = {name for name, service in SERVICES.items() if "ports" in service}
    assert published == {"nginx", "grafana"}
    outside = {name for name, one in SERVICES.items() if "outside" in one["networks"]}
    assert outside == published
    assert COMPOSE["networks"]["inside"]["internal"] is True


def test_only_proxies_of_the_inner_network_are_trusted(prepared: Path) -> None:
    settings = load_settings(prepared / "secrets" / "settings", {})
    (subnet,) = COMPOSE["networks"]["inside"]["ipam"]["config"]
    assert settings.server.trusted_proxies == (subnet["subnet"],)


def test_traces_are_sent_to_a_confined_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schema = "vendor.compose-spec"
    run(program("check-jsonschema"), "--builtin-schema", schema, FOLDER / "tracing.yaml")
    services: dict[str, Any] = yaml.safe_load((FOLDER / "tracing.yaml").read_text())["services"]
    jaeger = services["jaeger"]
    assert all(jaeger[key] == value for key, value in COMPOSE["x-locked"].items())
    assert jaeger["deploy"]["resources"]["limits"].keys() >= {"memory", "pids"}
    assert all(port.startswith("127.0.0.1:") for port in jaeger["ports"])
    for name, value in services["smartserve"]["environment"].items():
        monkeypatch.setenv(name, value)
    section = load_settings().tracing
    assert section.enabled
    assert not section.honour_parent
    assert section.endpoint == "http://jaeger:4318/v1/traces"
    source = (DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text()
    (destination,) = yaml.safe_load(source)["datasources"][0]["jsonData"][
        "exemplarTraceIdDestinations"
    ]
    assert destination["url"].startswith("http://localhost:16686/trace/")


def test_the_grace_period_covers_the_drain() -> None:
    grace_s = seconds(SERVICES["smartserve"]["stop_grace_period"])
    server = Settings().server
    assert grace_s >= server.lame_duck_s + server.drain_s + _DRAINED_S


def test_secrets_are_created_once_and_only_for_their_owner(prepared: Path) -> None:
    secrets = prepared / "secrets"
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    assert set(before) >= set(COMPOSE["secrets"])
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert before["database"] in before["settings"]
    assert len({len(before[name]) for name in ("database", "grafana", "admin_key")}) == 1
    run("sh", prepared / "prepare.sh")
    assert {file.name: file.read_text() for file in secrets.iterdir()} == before


def test_the_settings_allow_a_public_address(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = prepared / "secrets" / "admin_key"
    monkeypatch.setenv("SMARTSERVE_ADMIN__KEY_FILE", str(key))
    monkeypatch.setenv("SMARTSERVE_SERVER__HOST", "0.0.0.0")
    settings = load_settings(prepared / "secrets" / "settings", {})
    assert access_faults(settings) == []
    url = f"smartserve:{(prepared / 'secrets' / 'database').read_text()}@database/oaf_media"
    assert settings.database.url == f"mysql+aiomysql://{url}"
    assert SERVICES["database"]["environment"]["MARIADB_DATABASE"] == "oaf_media"
    assert SERVICES["database"]["environment"]["MARIADB_USER"] == "smartserve"


def test_nginx_finds_its_files_where_they_are_mounted(tmp_path: Path) -> None:
    command = installed(tmp_path, "cache", port=free_port(), upstream=free_port())
    targets = {one["target"] for one in SERVICES["nginx"]["configs"]}
    mounted = {target.rpartition("/")[2] for target in targets if "/smartserve/" in target}
    for file in (tmp_path / "smartserve").iterdir():
        if file.name not in mounted:
            file.unlink()
    upstream = (FOLDER / "upstream.conf").read_text()
    own = tmp_path / "smartserve" / "upstream.conf"
    own.write_text(replaced(upstream, "smartserve:8080", "127.0.0.1:8080"))
    site = COMPOSE["configs"]["nginx_site"]["content"]
    main = tmp_path / "nginx.conf"
    main.write_text(replaced(main.read_text(), "include smartserve/cache.conf;", site))
    run(*command, "-t")
    port = re.search(r"listen (\d+);", (DEPLOY / "nginx" / "cache.conf").read_text())
    assert port is not None
    assert SERVICES["nginx"]["ports"] == [f"8000:{port[1]}"]


def test_bodies_of_requests_at_nginx_are_on_disk() -> None:
    """The image nginx-unprivileged keeps them in /tmp."""
    service = SERVICES["nginx"]
    assert not any(one.startswith("/tmp") for one in service.get("tmpfs", ()))
    (volume,) = (one.partition(":")[0] for one in service["volumes"] if one.endswith(":/tmp"))
    assert volume in COMPOSE["volumes"]


def test_prometheus_scrapes_existing_hosts() -> None:
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    asked = {host for host, _ in re.findall(r"(?:http://|\"|replacement: )(\w+):(\d+)", text)}
    assert asked == {"smartserve", "blackbox"}
    assert asked <= set(SERVICES)
