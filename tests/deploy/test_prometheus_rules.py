"""Rules and alerts: valid, each tested by promtool, and equal to the operators' page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.programs import DEPLOY, program, run

RULES = DEPLOY / "prometheus"
_HEADING = re.compile(r"^### (.+)\n(.+)$", re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")
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


def test_the_cluster_configuration_labels_the_same_job(tmp_path: Path) -> None:
    """Debian's promtool has no Kubernetes discovery; everything else is checked."""
    config = loaded("kubernetes.yml")
    (job,) = config["scrape_configs"]
    assert job["job_name"] == loaded("prometheus.yml")["scrape_configs"][0]["job_name"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    shutil.copytree(RULES, tmp_path / "prometheus")
    file = tmp_path / "prometheus" / "kubernetes.yml"
    file.write_text(yaml.safe_dump(config))
    run(program("promtool"), "check", "config", file)


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
