"""`deploy/npm` under Node: its modules alone, and inside the frameworks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from proxy.domain.request import WIDTHS
from proxy.web.handlers.info_json import AnalysisSummary
from tests.deploy.programs import program
from tests.support.server import ROOT

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
NPM = ROOT / "deploy" / "npm"
_INSTALL = ("ci", "--no-audit", "--no-fund", "--omit=optional", "--ignore-scripts")


def run(*command: str | Path, at: Path) -> str:
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_urls_are_built_and_parsed_as_by_the_server() -> None:
    output = run(program("node"), "--test", "urls.test.mjs", at=HERE)
    assert re.search(r"^# fail 0$", output, re.MULTILINE)


def test_widths_equal_those_of_the_server() -> None:
    script = "import('./src/urls.js').then((all) => console.log(JSON.stringify(all.WIDTHS)))"
    assert tuple(json.loads(run(program("node"), "-e", script, at=NPM))) == WIDTHS


def test_every_export_exists_with_its_types() -> None:
    entries = json.loads((NPM / "package.json").read_text())["exports"]
    assert set(entries) == {".", "./react", "./next", "./nuxt", "./unpic"}
    for entry in entries.values():
        assert (NPM / entry["default"]).is_file()
        assert (NPM / entry["types"]).is_file()


def test_the_type_of_the_analysis_has_all_members_that_the_server_sends() -> None:
    types = (NPM / "src" / "urls.d.ts").read_text()
    body = types.partition("interface ImageAnalysis {")[2].partition("\n}")[0]
    members = set(re.findall(r"^  (\w+):", body, re.MULTILINE))
    assert members == {one.name for one in fields(AnalysisSummary)}


@pytest.mark.drill
@pytest.mark.timeout(240)
def test_the_exports_work_in_their_frameworks(tmp_path: Path) -> None:
    """With Next.js, React, Nuxt Image and unpic from npm; types are checked by the compiler."""
    place = shutil.copytree(HERE, tmp_path / "tests" / "npm")
    shutil.copytree(NPM, tmp_path / "deploy" / "npm")
    run(program("npm"), *_INSTALL, at=place)
    output = run(program("node"), "--test", "packages.test.mjs", at=place)
    assert re.search(r"^# fail 0$", output, re.MULTILINE)
    run(place / "node_modules" / ".bin" / "tsc", "-p", ".", at=place)
