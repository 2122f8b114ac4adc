"""The reference of all settings, and the files in config/ that are generated from it."""

from __future__ import annotations

import tomllib
from functools import reduce
from operator import getitem

import pytest

from proxy.settings import Settings, load_settings
from proxy.settings.load import RENAMED
from proxy.settings.reference import SettingEntry, Table, markdown, settings_file, tables
from proxy.settings.sections import SizeSettings
from tests.support.server import ROOT

FILE = ROOT / "config" / "smartserve.toml"
LISTED = [one for table in tables() for one in table.settings]
BY_NAME = {one.name: one for one in LISTED}


def test_the_committed_page_is_what_the_code_generates() -> None:
    page = (ROOT / "config" / "README.md").read_text()
    assert page[page.index("\n## Outside all tables") + 1 :] == markdown(tables())


def test_the_committed_settings_file_is_what_the_code_generates() -> None:
    assert FILE.read_text() == settings_file(tables())


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
        ("limits.max_pixels", "1 to 1_125_899_906_842_624"),
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
    assert BY_NAME["workers.max_memory_bytes"].amount == "1.5 GiB"
    assert BY_NAME["server.max_header_bytes"].amount == ""


def test_a_table_contains_those_below_it() -> None:
    names = [".".join(table.path) for table in tables() if table.within("encoders.avif")]
    assert names == ["encoders.avif.draft", "encoders.avif.final"]


def test_a_table_names_the_prefix_of_its_variables() -> None:
    prefixes = {".".join(table.path): table.variables for table in tables()}
    assert prefixes["encoders.avif.final"] == "SMARTSERVE_ENCODERS__AVIF__FINAL__"
    assert prefixes[""] == "SMARTSERVE_"


def test_markup_in_a_description_is_escaped() -> None:
    entry = SettingEntry(("a", "b"), "1", "x | y", "see [upgrades] and *")
    page = markdown([Table(("a",), "Text.", (entry,))])
    assert r"| x \| y | see \[upgrades\] and \* |" in page


def test_a_settings_file_gives_bounds_and_sizes_in_comments() -> None:
    entry = SettingEntry(("a", "max_bytes"), "1_048_576", "at least 1", "Maximum.")
    text = settings_file([Table(("a",), "Text.", (entry,))])
    assert text.endswith(
        "# Text.\n[a]\n# Maximum. Allowed: at least 1. Default: 1 MiB.\nmax_bytes = 1_048_576\n"
    )
