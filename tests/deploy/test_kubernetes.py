"""The manifests as kustomize builds them: valid by their schemas, consistent with the server."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from proxy.settings import Settings, access_faults, load_settings
from proxy.web.routes import describe
from tests.deploy.programs import DEPLOY, replaced, run

FOLDER = DEPLOY / "kubernetes"
OVERLAYS = ("small", "production")
VERSIONS = ("1.33", "1.37")
_DRAINED_S = 5
"""Time after the drain: for the last connections, the workers and the interpreter."""

_EXAMPLES = {
    "database-url": "mysql+aiomysql://smartserve:password@db.example.org:3306/oaf_media",
    "redis-url": "redis://:password@redis.example.org:6379/0",
    "s3-access-key-id": "id",
    "s3-secret-access-key": "key",
}
"""The keys of the Secret, as the comment of the overlay creates them."""

Manifest = dict[str, Any]


def kustomize(folder: Path) -> tuple[Manifest, ...]:
    # Debian has no package, and building it needs Go: without it the manifests are not tested.
    program = shutil.which("kustomize") or pytest.skip("kustomize is not to be had here")
    text = run(program, "build", folder)
    assert "Warning" not in text, text
    return tuple(yaml.safe_load_all(text))


@cache
def built(overlay: str) -> tuple[Manifest, ...]:
    return kustomize(FOLDER / "overlays" / overlay)


def one_of_kind(overlay: str, kind: str) -> Manifest:
    (found,) = (manifest for manifest in built(overlay) if manifest["kind"] == kind)
    return found


def pod(overlay: str, kind: str = "Deployment") -> Manifest:
    spec: Manifest = one_of_kind(overlay, kind)["spec"]["template"]["spec"]
    return spec


def container(overlay: str, kind: str = "Deployment") -> Manifest:
    (found,) = pod(overlay, kind)["containers"]
    return dict(found)


def variables(overlay: str) -> dict[str, str]:
    """Return the variables of the server; those of the Secret have example values."""
    return {
        one["name"]: one.get("value") or _EXAMPLES[one["valueFrom"]["secretKeyRef"]["key"]]
        for one in container(overlay)["env"]
    }


def settings_of(overlay: str, folder: Path) -> Settings:
    file = folder / "settings.toml"
    file.write_text(one_of_kind(overlay, "ConfigMap")["data"]["settings.toml"])
    return load_settings(file, {})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_ingress_controller_is_a_trusted_proxy(overlay: str, tmp_path: Path) -> None:
    """Otherwise all clients have the address of the controller."""
    assert settings_of(overlay, tmp_path).server.trusted_proxies == ("10.244.0.0/16",)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_files_are_on_disk_while_their_metadata_is_read(overlay: str) -> None:
    """/tmp is memory, and files may have 1 GiB."""
    variables = {one["name"]: one.get("value") for one in container(overlay)["env"]}
    folder = Path(variables["SMARTSERVE_METADATA__TEMP_ROOT"])
    mounts = {Path(one["mountPath"]): one["name"] for one in container(overlay)["volumeMounts"]}
    # Not the mount itself, which belongs to root.
    name = mounts[folder.parent]
    (volume,) = (one for one in pod(overlay)["volumes"] if one["name"] == name)
    assert "medium" not in volume["emptyDir"]
    assert volume["emptyDir"]["sizeLimit"].endswith("Gi")


@pytest.mark.parametrize("version", VERSIONS)
def test_workers_of_bulk_work_are_an_indexed_job(version: str) -> None:
    # As the command at its top does: a name of a ConfigMap has no capitals.
    text = (FOLDER / "bulk.yaml").read_text()
    job = yaml.safe_load(replaced(text, "NAME-OF-SETTINGS", "smartserve-0123456789"))
    kubernetes_validate.validate(job, version, strict=True)
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", spec["parallelism"])
    (one,) = spec["template"]["spec"]["containers"]
    assert one["args"][:2] == ["bulk", "work"]
    # Kubernetes replaces $(NAME) in arguments by the variable of the container.
    assert one["args"][2] == "$(PLAN)"
    assert "PLAN" in {variable["name"] for variable in one["env"]}


def test_workers_of_bulk_work_have_the_settings_of_production(tmp_path: Path) -> None:
    spec = yaml.safe_load((FOLDER / "bulk.yaml").read_text())["spec"]["template"]["spec"]
    (worker,) = spec["containers"]
    server = container("production")
    own = {"PLAN", "SMARTSERVE_METADATA__TEMP_ROOT"}
    secrets = {one["name"]: one for one in worker["env"] if one["name"] not in own}
    # Workers have no routes that need the administrator's key.
    assert secrets == {
        one["name"]: one
        for one in server["env"]
        if one["name"] not in {*own, "SMARTSERVE_ADMIN__KEY_FILE"}
    }
    settings = settings_of("production", tmp_path)
    mounts = {one["mountPath"]: one["name"] for one in worker["volumeMounts"]}
    volumes = {one["name"]: one for one in spec["volumes"]}
    assert set(mounts.values()) == set(volumes)
    claim = volumes[mounts[settings.renditions.directory]]["ephemeral"]["volumeClaimTemplate"]
    room = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) * 2**30
    assert settings.renditions.disk_max_bytes < room
    assert worker["image"] == server["image"]
    assert worker["resources"] == server["resources"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_manifest_is_valid_by_its_schema(overlay: str, version: str) -> None:
    for manifest in built(overlay):
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_manifests_share_a_namespace_and_select_the_same_pods(overlay: str) -> None:
    assert {manifest["metadata"]["namespace"] for manifest in built(overlay)} == {"smartserve"}
    labels = one_of_kind(overlay, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        one_of_kind(overlay, "Deployment")["spec"]["selector"]["matchLabels"],
        one_of_kind(overlay, "Service")["spec"]["selector"],
        one_of_kind(overlay, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one_of_kind(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= labels.items()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_allow_the_server_to_start(
    overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "admin-key"
    key.write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("SMARTSERVE_ADMIN__KEY_FILE", str(key))
    assert access_faults(settings_of(overlay, tmp_path)) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_grace_period_covers_the_drain(overlay: str, tmp_path: Path) -> None:
    server = settings_of(overlay, tmp_path).server
    needed_s = server.lame_duck_s + server.drain_s + _DRAINED_S
    assert pod(overlay)["terminationGracePeriodSeconds"] >= needed_s


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_readiness_probe_checks_dependencies(overlay: str) -> None:
    probes = {name: container(overlay)[f"{name}Probe"] for name in ("startup", "liveness")}
    assert {probe["httpGet"]["path"] for probe in probes.values()} == {"/healthz"}
    readiness = container(overlay)["readinessProbe"]
    assert readiness["httpGet"]["path"] == "/readyz"
    # Its own checks may take three seconds.
    assert readiness["timeoutSeconds"] > 3


@pytest.mark.parametrize(
    ("overlay", "kind"),
    [("small", "Deployment"), ("production", "Deployment"), ("production", "Job")],
)
def test_a_pod_has_minimal_privileges(overlay: str, kind: str) -> None:
    spec = pod(overlay, kind)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(overlay, kind)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container(overlay, kind)["resources"]["limits"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_mounts_exist_and_writes_fit_their_volumes(overlay: str, tmp_path: Path) -> None:
    volumes = {volume["name"]: volume for volume in pod(overlay)["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container(overlay)["volumeMounts"]}
    assert set(mounts.values()) == set(volumes)
    assert all(len(volume) == 2 for volume in volumes.values())
    settings = settings_of(overlay, tmp_path)
    written = settings.renditions.directory or "/var/lib/smartserve"
    volume = volumes[mounts[written]]
    claim = (
        one_of_kind(overlay, "PersistentVolumeClaim") if overlay == "small" else volume["ephemeral"]
    )
    spec = claim["spec"] if overlay == "small" else claim["volumeClaimTemplate"]["spec"]
    room = int(spec["resources"]["requests"]["storage"].removesuffix("Gi")) * 2**30
    assert settings.renditions.disk_max_bytes < room
    if settings.storage.root:
        assert settings.storage.root in mounts


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_node_drain_is_never_blocked(overlay: str) -> None:
    budget = one_of_kind(overlay, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_in_the_manifests(overlay: str) -> None:
    assert "Secret" not in {manifest["kind"] for manifest in built(overlay)}
    for variable in container(overlay)["env"]:
        assert "valueFrom" in variable or not variable["name"].endswith(("KEY", "KEY_ID", "URL"))


def test_the_autoscaler_uses_a_recorded_metric() -> None:
    metrics = one_of_kind("production", "HorizontalPodAutoscaler")["spec"]["metrics"]
    by_kind = {metric["type"]: metric for metric in metrics}
    name = by_kind["Pods"]["pods"]["metric"]["name"]
    assert by_kind["Resource"]["resource"]["name"] == "cpu"
    adapter = yaml.safe_load((FOLDER / "adapter.yaml").read_text())["rules"]["custom"][0]
    assert adapter["name"]["as"] == name
    recorded = (DEPLOY / "prometheus" / "recording.yml").read_text()
    assert f"record: {adapter['seriesQuery'].partition('{')[0]}\n" in recorded
    assert "replicas" not in one_of_kind("production", "Deployment")["spec"]


def test_production_has_three_servers_spread_over_nodes_and_zones() -> None:
    assert one_of_kind("production", "HorizontalPodAutoscaler")["spec"]["minReplicas"] == 3
    labels = one_of_kind("production", "Deployment")["spec"]["template"]["metadata"]["labels"]
    rules = pod("production")["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in rules} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    for one in rules:
        assert one["labelSelector"]["matchLabels"].items() <= labels.items()
        # A cluster of one node, or with full nodes, still runs all.
        assert one["whenUnsatisfiable"] == "ScheduleAnyway"


def test_production_uses_mysql_redis_and_s3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (FOLDER / "overlays" / "production" / "kustomization.yaml").read_text()
    for name, value in variables("production").items():
        if name != "SMARTSERVE_CONFIG":
            monkeypatch.setenv(name, value)
    # Raises an error if a variable is no setting, or its value is not valid.
    settings = settings_of("production", tmp_path)
    assert settings.database_url == _EXAMPLES["database-url"]
    assert settings.cluster.redis_url == _EXAMPLES["redis-url"]
    assert settings.renders_once
    assert settings.s3.access_key_id
    assert settings.s3.buckets
    assert settings.s3.renditions
    assert not settings.database.upgrade_on_start
    for one in pod("production", "Job")["containers"][0]["env"]:
        assert f"--from-literal={one['valueFrom']['secretKeyRef']['key']}=" in text
    assert [key for key in _EXAMPLES if f"--from-literal={key}=" not in text] == []


def test_the_network_policy_admits_what_production_connects_to(tmp_path: Path) -> None:
    rules = one_of_kind("production", "NetworkPolicy")["spec"]["egress"]
    ports = {one["port"] for rule in rules if "to" not in rule for one in rule["ports"]}
    endpoint = urlsplit(settings_of("production", tmp_path).s3.endpoint)
    assert endpoint.scheme == "https"
    assert ports == {3306, 6379, endpoint.port or 443}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_network_policy_admits_dns(overlay: str) -> None:
    """kustomize adds its labels to selectors of other programs' pods, too."""
    rules = one_of_kind(overlay, "NetworkPolicy")["spec"]["egress"]
    (dns,) = (one for rule in rules for one in rule.get("to", ()))
    assert dns == {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {
            "matchExpressions": [{"key": "k8s-app", "operator": "In", "values": ["kube-dns"]}]
        },
    }


def test_the_ingress_publishes_no_route_that_needs_a_key(tmp_path: Path) -> None:
    settings = settings_of("production", tmp_path)
    (rule,) = one_of_kind("production", "Ingress")["spec"]["rules"]
    assert f"https://{rule['host']}" == settings.server.public_url
    published = [one["path"] for one in rule["http"]["paths"]]
    reached = {
        path: methods
        for path, methods in describe(settings)["paths"].items()
        if any(path == one or path.startswith(f"{one}/") for one in published)
    }
    assert {"/serve/{name}", "/api/images/{name}", "/info/{id}", "/info"} <= reached.keys()
    for path, methods in reached.items():
        assert methods.keys() <= {"get", "head", "options", "post", "parameters"}
        assert "post" not in methods or path == "/info"
        assert [one for one in methods.values() if "key" in str(one.get("security"))] == []


def test_the_ingress_hashes_consistently_and_repeats_as_nginx_does() -> None:
    manifest = one_of_kind("production", "Ingress")
    prefix = "nginx.ingress.kubernetes.io/"
    notes = {
        name.removeprefix(prefix): value
        for name, value in manifest["metadata"]["annotations"].items()
    }
    assert notes.pop("upstream-hash-by") == "$uri"
    files = ("proxy.conf", "cluster_read_timeout.conf")
    written = "\n".join((DEPLOY / "nginx" / name).read_text() for name in files)
    assert len(notes) == 4
    for name, value in notes.items():
        assert re.search(rf"^{name.replace('-', '_')} {value}s?;$", written, re.MULTILINE), name
    (port,) = one_of_kind("production", "Service")["spec"]["ports"]
    for path in manifest["spec"]["rules"][0]["http"]["paths"]:
        assert path["backend"]["service"] == {"name": "smartserve", "port": {"name": port["name"]}}


@pytest.mark.parametrize("version", VERSIONS)
def test_originals_may_be_on_a_volume(version: str, tmp_path: Path) -> None:
    folder = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, folder)
    file = folder / "overlays" / "production" / "kustomization.yaml"
    lines = "components:\n#   - ../../components/originals-volume"
    file.write_text(replaced(file.read_text(), f"# {lines}", lines.replace("#", "")))
    manifests = kustomize(file.parent)
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)
    (deployment,) = (one for one in manifests if one["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    (one,) = spec["containers"]
    root = {variable["name"]: variable.get("value") for variable in one["env"]}
    (mount,) = (mount for mount in one["volumeMounts"] if mount["name"] == "originals")
    assert mount["mountPath"] == root["SMARTSERVE_STORAGE__ROOT"]
    assert mount["readOnly"] is True
    claims = {
        volume.get("persistentVolumeClaim", {}).get("claimName") for volume in spec["volumes"]
    }
    assert "smartserve-originals" in claims


def test_two_servers_never_share_a_small_volume() -> None:
    spec = one_of_kind("small", "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
