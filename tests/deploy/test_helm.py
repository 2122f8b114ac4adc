"""The Helm chart: the same objects as kustomize builds, and errors for bad values."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from proxy import __version__
from proxy.settings import load_settings
from tests.deploy import chart
from tests.deploy.chart import CHART, SCHEMA
from tests.deploy.programs import DEPLOY, run
from tests.deploy.test_kubernetes import VERSIONS, Manifest, built

# A program that Go builds without the options of its release believes to be of an old Kubernetes.
_KUBERNETES = ("--kube-version", "1.33.0")
_PRODUCTION = ("--values", CHART / "values-production.yaml")
_VALUES: dict[str, tuple[str | Path, ...]] = {"small": (), "production": _PRODUCTION}
"""Arguments that give the objects of an overlay of kustomize."""
_OWN = frozenset({"app.kubernetes.io/instance", "checksum/settings"})
"""Labels and annotations that only Helm needs."""


def helm(*arguments: str | Path, check: bool = True) -> str:
    # Debian has no package, and building it needs Go: without it the chart is not tested.
    program = shutil.which("helm") or pytest.skip("helm is not to be had here")
    return run(program, *arguments, check=check)


def rendered(*arguments: str | Path, name: str = "smartserve") -> list[Manifest]:
    text = helm("template", name, CHART, *_KUBERNETES, *arguments)
    return [one for one in yaml.safe_load_all(text) if one]


@cache
def rendered_as(overlay: str) -> list[Manifest]:
    return rendered(*_VALUES[overlay])


def by_kind(manifests: list[Manifest]) -> dict[str, Manifest]:
    found = {one["kind"]: one for one in manifests}
    assert len(found) == len(manifests)
    return found


def plain(part: Any) -> Any:
    """Return a part of a manifest in a form that is independent of the tool that made it."""
    if isinstance(part, dict):
        return {key: plain(value) for key, value in part.items() if key not in _OWN}
    if isinstance(part, list):
        # Variables, volumes, mounts, paths.
        return sorted(map(plain, part), key=lambda one: json.dumps(one, sort_keys=True))
    if isinstance(part, str):
        # kustomize appends a hash to the name of the ConfigMap.
        return re.sub(r"^smartserve-[a-z0-9]{10}$", "smartserve", part)
    return part


def compared(manifest: Manifest) -> Manifest:
    """Return a manifest without what the two tools do in their own way."""
    metadata = manifest["metadata"]
    found: Manifest = plain(manifest)
    found["metadata"] = {"name": found["metadata"]["name"]}
    if manifest["kind"] == "ConfigMap":
        found["data"] = {key: tomllib.loads(text) for key, text in manifest["data"].items()}
    elif manifest["kind"] == "Ingress":
        found["metadata"]["annotations"] = metadata["annotations"]
    elif manifest["kind"] == "Job":
        # Helm runs it before it creates the account.
        found["spec"]["template"]["spec"].pop("serviceAccountName", None)
    elif manifest["kind"] == "Deployment":
        (container,) = found["spec"]["template"]["spec"]["containers"]
        # The overlay for one server uses an image without a version, which was built on the node.
        if container["image"] == "smartserve":
            container["image"] = f"smartserve:{__version__}"
    return found


@pytest.mark.parametrize("overlay", _VALUES)
def test_lint_reports_nothing(overlay: str) -> None:
    text = helm("lint", "--strict", "--kube-version", "1.33.0", CHART, *_VALUES[overlay])
    assert set(re.findall(r"\[[A-Z]+\].*", text)) == {"[INFO] Chart.yaml: icon is recommended"}


@pytest.mark.parametrize("overlay", _VALUES)
def test_the_objects_are_those_of_kustomize(overlay: str) -> None:
    chart, kustomized = by_kind(rendered_as(overlay)), by_kind(list(built(overlay)))
    assert chart.keys() == kustomized.keys()
    for kind, manifest in chart.items():
        assert compared(manifest) == compared(kustomized[kind]), kind


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", _VALUES)
def test_each_manifest_is_valid_by_its_schema(overlay: str, version: str) -> None:
    for manifest in rendered_as(overlay):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schema_upgrade_runs_before_the_servers_start() -> None:
    notes = by_kind(rendered_as("production"))["Job"]["metadata"]["annotations"]
    assert notes["helm.sh/hook"] == "pre-install,pre-upgrade"
    # A Job cannot be changed.
    assert notes["helm.sh/hook-delete-policy"] == "before-hook-creation"


def test_originals_survive_the_end_of_the_release() -> None:
    claim = by_kind(rendered_as("small"))["PersistentVolumeClaim"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_changed_settings_replace_the_pods() -> None:
    def pods(*arguments: str) -> Manifest:
        template: Manifest = by_kind(rendered(*arguments))["Deployment"]["spec"]["template"]
        return template

    before, after = pods(), pods("--set", "settings.server.drain_s=20")
    assert pods() == before
    assert after["metadata"]["annotations"] != before["metadata"]["annotations"]
    assert after["spec"] == before["spec"]


def test_two_releases_in_one_namespace_share_nothing() -> None:
    manifests = [rendered(*_PRODUCTION, name=name) for name in ("images", "smartserve-2")]
    names = [{(one["kind"], one["metadata"]["name"]) for one in each} for each in manifests]
    assert not names[0] & names[1]
    assert ("Deployment", "images-smartserve") in names[0]
    for each in map(by_kind, manifests):
        spec = each["Deployment"]["spec"]
        labels = spec["template"]["metadata"]["labels"].items()
        name = each["Deployment"]["metadata"]["name"]
        constraints = spec["template"]["spec"]["topologySpreadConstraints"]
        for selector in (
            spec["selector"]["matchLabels"],
            each["Service"]["spec"]["selector"],
            each["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
            each["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
            *(one["labelSelector"]["matchLabels"] for one in constraints),
        ):
            assert "app.kubernetes.io/instance" in selector
            assert selector.items() <= labels
        (rule,) = each["Ingress"]["spec"]["rules"]
        backends = {one["backend"]["service"]["name"] for one in rule["http"]["paths"]}
        pod = spec["template"]["spec"]
        settings = next(one for one in pod["volumes"] if one["name"] == "settings")
        used = {pod["serviceAccountName"], settings["configMap"]["name"], *backends}
        assert used | {each["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]} == {name}


_OPTIONS = """
image: {repository: registry.example.org/a/smartserve, tag: 9.9.9, pullPolicy: Always}
imagePullSecrets: [{name: registry}]
env:
  - {name: SMARTSERVE_LOG__LEVEL, value: debug}
  - name: SMARTSERVE_VISION__OPENAI__KEY
    valueFrom: {secretKeyRef: {name: openai, key: key}}
dataVolume: {existingClaim: data}
cacheVolume: {enabled: true, storageClassName: fast}
originals: {existingClaim: originals}
settings: {renditions: {directory: /var/cache/smartserve}}
serviceAccount: {annotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::1:role/a"}}
podAnnotations: {prometheus.io/scrape: "false"}
nodeSelector: {disk: nvme}
tolerations: [{key: images, operator: Exists}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
  {matchExpressions: [{key: arch, operator: In, values: [amd64]}]}]}}}
networkPolicy: {enabled: false}
autoscaling: {queueWait: ""}
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_all_options_give_valid_objects(version: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(_OPTIONS)
    manifests = rendered("--values", file)
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)
    found = by_kind(manifests)
    assert "PersistentVolumeClaim" not in found
    assert "NetworkPolicy" not in found
    assert "eks.amazonaws.com/role-arn" in found["ServiceAccount"]["metadata"]["annotations"]
    pod = found["Deployment"]["spec"]["template"]["spec"]
    given = yaml.safe_load(_OPTIONS)
    for name in ("imagePullSecrets", "nodeSelector", "tolerations", "affinity"):
        assert pod[name] == given[name]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example.org/a/smartserve:9.9.9"
    assert container["imagePullPolicy"] == "Always"
    variables = {one["name"]: one for one in container["env"]}
    assert all(variables[one["name"]] == one for one in given["env"])
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert variables["SMARTSERVE_STORAGE__ROOT"]["value"] == mounts["originals"]
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert volumes.keys() == mounts.keys()
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == "data"
    assert volumes["originals"]["persistentVolumeClaim"]["claimName"] == "originals"
    claim = volumes["cache"]["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert claim["storageClassName"] == "fast"


_SETTINGS = r"""
data_dir: /var/lib/smartserve
server: {public_url: "https://img.example.org/a?b=\"c\"&d=<e>", keepalive_s: 75.5,
  max_connections: 1000000, trusted_proxies: [10.0.0.0/8, "::1/128"]}
cluster: {render_once: true, redis_prefix: "ü: "}
renditions: {disk_max_bytes: 1125899906842624, disk_low_water: 0.85}
encoders: {avif: {final: {effort: 3}}}
sizes:
  detail: {width: 1200, height: 1200}
  thumb-nail_2: {width: 300, height: 300, fit: cover}
access: {key_files: {"2026": /run/secrets/2026}, default_visibility: {profile: private}}
"""


def test_settings_reach_the_server_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    given = yaml.safe_load(_SETTINGS)
    # Rendered without the schema: the values are here to test quoting and numbers.
    file.write_text(yaml.safe_dump({"settings": given}))
    text = by_kind(rendered("--skip-schema-validation", "--values", file))["ConfigMap"]["data"]
    written = tomllib.loads(text["settings.toml"])
    for section, values in given.items():
        if isinstance(values, dict):
            assert values.items() <= written[section].items()
            kinds = {key: type(value) for key, value in written[section].items() if key in values}
            assert kinds == {key: type(value) for key, value in values.items()}
        else:
            assert written[section] == values


def test_the_schema_knows_the_settings_of_this_version() -> None:
    """After a change: python -m tests.deploy.chart."""
    assert SCHEMA.read_text() == chart.schema()


def test_no_secret_is_a_value() -> None:
    properties = json.loads(SCHEMA.read_text())["$defs"]
    database = properties["settings.DatabaseSettings"]["properties"]
    assert "pool_size" in database
    assert "url" not in database
    for definition in properties.values():
        names = definition.get("properties", {}).keys()
        assert not {"key", "jwt_secret", "redis_url", "secret_access_key", "callback_key"} & names


def test_production_settings_are_valid_together(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(by_kind(rendered_as("production"))["ConfigMap"]["data"]["settings.toml"])
    settings = load_settings(file, {})
    assert settings.s3.renditions
    text = (CHART / "values-production.yaml").read_text()
    keys = yaml.safe_load(text)["secret"]["keys"].values()
    assert [one for one in (*keys, "admin-key") if f"--from-literal={one}=" not in text] == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("settings.server.drain_s=long", "'/settings/server/drain_s': got string, want number"),
        ("settings.server.drain=3", "additional properties 'drain' not allowed"),
        ("settings.database.url=mysql://a", "'/settings/database': additional properties 'url'"),
        ("settings.renditions.disk_low_water=7", "'/settings/renditions/disk_low_water'"),
        ("setings.server=1", "additional properties 'setings' not allowed"),
        ("image.pullPolicy=Sometimes", "'/image/pullPolicy': value must be one of"),
        ("secret.keys.adminKey=", "'/secret/keys/adminKey': minLength"),
        ("dataVolume.size=much", "'/dataVolume/size': 'much' does not match pattern"),
        ("networkPolicy.egressPorts={redis}", "'/networkPolicy/egressPorts/0': got string"),
        ("replicas=0", "'/replicas': minimum: got 0, want 1"),
        ("replicas=3", "several servers need MySQL or MariaDB: set secret.keys.databaseUrl"),
        (
            "replicas=3,secret.keys.databaseUrl=database-url",
            "several servers cannot share the volume that this chart creates",
        ),
        ("dataVolume.persistent=false", "SQLite and originals are lost with the pod"),
        ("cacheVolume.enabled=true", "needs settings.renditions.directory: /var/cache/smartserve"),
        ("settings.renditions.directory=/var/cache/smartserve", "is on no volume"),
        ("settings.server.drain_s=50", "terminationGracePeriodSeconds must be at least 60"),
        ("ingress.enabled=true", "ingress.enabled needs ingress.host"),
        (
            "settings.s3.renditions=s3://a,settings.s3.endpoint=http://s3.internal:8333",
            "networkPolicy.egressPorts lacks 8333",
        ),
        ("settings.s3.renditions=s3://renditions", "networkPolicy.egressPorts lacks 443"),
    ],
)
def test_bad_values_give_an_error_that_names_them(values: str, message: str) -> None:
    text = helm("template", "smartserve", CHART, *_KUBERNETES, "--set", values, check=False)
    assert message in text


def test_the_notes_say_what_is_next(tmp_path: Path) -> None:
    # Only an installation prints them, which needs a cluster: here they are an object.
    copy = tmp_path / "smartserve"
    shutil.copytree(CHART, copy)
    file = copy / "templates" / "NOTES.txt"
    body = '{{ define "notes" }}' + file.read_text() + "{{ end }}"
    file.with_name("notes.yaml").write_text(
        f'{body}\nnotes: {{{{ include "notes" . | toJson }}}}\n'
    )

    def notes(*arguments: str | Path) -> str:
        command = ("template", "smartserve", copy, "--show-only", "templates/notes.yaml")
        text = helm(*command, *_KUBERNETES, *arguments)
        return str(yaml.safe_load(text)["notes"])

    small = notes()
    assert "port-forward service/smartserve" in small
    # The page at / is off: server.host is no loopback address.
    assert "open http://127.0.0.1:8080/serve/1 (after an import)" in small
    assert "with the keys admin-key.\n" in notes()
    production = notes(*_PRODUCTION)
    assert "https://img.example.org/serve/1" in production
    assert "redis-url" in production
    assert "smartserve doctor" in production


@pytest.mark.parametrize(
    "file",
    [
        "helm/smartserve/values.yaml",
        "helm/smartserve/values-production.yaml",
        "kubernetes/overlays/small/kustomization.yaml",
        "kubernetes/overlays/production/kustomization.yaml",
    ],
)
def test_the_namespace_is_created_before_the_secret(file: str) -> None:
    lines = [line.lstrip("# ") for line in (DEPLOY / file).read_text().splitlines()]
    secret = next(line for line in lines if " create secret generic smartserve" in line)
    assert lines.index("kubectl create namespace smartserve") < lines.index(secret)


def test_versions_agree() -> None:
    written = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert written["appVersion"] == __version__
