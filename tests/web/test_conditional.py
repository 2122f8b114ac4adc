"""Conditions and ranges: what the headers of a request mean for its answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.domain.errors import PreconditionFailed, RangeNotSatisfiable
from proxy.web.conditional import (
    ByteRange,
    check_preconditions,
    matches,
    not_modified,
    requested_range,
)

ETAG = '"0123456789abcdef0123456789abcdef"'
OTHER = '"fedcba9876543210fedcba9876543210"'
CHANGED = datetime(2026, 11, 20, 10, 30, 15, 250_000, tzinfo=UTC)
DATE = "Fri, 20 Nov 2026 10:30:15 GMT"
BEFORE = "Fri, 20 Nov 2026 10:30:14 GMT"
AFTER = "Fri, 20 Nov 2026 10:30:16 GMT"
LENGTH = 1000


def ranged(
    text: str | None, *, if_range: str | None = None, length: int = LENGTH
) -> ByteRange | None:
    headers = {"Range": text, "If-Range": if_range}
    given = {name: value for name, value in headers.items() if value is not None}
    return requested_range(given, length=length, etag=ETAG)


@pytest.mark.parametrize(
    "if_none_match",
    [
        ETAG,
        f"W/{ETAG}",
        f"  {ETAG}  ",
        f"{OTHER}, {ETAG}",
        f"{OTHER},{ETAG}",
        f'W/"x", W/{ETAG}, "y"',
        f'"a,b", {ETAG}',
        f'"", {ETAG}',
        f",, {ETAG},",
        f"garbage, {ETAG}",
        "*",
        " * ",
    ],
)
def test_a_copy_that_the_client_has_is_good(if_none_match: str) -> None:
    assert matches(if_none_match, ETAG)


@pytest.mark.parametrize(
    "if_none_match",
    [
        "",
        OTHER,
        f"W/{OTHER}",
        ETAG.strip('"'),
        ETAG[:-1],
        ETAG.upper(),
        '"*"',
        "**",
        f'"x{ETAG.strip(chr(34))}"',
        f"'{ETAG.strip(chr(34))}'",
        '""',
        '"',
    ],
)
def test_a_copy_of_something_else_is_not(if_none_match: str) -> None:
    assert not matches(if_none_match, ETAG)


def test_a_request_without_conditions_is_answered_in_full() -> None:
    assert not not_modified(CIMultiDict({}), ETAG, CHANGED)


@pytest.mark.parametrize(
    ("since", "good"),
    [
        (DATE, True),
        # The Date of a response without Last-Modified, such as a draft.
        (AFTER, False),
        (BEFORE, False),
        ("Friday, 20-Nov-26 10:30:15 GMT", True),
        ("Fri Nov 20 10:30:15 2026", True),
        ("Fri, 20 Nov 2026 10:30:15 -0000", True),
        ("", False),
        ("yesterday", False),
        ("0", False),
        ("Fri, 99 Nov 2026 10:30:15 GMT", False),
        ("Fri, 20 Nov 99999 10:30:15 GMT", False),
    ],
)
def test_only_the_date_that_was_sent_confirms_a_copy(since: str, *, good: bool) -> None:
    assert not_modified(CIMultiDict({"If-Modified-Since": since}), ETAG, CHANGED) == good


def test_a_date_does_not_count_beside_entity_tags() -> None:
    # RFC 9110, 13.1.3
    assert not not_modified(
        CIMultiDict({"If-None-Match": OTHER, "If-Modified-Since": AFTER}), ETAG, CHANGED
    )
    assert not_modified(
        CIMultiDict({"If-None-Match": ETAG, "If-Modified-Since": BEFORE}), ETAG, CHANGED
    )
    assert not not_modified(
        CIMultiDict({"If-None-Match": "", "If-Modified-Since": AFTER}), ETAG, CHANGED
    )


@given(st.text())
def test_any_condition_is_understood_or_passed_over(text: str) -> None:
    if '"' not in text and text.strip() != "*":
        assert not not_modified(CIMultiDict({"If-None-Match": text}), ETAG, CHANGED)
    assert not_modified(CIMultiDict({"If-Modified-Since": text}), ETAG, CHANGED) in (True, False)


DATE_PARTS = st.sampled_from(
    ["Fri,", "20", "Nov", "2026", "-0000", "GMT", "+9999", "10:30:15", "99:99", "::", "-", "0"]
)


@given(st.lists(DATE_PARTS | st.text(max_size=4), max_size=8).map(" ".join))
def test_any_date_is_understood_or_passed_over(text: str) -> None:
    later = CHANGED + timedelta(days=1)
    headers = CIMultiDict({"If-Modified-Since": text})
    # No date confirms two versions of a row.
    assert not (not_modified(headers, ETAG, CHANGED) and not_modified(headers, ETAG, later))
    assert not not_modified(headers, ETAG, None)


@given(
    tags=st.lists(st.sampled_from([ETAG, OTHER, f"W/{OTHER}", '""', "x", ""])), weak=st.booleans()
)
def test_a_list_of_entity_tags_holds_what_is_in_it(*, tags: list[str], weak: bool) -> None:
    held = [f"W/{tag}" if weak and tag == ETAG else tag for tag in tags]
    assert matches(", ".join(held), ETAG) == (ETAG in tags)


@pytest.mark.parametrize(
    ("text", "start", "stop"),
    [
        ("bytes=0-499", 0, 500),
        ("bytes=500-999", 500, 1000),
        ("bytes=500-", 500, 1000),
        ("bytes=-500", 500, 1000),
        ("bytes=0-0", 0, 1),
        ("bytes=-1", 999, 1000),
        ("bytes=999-", 999, 1000),
        ("bytes=0-", 0, 1000),
        ("bytes=0-99999999", 0, 1000),
        ("bytes=-99999999", 0, 1000),
        ("bytes=900-99999999", 900, 1000),
        ("bytes=007-009", 7, 10),
        (" bytes=0-1 ", 0, 2),
    ],
)
def test_one_range_is_what_it_says(text: str, start: int, stop: int) -> None:
    assert ranged(text) == ByteRange(start, stop)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "bytes=--1",
        "bytes=5-2",
        "bytes=1-2-3",
        "bytes=0x1-0x2",
        "bytes=1.0-2",
        "bytes=+1-2",
        "bytes=\u0661-\u0662",
        "lines=0-1",
        "0-1",
        "bytes 0-1",
        "bytes=0-1,5-6",
        "bytes=0-1, -1",
        "bytes=0-,0-,0-,0-",
        "bytes=" + "9" * 400 + "-",
    ],
)
def test_several_ranges_and_malformed_ones_are_answered_with_the_whole(text: str | None) -> None:
    assert ranged(text) is None


@pytest.mark.parametrize("text", ["bytes=1000-", "bytes=1000-1001", "bytes=99999-", "bytes=-0"])
def test_a_range_that_lies_outside_is_told_the_length(text: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        ranged(text)
    assert caught.value.length == LENGTH


def test_no_range_of_nothing_can_be_had() -> None:
    for text in ("bytes=0-", "bytes=-1", "bytes=0-0"):
        with pytest.raises(RangeNotSatisfiable):
            ranged(text, length=0)


@pytest.mark.parametrize("if_range", [ETAG, f" {ETAG} "])
def test_a_range_of_the_same_rendition_is_given(if_range: str) -> None:
    assert ranged("bytes=0-1", if_range=if_range) == ByteRange(0, 2)


@pytest.mark.parametrize(
    "if_range", [OTHER, f"W/{ETAG}", f"{OTHER}, {ETAG}", "*", "", BEFORE, AFTER, "nonsense"]
)
def test_a_range_of_another_rendition_is_answered_with_the_whole(if_range: str) -> None:
    assert ranged("bytes=0-1", if_range=if_range) is None


def test_a_date_does_not_tell_two_renditions_of_a_picture_apart() -> None:
    # All formats of a picture, its fallback and its next encoding have the same Last-Modified: half
    # of one and half of another make no picture.
    assert ranged("bytes=0-1", if_range=DATE) is None


def test_an_if_range_that_does_not_hold_goes_before_a_range_outside() -> None:
    assert ranged("bytes=99999-", if_range=OTHER) is None


def test_a_content_range_counts_its_last_byte_in() -> None:
    assert ByteRange(500, 1000).content_range(1000) == "bytes 500-999/1000"


@given(st.text() | st.from_regex(r"bytes ?= ?[0-9]{0,4} ?- ?[0-9]{0,4}", fullmatch=True))
def test_any_range_is_a_part_or_the_whole_or_outside(text: str) -> None:
    try:
        part = ranged(text) or ByteRange(0, LENGTH)
    except RangeNotSatisfiable:
        return
    assert 0 <= part.start < part.stop <= LENGTH


def fails(*lines: tuple[str, str], changed: datetime | None = CHANGED) -> bool:
    try:
        check_preconditions(CIMultiDict(lines), ETAG, changed)
    except PreconditionFailed:
        return True
    return False


@pytest.mark.parametrize(
    ("if_match", "failed"),
    [
        (ETAG, False),
        (f"  {ETAG}  ", False),
        (f"{OTHER}, {ETAG}", False),
        (f'W/"x",{ETAG}', False),
        ("*", False),
        (" * ", False),
        ("", False),
        (OTHER, True),
        (f"W/{ETAG}", True),
        (f"W/{ETAG}, {OTHER}", True),
        (ETAG.strip('"'), True),
        ("garbage", True),
        (f"*, {OTHER}", True),
    ],
)
def test_if_match_compares_strongly(if_match: str, *, failed: bool) -> None:
    assert fails(("If-Match", if_match)) is failed


def test_lines_of_if_match_are_one_list() -> None:
    assert not fails(("If-Match", OTHER), ("If-Match", ETAG))


@pytest.mark.parametrize(
    ("date", "failed"),
    [
        (DATE, False),
        (AFTER, False),
        (BEFORE, True),
        ("Friday, 20-Nov-26 10:30:14 GMT", True),
        ("Fri Nov 20 10:30:14 2026", True),
        ("yesterday", False),
        ("", False),
    ],
)
def test_a_later_change_fails_if_unmodified_since(date: str, *, failed: bool) -> None:
    assert fails(("If-Unmodified-Since", date)) is failed
    assert not fails(("If-Unmodified-Since", date), changed=None)
    assert not fails(("If-Unmodified-Since", date), ("If-Match", ETAG))
