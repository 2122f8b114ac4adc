"""Rules and alerts: valid, each tested by promtool, and equal to the operators' page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.programs import DEPLOY, program, run
from tests.deploy.watch import queries
from tests.support.server import Serving

RULES = DEPLOY / "prometheus"
_HEADING = re.compile(r"^### (.+)\n(.+)$", re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")
_FUNCTION = re.compile(r"\b(rate|irate|increase|delta|idelta|deriv)\((smartserve_\w+)")
_SUFFIX = re.compile(r"_(?:total|bucket|sum|count)$")
_FOR = re.compile(r"for ([0-9]+) (minute|hour)")


def loaded(name: str) -> Any:
    return yaml.safe_load((RULES / name).read_text())


def alerts() -> list[dict[str, Any]]:
    return [rule for group in loaded("alerts.yml")["groups"] for rule in group["rules"]]


def headings() -> dict[str, str]:
    """Return the line below each alert of the operators' page: expression, duration, urgency."""
    page = (DEPLOY / "OPERATING.md").read_text()
    return dict(_HEADING.findall(page.partition("## Alerts")[2]))


def test_promtool_accepts_rules_and_configuration() -> None:
    promtool = program("promtool")
    output = run(promtool, "check", "rules", RULES / "recording.yml", RULES / "alerts.yml")
    assert "FAILED" not in output
    run(promtool, "check", "config", RULES / "prometheus.yml")


@pytest.mark.parametrize(
    ("job", "labels"),
    [
        (
            "smartserve",
            {"__address__": "10.0.0.7:8080", "__metrics_path__": "/metrics", "pod": "smartserve-1"},
        ),
        (
            "smartserve-readyz",
            {
                "__address__": "blackbox:9115",
                "__metrics_path__": "/probe",
                "__param_module": "readyz",
                "__param_target": "http://10.0.0.7:8080/readyz",
                "instance": "http://10.0.0.7:8080/readyz",
                "pod": "smartserve-1",
            },
        ),
    ],
)
def test_the_cluster_configuration_scrapes_and_probes_each_pod(
    job: str, labels: dict[str, str], tmp_path: Path
) -> None:
    """Debian's promtool has no Kubernetes discovery, so its result for two pods is written here."""
    config = loaded("kubernetes.yml")
    jobs = [one["job_name"] for one in config["scrape_configs"]]
    assert jobs == [one["job_name"] for one in loaded("prometheus.yml")["scrape_configs"]]
    for one in config["scrape_configs"]:
        assert one.pop("kubernetes_sd_configs") == [{"role": "pod"}]
        one["static_configs"] = [
            {
                "targets": [address],
                "labels": {
                    "__meta_kubernetes_namespace": "smartserve",
                    "__meta_kubernetes_pod_name": name,
                    "__meta_kubernetes_pod_label_app_kubernetes_io_name": name.partition("-")[0],
                    "__meta_kubernetes_pod_container_port_name": "http",
                },
            }
            for address, name in (("10.0.0.7:8080", "smartserve-1"), ("10.0.0.8:80", "other-1"))
        ]
    shutil.copytree(RULES, tmp_path / "prometheus")
    file = tmp_path / "prometheus" / "kubernetes.yml"
    file.write_text(yaml.safe_dump(config))
    run(program("promtool"), "check", "config", file)
    # promtool waits until the timeout ends, even if it has found all targets. The default is 30 s.
    check = ("check", "service-discovery", "--timeout=3s", file, job)
    output = run(program("promtool"), *check)
    (kept,) = (one["labels"] for one in json.loads(output) if one.get("labels"))
    assert labels.items() <= kept.items()
    assert (kept["job"], kept["namespace"]) == (job, "smartserve")


def expressions() -> list[str]:
    """Return those of alerts, recording rules, the dashboard, the adapter and the guide."""
    rules = (
        rule
        for name in ("alerts", "recording")
        for group in loaded(f"{name}.yml")["groups"]
        for rule in group["rules"]
    )
    guide = (DEPLOY / "OPERATING.md").read_text()
    return [*(rule["expr"] for rule in rules), *queries().values(), *_CODE.findall(guide)]


async def test_counters_and_gauges_have_the_functions_for_them(server: Serving) -> None:
    """After a gauge falls, ``rate`` and ``increase`` count all of it as new."""
    kinds = {family.name: family.type for family in server.services.metrics.registry.collect()}
    wrong = []
    for expression in expressions():
        for function, metric in _FUNCTION.findall(expression):
            name = _SUFFIX.sub("", metric)
            growing = function in {"rate", "irate", "increase"}
            if (kinds[name] == "gauge") is growing:
                wrong.append(f"{function}({metric})")
    assert wrong == []


@pytest.mark.slow
def test_each_alert_fires_on_its_fault_and_otherwise_not() -> None:
    run(program("promtool"), "test", "rules", RULES / "rules_test.yml")


def test_every_alert_has_a_test_of_both() -> None:
    tried = [
        (one["alertname"], bool(one["exp_alerts"]))
        for test in loaded("rules_test.yml")["tests"]
        for one in test.get("alert_rule_test", ())
    ]
    for alert in alerts():
        assert (alert["alert"], True) in tried
        assert (alert["alert"], False) in tried


def test_the_alerts_are_those_of_the_operators_page() -> None:
    assert {alert["annotations"]["summary"] for alert in alerts()} == set(headings())


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert["alert"]))
def test_an_alert_agrees_with_the_page(alert: dict[str, Any]) -> None:
    line = headings()[alert["annotations"]["summary"]]
    written = [one for one in _CODE.findall(line) if "smartserve" in one]
    for one in written:
        # The page has one expression for alerts that are split by kind here.
        parts = one.split(" == 0") if " or " in alert["expr"] else [one]
        bare = re.sub(r"\{kind[^}]*\}", "", alert["expr"])
        assert parts[0] in alert["expr"] or one == bare, one
    assert alert["labels"]["severity"] in line
    found = _FOR.search(line)
    assert alert.get("for", "") == (f"{found[1]}{found[2][0]}" if found else "")


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert["alert"]))
def test_a_runbook_link_has_its_heading(alert: dict[str, Any]) -> None:
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert (Path(DEPLOY) / page).is_file()
    assert anchor == alert["annotations"]["summary"].lower().replace(" ", "-")
