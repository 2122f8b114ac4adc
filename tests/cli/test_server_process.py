"""The entry point of a server process."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.cli.server_process import _settings_of
from proxy.domain.errors import ConfigurationError
from tests.support.server import make_settings


def test_a_process_serves_with_its_part_of_the_settings_on_the_port_that_was_bound(
    tmp_path: Path,
) -> None:
    whole = make_settings(tmp_path, server={"port": 0, "max_connections": 100})
    order = {
        "settings": whole.model_dump(mode="json", exclude_unset=True),
        "port": 8123,
        "slot": 1,
        "count": 4,
    }
    found = _settings_of(order)
    assert (found.server.port, found.server.max_connections) == (8123, 25)
    assert found.data_dir == whole.data_dir


def test_settings_of_another_version_are_an_error_that_says_what_to_do() -> None:
    order = {"settings": {"server": {"gone": 1}}, "port": 1, "slot": 0, "count": 2}
    with pytest.raises(ConfigurationError, match="restart the whole server"):
        _settings_of(order)
