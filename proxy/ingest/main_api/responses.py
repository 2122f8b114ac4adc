"""Validates answers of the main API, which may be another program or a proxy in front of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import structlog

from proxy.domain.errors import (
    MainApiForbidden,
    MainApiRefused,
    MainApiUnavailable,
    UploadGone,
)
from proxy.domain.media import MAX_MEDIA_ID
from proxy.domain.upload import PendingStatus, Upload, new_upload
from proxy.runtime.http_client import retry_after_s

_SUCCESS, _REDIRECTION, _CLIENT_ERROR, _SERVER_ERROR = 200, 300, 400, 500
# Client errors that are transient: RFC 9110, 15.5.9; RFC 8470, 5.2; RFC 6585, 4.
_TRANSIENT = frozenset({408, 425, 429})
_GONE = frozenset({404, 410})
_FORBIDDEN = frozenset({401, 403})
_MAX_PATH = 500

log = structlog.get_logger(__name__)


def check_status(status: int, headers: Mapping[str, str]) -> None:
    """Raise the error that a status means; return for a success."""
    if _SUCCESS <= status < _REDIRECTION:
        return
    answered = f"The main API answered {status}"
    if status in _TRANSIENT or status >= _SERVER_ERROR:
        raise MainApiUnavailable(f"{answered}.", retry_after_s=retry_after_s(headers))
    if status in _GONE:
        raise UploadGone(f"{answered}: it does not know the upload.")
    if status in _FORBIDDEN:
        raise MainApiForbidden(
            f"{answered}: it rejected the key. Set ingest.main_api_key to its MEDIA_API_KEY."
        )
    if status < _CLIENT_ERROR:
        # Redirects are not followed: they could send the key to another host.
        raise MainApiRefused(f"{answered}, a redirect. Set ingest.main_api_url to its final URL.")
    raise MainApiRefused(f"{answered}.")


def read_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer.

    Raises:
        MainApiRefused: the body is something else, or reports that the request failed.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MainApiRefused("The answer of the main API is not JSON.") from error
    if not isinstance(found, dict):
        raise MainApiRefused("The answer of the main API is JSON, but not an object.")
    if found.get("success") is False:
        raise MainApiRefused("The main API answered with success: false.")
    return found


def read_uploads(answer: Mapping[str, Any]) -> Sequence[Upload]:
    """Return the uploads of ``GET /api/media/pending/all``; invalid entries are logged and skipped.

    Raises:
        MainApiRefused: the answer has no list of uploads.
    """
    images = answer.get("images")
    if not isinstance(images, list):
        raise MainApiRefused("The answer of the main API has no list named images.")
    read = [_read_upload(one) for one in images]
    if invalid := read.count(None):
        log.warning("invalid_uploads_skipped", skipped=invalid, of=len(images))
    # An id that is listed twice is one upload.
    return list({one.id: one for one in read if isinstance(one, Upload)}.values())


def _read_upload(found: Any) -> Upload | bool | None:
    """Return None for an invalid entry, and False for an upload that is not pending."""
    if not isinstance(found, dict):
        return None
    main_api_id, user_id = _number(found.get("id")), _number(found.get("user_id"))
    path = found.get("image_path")
    if not main_api_id or user_id is None or not isinstance(path, str) or len(path) > _MAX_PATH:
        return None
    # Valid, but not for a worker: another program may list uploads of any status.
    if found.get("status", PendingStatus.PENDING) != PendingStatus.PENDING:
        return False
    return new_upload(
        main_api_id, user_id, path, found.get("original_name"), found.get("mime_type")
    )


def _number(value: Any) -> int | None:
    """Return an unsigned BIGINT, or None.

    Some drivers send it as text, because numbers of JavaScript are exact up to 2 ** 53 only.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:20])
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= MAX_MEDIA_ID else None
