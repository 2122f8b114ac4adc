"""The operator's guides name only metrics, labels, log events and settings that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.settings import Settings
from tests.support.server import ROOT, Serving

PAGES = (
    *(ROOT / "deploy" / f"{name}.md" for name in ("OPERATING", "README", "SIZING", "CLUSTER")),
    ROOT / "README.md",
)
_SERIES = re.compile(r"smartserve_[a-z_]+(?:\{[^}]*\})?")
_LABEL = re.compile(r'([a-z_]+)(=~|!=|=)"([^"]*)"')
_SETTING = re.compile(r"`([a-z]+)\.([a-z_]+)(?: = [^`]*)?`")
_EVENT = re.compile(r"`([a-z]+_[a-z_]+)`")
_NO_EVENTS = frozenset(
    {
        *("require_sandbox", "no_new_privs", "media_id"),
        *("request_id", "max_connections", "media_files"),
        *("media_facts", "header_timeout", "write_timeout"),
        *("media_fallbacks", "bulk_path"),
        *("no_space", "read_only", "no_key_set"),
    }
)
"""Other words of this form: labels, tables, fields."""


def series(page: Path) -> Iterator[str]:
    for found in _SERIES.findall(page.read_text(encoding="utf-8")):
        yield found.replace("_bucket", "").rstrip("_")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
async def test_every_metric_that_is_named_is_one_that_is_exported(
    page: Path, server: Serving
) -> None:
    families = {family.name for family in server.services.metrics.registry.collect()}
    for one in series(page):
        name = one.partition("{")[0]
        assert name.removesuffix("_total") in families, one


async def test_every_label_value_that_is_named_is_one_that_occurs(server: Serving) -> None:
    open_ended = {"status", "source", "stage", "version", "code"}
    samples = [
        sample for family in server.services.metrics.registry.collect() for sample in family.samples
    ]
    for one in series(PAGES[0]):
        name = one.partition("{")[0]
        for label, _, values in _LABEL.findall(one):
            known = {s.labels.get(label) for s in samples if s.name.startswith(name)}
            if label not in open_ended:
                assert set(values.split("|")) <= known, one


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_setting_that_is_named_is_one_that_there_is(page: Path) -> None:
    settings = Settings()
    for section, key in _SETTING.findall(page.read_text(encoding="utf-8")):
        if section in type(settings).model_fields:
            assert hasattr(getattr(settings, section), key), f"{section}.{key}"


def test_every_log_event_that_is_named_is_one_that_is_written() -> None:
    code = "".join(path.read_text() for path in (ROOT / "proxy").rglob("*.py"))
    named = set(_EVENT.findall(PAGES[0].read_text(encoding="utf-8")))
    events = {one for one in named if not one.startswith("smartserve_")} - _NO_EVENTS
    assert len(events) > 5
    assert [one for one in events if f'"{one}"' not in code] == []
