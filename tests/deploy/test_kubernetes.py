"""The manifests as kustomize builds them: valid by their schemas, consistent with the server."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from proxy.settings import Settings, access_faults, load_settings
from tests.deploy.programs import DEPLOY, run

FOLDER = DEPLOY / "kubernetes"
OVERLAYS = ("small", "production")
_VERSIONS = ("1.33", "1.37")
_DRAINED_S = 5
"""Time after the drain: for the last connections, the workers and the interpreter."""

Manifest = dict[str, Any]


@cache
def built(overlay: str) -> tuple[Manifest, ...]:
    # Debian has no package, and building it needs Go: without it the manifests are not tested.
    kustomize = shutil.which("kustomize") or pytest.skip("kustomize is not to be had here")
    text = run(kustomize, "build", FOLDER / "overlays" / overlay)
    assert "Warning" not in text, text
    return tuple(yaml.safe_load_all(text))


def one_of_kind(overlay: str, kind: str) -> Manifest:
    (found,) = (manifest for manifest in built(overlay) if manifest["kind"] == kind)
    return found


def pod(overlay: str, kind: str = "Deployment") -> Manifest:
    spec: Manifest = one_of_kind(overlay, kind)["spec"]["template"]["spec"]
    return spec


def container(overlay: str, kind: str = "Deployment") -> Manifest:
    (found,) = pod(overlay, kind)["containers"]
    return dict(found)


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


@pytest.mark.parametrize("version", _VERSIONS)
def test_workers_of_bulk_work_are_an_indexed_job(version: str) -> None:
    job = yaml.safe_load((FOLDER / "bulk.yaml").read_text())
    kubernetes_validate.validate(job, version, strict=True)
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", spec["parallelism"])
    (one,) = spec["template"]["spec"]["containers"]
    assert one["args"][:2] == ["bulk", "work"]
    # Kubernetes replaces $(NAME) in arguments by the variable of the container.
    assert one["args"][2] == "$(PLAN)"
    assert "PLAN" in {variable["name"] for variable in one["env"]}


@pytest.mark.parametrize("version", _VERSIONS)
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
        assert "valueFrom" in variable or not variable["name"].endswith(("KEY", "URL"))


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


def test_two_servers_never_share_a_small_volume() -> None:
    spec = one_of_kind("small", "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
