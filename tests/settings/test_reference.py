"""The reference of all settings, and the files in config/ that are generated from it."""

from __future__ import annotations

import tomllib
from functools import reduce
from operator import getitem

import pytest

from proxy.settings import Settings, load_settings
from proxy.settings.load import RENAMED
from proxy.settings.reference import tables
from proxy.settings.sections import SizeSettings
from tests.support.commands import run
from tests.support.server import ROOT

FILE = ROOT / "config" / "smartserve.toml"
LISTED = [one for table in tables() for one in table.settings]
BY_NAME = {one.name: one for one in LISTED}


def test_the_committed_page_is_what_the_code_generates() -> None:
    output = run("settings")
    assert output.returncode == 0
    page = (ROOT / "config" / "README.md").read_text()
    assert page[page.index("\n## Outside all tables") + 1 :] == output.stdout


def test_the_committed_settings_file_is_what_the_code_generates() -> None:
    output = run("settings", "--toml")
    assert output.returncode == 0
    assert FILE.read_text() == output.stdout


def test_the_settings_file_sets_exactly_the_defaults() -> None:
    assert load_settings(FILE) == load_settings()


def test_the_page_lists_every_renamed_setting() -> None:
    page = (ROOT / "config" / "README.md").read_text()
    assert [old for old, new in RENAMED.items() if f"| `{old}` | `{new}` |" not in page] == []


def test_every_default_is_that_of_the_code() -> None:
    defaults = Settings().model_dump(mode="json", exclude_none=True)
    shown = [tomllib.loads(f"it = {one.default}")["it"] for one in LISTED]
    assert shown == [reduce(getitem, one.path, defaults) for one in LISTED]


def test_every_setting_has_a_description() -> None:
    entries = [one for one in LISTED if one.path[0] != "sizes"]
    assert [one.name for one in entries if not one.description] == []


def test_every_table_has_a_description() -> None:
    assert [table.path for table in tables() if not table.description] == []


def test_a_field_of_a_base_class_keeps_its_description() -> None:
    inherited = BY_NAME["encoders.avif.final.effort"]
    assert inherited.description == BY_NAME["encoders.avif.draft.effort"].description


def test_every_property_of_a_size_is_explained() -> None:
    (table,) = (one for one in tables() if one.path == ("sizes",))
    assert [
        name for name in SizeSettings.model_fields if f"`{name}`" not in table.description
    ] == []


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("server.port", "0 to 65_535"),
        ("server.keepalive_s", "above 0, at most 86_400"),
        ("limits.max_pixels", "at least 1"),
        ("renditions.disk_low_water", "above 0, below 1"),
        ("page.enabled", 'true, false or "auto"'),
        ("log.level", '"debug", "info", "warning", "error"'),
        ("encoders.order", 'list of "avif", "webp", "jpeg", "png", "gif"'),
        ("encoders.copyright", "text of at most 500 characters"),
        ("encoders.avif.draft.bit_depth", "8, 10, 12"),
    ],
)
def test_allowed_values_are_given_in_words(name: str, allowed: str) -> None:
    assert BY_NAME[name].allowed == allowed


def test_bytes_are_given_in_a_larger_unit_if_that_is_exact() -> None:
    assert BY_NAME["workers.max_memory_bytes"].amount == " (1.5 GiB)"
    assert BY_NAME["server.max_header_bytes"].amount == ""


def test_one_table_and_those_below_it_can_be_selected() -> None:
    output = run("settings", "encoders.avif", "log").stdout
    headings = [line for line in output.splitlines() if line.startswith("## ")]
    assert headings == ["## [log]", "## [encoders.avif.draft]", "## [encoders.avif.final]"]


@pytest.mark.parametrize("arguments", [["encoder"], ["--tomls"]])
def test_an_unknown_table_or_option_is_a_usage_error(arguments: list[str]) -> None:
    output = run("settings", *arguments, TERM="dumb")
    assert output.returncode == 2
    assert output.stdout == ""
