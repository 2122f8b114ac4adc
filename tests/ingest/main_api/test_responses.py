"""Validation of answers: a main API may be another program, or a proxy in front of it."""

from __future__ import annotations

from typing import Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.domain.errors import (
    IngestError,
    MainApiForbidden,
    MainApiRefused,
    MainApiUnavailable,
    UploadGone,
)
from proxy.domain.media import DataType
from proxy.domain.upload import PendingPage
from proxy.ingest.main_api.responses import check_status, read_json, read_uploads

UPLOAD: dict[str, Any] = {
    "id": 7,
    "user_id": 4,
    "image_path": "/temp_images/profiles/4-logo-1.png",
    "original_name": "logo.png",
    "mime_type": "image/png",
    "status": "pending",
}


def headers(**values: str) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(values))


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_success_passes(status: int) -> None:
    check_status(status, headers())


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (302, MainApiRefused),
        (400, MainApiRefused),
        (401, MainApiForbidden),
        (403, MainApiForbidden),
        (404, UploadGone),
        (408, MainApiUnavailable),
        (410, UploadGone),
        (425, MainApiUnavailable),
        (429, MainApiUnavailable),
        (500, MainApiUnavailable),
        (503, MainApiUnavailable),
    ],
)
def test_a_status_defines_whether_a_retry_may_help(status: int, error: type[IngestError]) -> None:
    with pytest.raises(error) as raised:
        check_status(status, headers())
    assert type(raised.value) is error
    assert str(status) in raised.value.detail


def test_retry_after_is_part_of_the_error() -> None:
    with pytest.raises(MainApiUnavailable) as raised:
        check_status(503, headers(**{"Retry-After": "7"}))
    assert raised.value.retry_after_s == 7


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{", b"\x00", b"", b'{"success": false}'])
def test_a_body_that_is_not_a_successful_object_is_rejected(body: bytes) -> None:
    with pytest.raises(MainApiRefused):
        read_json(body)


def test_uploads_are_read() -> None:
    (found,) = read_uploads({"images": [UPLOAD]}).uploads
    assert (found.id, found.user_id, found.data_type) == (7, 4, DataType.LOGO)
    assert (found.original_name, found.mime_type) == ("logo.png", "image/png")


@pytest.mark.parametrize("answer", [{}, {"images": {}}, {"images": None}, {"rows": []}])
def test_an_answer_without_a_list_is_rejected(answer: dict[str, Any]) -> None:
    with pytest.raises(MainApiRefused):
        read_uploads(answer)


@pytest.mark.parametrize(
    "change",
    [
        {"id": 0},
        {"id": True},
        {"id": -1},
        {"id": 2**64},
        {"id": "x"},
        {"id": None},
        {"id": [7]},
        {"id": 7.5},
    ],
    ids=repr,
)
def test_an_entry_without_an_id_is_counted_and_costs_only_itself(change: dict[str, Any]) -> None:
    page = read_uploads({"images": [{**UPLOAD, **change}, {**UPLOAD, "id": 8}, None, 3]})
    assert [one.id for one in page.uploads] == [8]
    assert (page.unusable, page.unreadable) == ([], 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user_id": None}, "user_id"),
        ({"user_id": "x"}, "user_id"),
        ({"user_id": -1}, "user_id"),
        ({"user_id": 2**63}, "user_id"),
        ({"image_path": 5}, "image_path is not text"),
        ({"image_path": None}, "image_path is not text"),
        ({"image_path": "/" + 500 * "x"}, "more than 500 characters"),
        ({"image_path": "/temp_images/profiles/456-frob-789-1.jpg"}, "'456-frob-789-1.jpg'"),
        ({"image_path": "/elsewhere/a.jpg"}, "unknown type"),
    ],
    ids=repr,
)
def test_an_unusable_entry_has_a_reason_and_costs_only_itself(
    change: dict[str, Any], reason: str
) -> None:
    page = read_uploads({"images": [{**UPLOAD, **change}, {**UPLOAD, "id": 8}]})
    assert [one.id for one in page.uploads] == [8]
    (unusable,) = page.unusable
    assert unusable.id == 7
    assert reason in unusable.reason
    assert len(unusable.image_path) <= 500


def test_an_upload_that_is_not_pending_is_left_out() -> None:
    assert read_uploads({"images": [{**UPLOAD, "status": "failed"}]}) == PendingPage([], [])


@pytest.mark.parametrize(("value", "after"), [(8, 8), (None, None), ("x", None), (-1, None)])
def test_the_next_page_begins_where_the_answer_says(value: object, after: int | None) -> None:
    assert read_uploads({"images": [UPLOAD], "next_after": value}).next_after == after


def test_an_id_may_be_text_and_counts_once() -> None:
    found = read_uploads({"images": [{**UPLOAD, "id": "7"}, UPLOAD]})
    assert [one.id for one in found.uploads] == [7]


def test_texts_are_shortened_to_their_columns() -> None:
    (found,) = read_uploads(
        {"images": [{**UPLOAD, "original_name": 300 * "x", "mime_type": 3}]}
    ).uploads
    assert (found.original_name, found.mime_type) == (255 * "x", None)
