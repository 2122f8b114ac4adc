"""``smartserve settings``; the tables themselves are tested in tests/settings/test_reference."""

from __future__ import annotations

from tests.cli.conftest import Invoke


def test_only_the_tables_that_are_named_are_printed(invoke: Invoke) -> None:
    done = invoke("settings", "tracing")
    assert done.code == 0
    assert "`tracing.enabled`" in done.stdout
    assert "`server.port`" not in done.stdout


def test_an_unknown_table_is_a_usage_error(invoke: Invoke) -> None:
    done = invoke("settings", "tracng")
    assert (done.code, "there is no table tracng" in done.stderr) == (2, True)


def test_a_settings_file_can_be_printed(invoke: Invoke) -> None:
    done = invoke("settings", "log", "--toml")
    assert done.code == 0
    assert "[log]\n" in done.stdout
    assert 'level = "info"' in done.stdout


def test_the_former_option_for_descriptions_is_accepted(invoke: Invoke) -> None:
    assert invoke("settings", "log", "--notes", "smartserve.toml").code == 0
