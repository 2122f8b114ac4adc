"""The served description holds: schemathesis makes requests from it, and finds nothing.

Drawn from the schema: what it allows, what it forbids, other methods; the answers are held to the
statuses, media types, headers and schemas that it promises.
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
from proxy.web.openapi.document import describe
from tests.faults.conftest import Launch
from tests.faults.server import Sections, Server

_SEED = 4
_KEY = "a-key-that-is-for-these-tests-alone"
_WITH_KEY: Sections = {
    "admin": {"key": _KEY, "max_failures": 10_000},
    "main": {"key": _KEY},
}
"""The checks also ask without the key, and with wrong ones. For users it is none."""
_PATIENCE_S = 110
# They are tried with the body of the address's own method. With others, such as TRACE, that is a
# 400 before anybody asks what methods there are. And no schema can say that of two parameters each
# may have a value, and not both: `bg=removed` and `format=jpeg` is a 400.
_CONFIGURATION = """
[phases.coverage]
unexpected-methods = ["PUT", "POST", "PATCH", "QUERY"]

[[operations]]
include-path-regex = "^/(serve|api/images)/"
checks.positive_data_acceptance.expected-statuses = [
    "2xx", "3xx", "400", "401", "403", "404", "409", "429", "5xx",
]
"""


async def schemathesis(
    server: Server, place: Path, *options: str, description: str = ""
) -> tuple[int, str]:
    """The exit code and the report of a run against a server, by its own description or another."""
    place.mkdir(exist_ok=True)
    (place / "schemathesis.toml").write_text(_CONFIGURATION)
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("schemathesis")), "run"),
        *(description or f"{server.base}/openapi.json", "--url", server.base),
        *("--checks", "all", "--seed", str(_SEED), "--generation-database", "none"),
        # Of uploads there are none, and the key is no user's token: which is told as a warning.
        *("--warnings", "off"),
        *("--header", f"Authorization: Bearer {_KEY}", "--no-color", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=place,
    )
    output, _ = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
    return process.returncode or 0, output.decode(errors="replace")


def analyse(server: Server) -> None:
    """Let the first medium have an analysis: where all is 404 schemathesis warns."""
    with closing(sqlite3.connect(server.data_dir / "smartserve.db")) as connection:
        connection.execute("INSERT INTO media_ai_analysis (media_id, quality_score) VALUES (1, 5)")
        connection.commit()


async def test_what_is_drawn_from_the_description_is_answered_as_it_says(
    launch: Launch, tmp_path: Path
) -> None:
    server = await launch(_WITH_KEY)
    analyse(server)
    options = ("--phases", "examples,fuzzing", "--max-examples", "5")
    code, report = await schemathesis(server, tmp_path / "run", *options)
    assert code == 0, report
    assert "No issues found" in report, report
    assert "Traceback" not in server.told()


async def test_a_description_that_does_not_hold_is_found_out(
    launch: Launch, tmp_path: Path
) -> None:
    """A status that is missing, a media type and a header that are promised wrongly."""
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
async def test_the_whole_run_finds_nothing(launch: Launch, tmp_path: Path) -> None:
    """All phases but the stateful one, for which there is nothing to change; half a minute."""
    server = await launch(_WITH_KEY)
    analyse(server)
    options = ("--phases", "examples,coverage,fuzzing", "--max-examples", "40")
    code, report = await schemathesis(server, tmp_path / "run", *options)
    assert code == 0, report
    assert "No issues found" in report
    assert "Traceback" not in server.told()
