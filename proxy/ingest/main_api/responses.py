"""What the main API answers, read with care: it may be another program, or a proxy before it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson
import structlog
from multidict import CIMultiDictProxy

from proxy.domain.errors import (
    MainApiForbidden,
    MainApiRefused,
    MainApiUnavailable,
    UploadGone,
)
from proxy.domain.ingest_item import Upload
from proxy.domain.media import MAX_MEDIA_ID, DataType
from proxy.domain.pending_image import PendingStatus, data_type_of

_AGAIN = frozenset({408, 425, 429})
"""Of the client's errors those that pass (RFC 9110, 15.5.9; RFC 8470, 5.2; RFC 6585, 4)."""
_GONE = frozenset({404, 410})
_FORBIDDEN = frozenset({401, 403})
_SERVERS_FAULT = 500
_SUCCESS = 200
_REDIRECTS = 300
_CLIENTS_FAULT = 400
_MAX_WAIT_S = 86_400
_MAX_NAME, _MAX_TYPE, _MAX_PATH = 255, 100, 500

log = structlog.get_logger(__name__)


def check_status(status: int, headers: CIMultiDictProxy[str]) -> None:
    """Return for a success; raise what any other status means."""
    if _SUCCESS <= status < _REDIRECTS:
        return
    told = f"the main API answered {status}"
    if status in _AGAIN or status >= _SERVERS_FAULT:
        raise MainApiUnavailable(told, retry_after_s=retry_after_s(headers))
    if status in _GONE:
        raise UploadGone(f"{told}: it does not know the upload")
    if status in _FORBIDDEN:
        raise MainApiForbidden(f"{told}: is ingest.main_api_key its MEDIA_API_KEY?")
    if status < _CLIENTS_FAULT:
        # A redirect would carry the key elsewhere.
        raise MainApiRefused(f"{told}: set ingest.main_api_url to where it is")
    raise MainApiRefused(told)


def retry_after_s(headers: CIMultiDictProxy[str]) -> int | None:
    """Seconds to wait (RFC 9110, 10.2.3), from a number or a date; None where none is told."""
    told = headers.get("Retry-After", "").strip()
    if told.isascii() and told.isdigit():
        return min(int(told[:9]), _MAX_WAIT_S)
    try:
        when = parsedate_to_datetime(told)
    except (ValueError, OverflowError):
        return None
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return min(max(0, round((aware - datetime.now(UTC)).total_seconds())), _MAX_WAIT_S)


def read_json(raw: bytes) -> dict[str, Any]:
    """The object that an answer is.

    Raises:
        MainApiRefused: it is something else.
    """
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MainApiRefused("the main API answered with something that is no JSON") from error
    if not isinstance(found, dict):
        raise MainApiRefused("the main API answered with JSON that is no object")
    return found


def read_uploads(answer: dict[str, Any]) -> Sequence[Upload]:
    """The uploads of ``GET /api/media/pending/all``; what is no upload is told and left out.

    Raises:
        MainApiRefused: there is no list of them.
    """
    images = answer.get("images")
    if not isinstance(images, list):
        raise MainApiRefused("the main API answered without a list of images")
    read = [_read_upload(one) for one in images]
    if left_out := read.count(None):
        log.warning("uploads_not_understood", left_out=left_out, of=len(images))
    pending = (one for one in read if isinstance(one, Upload))
    return list({one.id: one for one in pending}.values())


def check_success(answer: dict[str, Any]) -> None:
    """Return unless the answer says itself that it was no success."""
    if answer.get("success") is False:
        raise MainApiRefused("the main API answered that it was no success")


def _read_upload(found: Any) -> Upload | bool | None:
    """None for what is no upload, False for one that does not wait for us."""
    if not isinstance(found, dict):
        return None
    main_api_id, user_id = _number(found.get("id")), _number(found.get("user_id"))
    path = found.get("image_path")
    if not main_api_id or user_id is None or not isinstance(path, str) or len(path) > _MAX_PATH:
        return None
    if found.get("status", PendingStatus.PENDING) != PendingStatus.PENDING:
        return False
    return Upload(
        id=main_api_id,
        user_id=user_id,
        image_path=path,
        original_name=_text(found.get("original_name"), _MAX_NAME),
        mime_type=_text(found.get("mime_type"), _MAX_TYPE),
        data_type=data_type_of(path) or DataType.PROFILE,
    )


def _number(value: Any) -> int | None:
    """A BIGINT; some drivers write it as a text, since JavaScript's numbers end before it does."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:20])
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= MAX_MEDIA_ID else None


def _text(value: Any, longest: int) -> str | None:
    return value[:longest] if isinstance(value, str) and value else None
