"""Dividing the settings of a machine among its server processes."""

from __future__ import annotations

import pytest

from proxy.settings import Settings, load_settings, share
from proxy.settings import sections as sections_module
from proxy.settings.processes import DIVIDED


@pytest.mark.parametrize(("cores", "processes"), [(1, 1), (3, 1), (4, 1), (8, 2), (33, 8)])
def test_by_default_there_is_one_process_for_each_four_cores(
    cores: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections_module, "available_cores", lambda: cores)
    assert Settings().process_count == processes
    assert load_settings(None, {"server": {"processes": 3}}).process_count == 3
    # A container with a quota of CPU time may see all cores of its machine.
    assert load_settings(None, {"workers": {"count": 1}}).process_count == 1


def test_the_parts_of_a_limit_add_up_to_the_whole() -> None:
    whole = load_settings(None, {"workers": {"count": 7, "max_queue": 100}})
    parts = [share(whole, index, 3) for index in range(3)]
    assert [part.workers.count for part in parts] == [3, 2, 2]
    for section, name in (
        ("workers", "max_queue"),
        ("server", "max_connections"),
        ("renditions", "memory_max_bytes"),
        ("database", "max_rows"),
        ("upgrades", "max_backlog"),
    ):
        total = sum(getattr(getattr(part, section), name) for part in parts)
        assert total == getattr(getattr(whole, section), name), name


def test_every_part_is_valid_and_at_least_one() -> None:
    whole = load_settings(None, {"workers": {"count": 2}, "ingest": {"concurrency": 1}})
    for index in range(8):
        part = share(whole, index, 8)
        assert Settings.model_validate(part.model_dump()) == part
        assert (part.workers.count, part.ingest.concurrency) == (1, 1)
        assert part.database.pool_size == 2
        assert part.admin.max_failures >= 1


def test_a_process_has_the_number_of_all_processes() -> None:
    whole = load_settings(None, {"workers": {"count": 8}})
    assert share(whole, 0, 2).process_count == 2


def test_a_limit_of_0_stays_0() -> None:
    off = {"renditions": {"memory_max_bytes": 0}, "server": {"max_connections": 0}}
    part = share(load_settings(None, off), 0, 2)
    assert (part.renditions.memory_max_bytes, part.server.max_connections) == (0, 0)


def test_everything_else_is_equal_in_all_processes() -> None:
    server = {"drain_s": 7, "processes": 2}
    whole = load_settings(None, {"server": server, "renditions": {"disk_low_water": 0.5}})
    part = share(whole, 1, 2).model_dump()
    for section, values in whole.model_dump().items():
        for name in values if isinstance(values, dict) else ():
            if name not in DIVIDED.get(section, ()):
                assert part[section][name] == values[name], f"{section}.{name}"
