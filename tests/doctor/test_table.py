"""The table of the checks, compared with the operators' page, deploy/ and the settings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from operator import attrgetter

from proxy.app.doctor import open_installation
from proxy.doctor.check import ALERTS
from proxy.doctor.originals import check_image
from proxy.doctor.table import AREAS, examine
from proxy.settings import Settings
from tests.support.server import ROOT

OPERATING = (ROOT / "deploy" / "OPERATING.md").read_text(encoding="utf-8")
HEADINGS = set(re.findall(r"^### (.+)$", OPERATING, re.MULTILINE))
CHECKS = [name for area in AREAS for name in area.names]


def names(*, image: bool = False) -> list[str]:
    """Return the checks in their order; those of one image only with ``image``."""
    return [name for area in AREAS if image or area is not check_image for name in area.names]


def test_check_names_are_unique() -> None:
    assert len(set(CHECKS)) == len(CHECKS)


def test_every_alert_is_a_heading_of_the_operators_page() -> None:
    assert set(ALERTS) <= HEADINGS


def test_the_operators_page_lists_the_checks_of_each_alert() -> None:
    rows = re.findall(r"^\| ([A-Z][^|]+) \| (`[^|]+`) \|$", OPERATING, re.MULTILINE)
    page = {alert: set(re.findall(r"`([^`]+)`", checks)) for alert, checks in rows}
    assert page == {alert: set(checks) for alert, checks in ALERTS.items()}
    assert set().union(*page.values()) <= set(CHECKS)


def texts() -> Iterator[str]:
    """Yield all string constants of the doctor's code."""
    for path in (ROOT / "proxy" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_files_named_in_advice_exist() -> None:
    files = {name for text in texts() for name in re.findall(r"deploy/[\w./-]+\.[a-z]+", text)}
    assert len(files) > 8
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_settings_named_in_advice_exist() -> None:
    sections = "|".join(Settings.model_fields)
    pattern = re.compile(rf"(?<![\w/])({sections})\.([a-z_]+)(?:\.([a-z_]+))?")
    named = {found.group(0) for text in texts() for found in pattern.finditer(text)}
    assert {"renditions.disk_max_bytes", "storage.strip_prefix"} <= named
    settings = Settings()
    for name in named:
        attrgetter(name)(settings)


async def test_one_image_is_checked_only_if_it_is_named(settings: Settings) -> None:
    for media_id, expected in ((None, names()), (7, names(image=True))):
        opening = open_installation(
            settings, None, url="http://127.0.0.1:1", public="", media_id=media_id
        )
        async with opening as installation:
            found = [one.check for one in await examine(installation)]
        assert found == expected
