"""The table of all settings: made from the code, true, and committed as the code gives it."""

from __future__ import annotations

import tomllib
from functools import reduce
from operator import getitem

import pytest

from proxy.settings import Settings
from proxy.settings.reference import notes_in, tables
from tests.cli.test_cli import run
from tests.support.server import ROOT

FILE = ROOT / "config" / "smartserve.toml"
LISTED = [one for table in tables() for one in table.settings]
BY_NAME = {one.name: one for one in LISTED}


def test_the_committed_table_is_what_the_code_gives() -> None:
    told = run("settings", "--notes", FILE)
    assert told.returncode == 0
    page = (ROOT / "config" / "README.md").read_text()
    assert page[page.index("\n## ") + 1 :] == told.stdout


def test_each_default_is_the_one_of_the_code() -> None:
    defaults = Settings().model_dump(mode="json", exclude_none=True)
    shown = [tomllib.loads(f"it = {one.default}")["it"] for one in LISTED]
    assert shown == [reduce(getitem, one.path, defaults) for one in LISTED]


def test_every_setting_is_listed_and_explained() -> None:
    notes = notes_in(FILE.read_text())
    assert {one.path for one in LISTED} == set(notes)
    assert [path for path, note in notes.items() if not note] == []


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("server.port", "0 to 65_535"),
        ("server.keepalive_s", "above 0, 86_400 at most"),
        ("limits.max_pixels", "1 or more"),
        ("renditions.disk_low_water", "above 0, below 1"),
        ("page.enabled", 'true, false or "auto"'),
        ("log.level", '"debug", "info", "warning", "error"'),
        ("encoders.order", 'list of "avif", "webp", "jpeg", "png", "gif"'),
        ("encoders.copyright", "text of 500 characters at most"),
        ("encoders.avif.draft.bit_depth", "8, 10, 12"),
    ],
)
def test_what_is_allowed_is_said_in_words(name: str, allowed: str) -> None:
    assert BY_NAME[name].allowed == allowed


def test_bytes_are_told_in_a_larger_unit_where_that_is_exact() -> None:
    assert BY_NAME["workers.max_memory_bytes"].amount == " (1.5 GiB)"
    assert BY_NAME["server.max_header_bytes"].amount == ""


def test_one_table_and_what_is_in_it_can_be_asked_for() -> None:
    told = run("settings", "encoders.avif", "log").stdout
    headings = [line for line in told.splitlines() if line.startswith("## ")]
    assert headings == ["## [log]", "## [encoders.avif.draft]", "## [encoders.avif.final]"]
    assert "what it is" not in told


@pytest.mark.parametrize("arguments", [["encoder"], ["--notes", "nowhere.toml"]])
def test_what_is_not_there_is_a_usage_error(arguments: list[str]) -> None:
    told = run("settings", *arguments, TERM="dumb")
    assert told.returncode == 2
    assert told.stdout == ""
