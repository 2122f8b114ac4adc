"""The served OpenAPI description is accurate: schemathesis derives requests from it.

The requests include allowed and forbidden values and other methods. Responses are compared with the
statuses, media types, headers and schemas of the description.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from proxy.settings import Settings
from proxy.web.routes import describe
from tests.faults.conftest import Launch
from tests.faults.server import Sections, Server

pytestmark = pytest.mark.slow

_SEED = 4
_KEY = "a-key-that-is-for-these-tests-alone"
_WITH_KEY: Sections = {
    "admin": {"key": _KEY, "max_failures": 10_000},
    "main": {"key": _KEY},
}
"""Checks that also send no key, or a wrong one. Routes of users have no key."""
_PATIENCE_S = 110
# They use the body of the route's own method. With others, such as TRACE, that is a 400 before the
# method is checked. And no schema can express that two parameters exclude each other: `bg=removed`
# with `format=jpeg` is a 400. Nor can it say that bytes are an image, that a crop ends within the
# image, or how many languages an image has already.
# Schemathesis cannot open WebSockets.
_CONFIGURATION = """
[phases.coverage]
unexpected-methods = ["PUT", "POST", "PATCH", "QUERY"]

[[operations]]
include-path-regex = "^/(serve|api/images)/"
checks.positive_data_acceptance.expected-statuses = [
    "2xx", "3xx", "400", "401", "403", "404", "409", "429", "5xx",
]

[[operations]]
include-path-regex = "^/api/(analyze|extract|images_mvp|metadata|standalone-metadata)"
checks.positive_data_acceptance.expected-statuses = [
    "2xx", "3xx", "400", "401", "403", "404", "409", "422", "429", "5xx",
]

[[operations]]
include-path-regex = "^/api/media/[^/]+/(crops|alt)"
checks.positive_data_acceptance.expected-statuses = [
    "2xx", "400", "401", "403", "404", "429", "5xx",
]

[[operations]]
include-path-regex = "^/ws/"
checks.positive_data_acceptance.expected-statuses = ["101", "426"]
"""


async def schemathesis(
    server: Server, place: Path, *options: str, description: str = ""
) -> tuple[int, str]:
    """Return the exit code and the report of a run, by the server's description or another one."""
    place.mkdir(exist_ok=True)
    (place / "schemathesis.toml").write_text(_CONFIGURATION)
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("schemathesis")), "run"),
        *(description or f"{server.base}/openapi.json", "--url", server.base),
        *("--checks", "all", "--seed", str(_SEED), "--generation-database", "none"),
        # There are no uploads, and the key is not a user's token: schemathesis warns about it.
        *("--warnings", "off"),
        *("--header", f"Authorization: Bearer {_KEY}", "--no-color", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=place,
    )
    output, _ = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
    return process.returncode or 0, output.decode(errors="replace")


def analyse(server: Server) -> None:
    """Store an analysis of the first image: schemathesis warns if all responses are 404."""
    with closing(sqlite3.connect(server.data_dir / "smartserve.db")) as connection:
        connection.execute("INSERT INTO media_ai_analysis (media_id, quality_score) VALUES (1, 5)")
        connection.commit()


async def test_responses_agree_with_the_description(launch: Launch, tmp_path: Path) -> None:
    server = await launch(_WITH_KEY)
    analyse(server)
    options = ("--phases", "examples,fuzzing", "--max-examples", "5")
    code, report = await schemathesis(server, tmp_path / "run", *options)
    assert code == 0, report
    assert "No issues found" in report, report
    assert "Traceback" not in server.output()


async def test_a_wrong_description_is_detected(launch: Launch, tmp_path: Path) -> None:
    """A missing status, and a wrong media type and header."""
    server = await launch(_WITH_KEY)
    description = json.loads(json.dumps(describe(Settings())))
    picture = description["paths"]["/serve/{name}"]
    description["paths"] = {"/serve/{name}": {"get": picture["get"]}}
    responses = picture["get"]["responses"]
    del responses["400"]
    responses["404"]["content"] = {"text/html": {}}
    responses["200"]["headers"]["ETag"]["schema"]["pattern"] = "^W/"
    path = tmp_path / "spoilt.json"
    path.write_text(json.dumps(description))
    options = ("--phases", "examples,fuzzing", "--max-examples", "20", "--continue-on-failure")
    code, report = await schemathesis(server, tmp_path / "run", *options, description=str(path))
    assert code == 1
    for finding in (
        "Undocumented status code",
        "Undocumented Content-Type",
        "Response header does not conform to the schema",
    ):
        assert finding in report, report


@pytest.mark.drill
async def test_a_full_run_finds_nothing(launch: Launch, tmp_path: Path) -> None:
    """All phases but the stateful one, which has nothing to change; 30 s."""
    server = await launch(_WITH_KEY)
    analyse(server)
    options = ("--phases", "examples,coverage,fuzzing", "--max-examples", "40")
    code, report = await schemathesis(server, tmp_path / "run", *options)
    assert code == 0, report
    assert "No issues found" in report
    assert "Traceback" not in server.output()
