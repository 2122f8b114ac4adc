"""A live Prometheus with the rules of ``deploy/prometheus``, and the queries of the dashboard."""

from __future__ import annotations

import json
import math
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.benchmarks.servers import listening
from tests.deploy.programs import DEPLOY, program, replaced
from tests.support.ports import free_port
from tests.support.waiting import wait_until

DASHBOARD = DEPLOY / "grafana" / "dashboards" / "smartserve.json"
_START_S = 30.0
_SCRAPE = "1s"
"""The blackbox exporter reserves 0.5 s of it for itself."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    base: str

    async def fetch(self, path: str, **parameters: str) -> Any:
        """Return the data of a response of its API."""
        async with (
            aiohttp.ClientSession(self.base) as client,
            client.get(f"/api/v1/{path}", params=parameters) as answer,
        ):
            found = await answer.json()
        assert found["status"] == "success", found
        return found["data"]

    async def values(self, query: str) -> list[float]:
        """Return the current values of a query, without NaN."""
        found = await self.fetch("query", query=query)
        values = [float(series["value"][1]) for series in found["result"]]
        return [value for value in values if not math.isnan(value)]


@contextmanager
def prometheus(folder: Path, *, target: int) -> Iterator[Prometheus]:
    """Watch a server with the configuration of ``prometheus.yml`` and shorter intervals."""
    shutil.copytree(DEPLOY / "prometheus", folder)
    port, prober = free_port(), free_port()
    config = folder / "prometheus.yml"
    text = replaced(config.read_text(), "15s", _SCRAPE)
    text = replaced(text, "smartserve:8080", f"127.0.0.1:{target}")
    config.write_text(replaced(text, "blackbox:9115", f"127.0.0.1:{prober}"))
    blackbox = [
        program("prometheus-blackbox-exporter"),
        f"--config.file={folder / 'blackbox.yml'}",
        f"--web.listen-address=127.0.0.1:{prober}",
    ]
    watching = [
        program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
    ]
    with (
        listening(blackbox, prober, log=folder / "blackbox.log"),
        listening(watching, port, log=folder / "prometheus.log"),
    ):
        _await_ready(port)
        yield Prometheus(f"http://127.0.0.1:{port}")


def _await_ready(port: int) -> None:
    """Return when it accepts queries; it listens before that."""

    def ready() -> bool:
        with suppress(urllib.error.URLError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=1).close()
            return True
        return False

    wait_until(ready, timeout_s=_START_S)


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard, without the rows that contain them."""
    return [panel for panel in board()["panels"] if panel["type"] != "row"]


def board() -> dict[str, Any]:
    """Return the dashboard."""
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def queries(title: str = "") -> dict[str, str]:
    """Return the queries by panel and legend, of panels whose title begins with ``title``."""
    return {
        f"{panel['title']}: {target['legendFormat']}": filled(target["expr"])
        for panel in panels()
        for target in panel["targets"]
        if panel["title"].startswith(title)
    }


def filled(query: str) -> str:
    """Return a query as Grafana sends it, over fifteen seconds."""
    return query.replace("$__rate_interval", "15s").replace("$instance", ".*")
