"""The table of the checks against the pages for operators, and what is common to all areas."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

import pytest

from proxy.doctor import (
    Check,
    CheckBlocked,
    Diagnosis,
    Verdict,
    failed,
    judged,
    looked,
    reason_of,
    table,
    warned,
    well,
    worst,
)
from proxy.doctor.figures import as_bytes, as_time, counted
from proxy.domain.errors import ConfigurationError, DatabaseUnavailable, StorageError
from proxy.settings import Settings
from tests.support.server import ROOT

OPERATING = (ROOT / "deploy" / "OPERATING.md").read_text(encoding="utf-8")

AREAS: tuple[tuple[Check[Any], ...], ...] = (
    *(table.INSTALLATION, table.MACHINE, table.DATABASE, table.ORIGINALS, table.RENDITIONS),
    *(table.WORKERS, table.UPLOADS, table.ROW, table.SERVER, table.RUNNING, table.PICTURE),
    table.FRONT,
)


def names(*, row: bool = False) -> list[str]:
    """Of all checks, in the order in which they are told; those of a ``row`` where one is named."""
    return [check.name for area in AREAS if row or area is not table.ROW for check in area]


def test_no_two_checks_have_one_name() -> None:
    assert len(set(names(row=True))) == len(names(row=True))


def test_each_alert_that_is_named_stands_in_the_operators_page() -> None:
    headings = set(re.findall(r"^### (.+)$", OPERATING, re.MULTILINE))
    assert {check.alert for area in AREAS for check in area if check.alert} <= headings


def test_each_alert_that_a_check_can_tell_is_told_by_one() -> None:
    """What no check has stands here, so that a new alert is thought of."""
    headings = set(re.findall(r"^### (.+)$", OPERATING, re.MULTILINE))
    told = {check.alert for area in AREAS for check in area}
    assert headings - told == {
        "Cached files are damaged",
        "Finals fall behind",
        "Uploads are not processed",
        "Uploads fail",
        "Analyses lack an answer",
    }


def test_the_operators_page_has_each_check_by_its_alert() -> None:
    rows = re.findall(r"^\| ([A-Z][^|]+) \| (`[^|]+`) \|$", OPERATING, re.MULTILINE)
    page = {alert: set(re.findall(r"`([^`]+)`", checks)) for alert, checks in rows}
    code: dict[str, set[str]] = {}
    for check in (check for area in AREAS for check in area if check.alert):
        code.setdefault(check.alert, set()).add(check.name)
    assert page == code


def test_the_files_that_advice_names_are_there() -> None:
    code = "".join(path.read_text() for path in (ROOT / "proxy" / "doctor").glob("*.py"))
    files = set(re.findall(r"deploy/[A-Za-z0-9_./-]+\.[a-z]+", code))
    assert len(files) > 8
    assert [name for name in files if not (ROOT / name).exists()] == []


def texts() -> Iterator[str]:
    """All texts in the doctor's code."""
    for path in (ROOT / "proxy" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_settings_that_advice_names_are_there() -> None:
    sections = "|".join(Settings.model_fields)
    pattern = re.compile(rf"(?<![\w/])({sections})\.([a-z_]+)(?:\.([a-z_]+))?")
    named = {found.group(0) for text in texts() for found in pattern.finditer(text)}
    assert {"renditions.disk_max_bytes", "storage.strip_prefix", "vision.text.languages"} <= named
    settings = Settings()
    for name in named:
        attrgetter(name)(settings)


CHECKS: Sequence[Check[int]] = (
    Check("first", lambda seen: well(f"{seen}"), "An alert"),
    Check("second", lambda seen: warned(f"{seen}", "look after it")),
)


def test_what_was_seen_is_judged_by_each_check() -> None:
    found = list(judged(CHECKS, 7))
    assert [(one.check, one.diagnosis.verdict, one.alert) for one in found] == [
        ("first", Verdict.OK, "An alert"),
        ("second", Verdict.WARN, ""),
    ]


def test_an_obstacle_is_what_the_first_says_and_the_others_are_skipped() -> None:
    first, second = judged(CHECKS, CheckBlocked(failed("away", "start it")))
    assert first.diagnosis == Diagnosis(Verdict.FAIL, "away", "start it")
    assert second.diagnosis == Diagnosis(Verdict.SKIPPED, "see first")


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (TimeoutError(), "no answer in time"),
        (DatabaseUnavailable("away"), "away"),
        (ConfigurationError(["a: wrong", "b: wrong"]), "a: wrong; b: wrong"),
        (CheckBlocked(failed("told", "do")), "told"),
    ],
)
async def test_what_goes_wrong_at_a_look_is_a_diagnosis(error: Exception, seen: str) -> None:
    async def look() -> int:
        raise error

    found = await looked(look())
    assert isinstance(found, CheckBlocked)
    assert (found.diagnosis.verdict, found.diagnosis.seen) == (Verdict.FAIL, seen)
    assert found.diagnosis.advice


def test_what_is_behind_an_error_of_ours_is_told() -> None:
    error = StorageError("cannot be written")
    error.__cause__ = OSError(28, "No space left on device")
    assert reason_of(error) == "cannot be written (No space left on device)"


def test_the_first_of_the_worst_is_taken() -> None:
    told = worst(well("a"), failed("b", "x"), warned("c", "y"), failed("d", "z"))
    assert told.seen == "b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (as_bytes(0), "0 B"),
        (as_bytes(1536), "1.5 KiB"),
        (as_bytes(10 * 1024**3), "10 GiB"),
        (as_bytes(3 * 1024**4), "3 TiB"),
        (as_time(0.00321), "3.21 ms"),
        (as_time(90), "1.5 min"),
        (as_time(7200), "2 h"),
        (as_time(86400 * 3), "3 days"),
        (counted(1, "file"), "1 file"),
        (counted(2, "file"), "2 files"),
    ],
)
def test_figures_are_shown_as_people_read_them(text: str, shown: str) -> None:
    assert text == shown
