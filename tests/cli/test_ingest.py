"""``smartserve ingest`` and ``status``; the worker itself is tested in tests/ingest."""

from __future__ import annotations

import json
from pathlib import Path

from proxy.cli.ingest import ingest_urls
from tests.cli.conftest import Invoke
from tests.support.ports import free_port
from tests.support.server import make_settings


def test_the_status_of_this_servers_own_main_api_needs_no_server(
    tmp_path: Path, invoke: Invoke
) -> None:
    report = json.loads(invoke("status", "--json", "--data-dir", tmp_path).stdout)
    assert report["main_api"] == {"pending": 0, "processed": 0, "complete": 0, "failed": 0}


def test_the_status_is_printed_as_tables(tmp_path: Path, invoke: Invoke) -> None:
    output = invoke("status", "--data-dir", tmp_path).stdout
    assert "at the main API: pending" in output
    assert "Steps that are unfinished" in output
    assert "Recent failures" not in output


def test_a_main_api_that_is_away_is_named_in_the_status(tmp_path: Path, invoke: Invoke) -> None:
    done = invoke(
        *("status", "--json", "--data-dir", tmp_path),
        SMARTSERVE_INGEST__MAIN_API_URL=f"http://127.0.0.1:{free_port()}",
        SMARTSERVE_INGEST__MAIN_API_KEY="a-key-that-is-for-these-tests-alone",
    )
    assert done.code == 0
    assert isinstance(json.loads(done.stdout)["main_api"]["pending"], str)


def test_ingest_without_a_main_api_is_a_fault_of_the_settings(
    tmp_path: Path, invoke: Invoke
) -> None:
    done = invoke("ingest", "--data-dir", tmp_path, SMARTSERVE_MAIN__ENABLED="false")
    assert (done.code, "ingest.main_api_url is not set" in done.stderr) == (2, True)


def test_the_worker_uses_this_server_unless_another_main_api_is_set(tmp_path: Path) -> None:
    own = ingest_urls(make_settings(tmp_path), 8081)
    assert own.main_api == "http://127.0.0.1:8081"
    other = make_settings(tmp_path, ingest={"main_api_url": "https://api.example.org/"})
    assert ingest_urls(other).main_api == "https://api.example.org"
