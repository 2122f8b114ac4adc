"""Validates answers of the main API, which may be another program or a proxy in front of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import structlog

from proxy.domain.errors import (
    MainApiForbidden,
    MainApiRefused,
    MainApiUnavailable,
    UploadGone,
)
from proxy.domain.upload import (
    PendingPage,
    PendingStatus,
    UnusableUpload,
    Upload,
    new_upload,
    pending_page,
    unsigned_bigint,
)
from proxy.runtime.http_client import retry_after_s

_SUCCESS, _REDIRECTION, _CLIENT_ERROR, _SERVER_ERROR = 200, 300, 400, 500
# Client errors that are transient: RFC 9110, 15.5.9; RFC 8470, 5.2; RFC 6585, 4.
_TRANSIENT = frozenset({408, 425, 429})
_GONE = frozenset({404, 410})
_FORBIDDEN = frozenset({401, 403})

log = structlog.get_logger(__name__)


def check_status(status: int, headers: Mapping[str, str]) -> None:
    """Raise the error that a status means; return for a success.

    No status proves that the file of an upload is bad: a CDN, a WAF or a redirect to HTTPS sends
    any of them for a sound file.
    """
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


def read_uploads(answer: Mapping[str, Any]) -> PendingPage:
    """Return the uploads of ``GET /api/media/pending/all``.

    Raises:
        MainApiRefused: the answer has no list of uploads.
    """
    images = answer.get("images")
    if not isinstance(images, list):
        raise MainApiRefused("The answer of the main API has no list named images.")
    # An id that is listed twice is one upload.
    found: dict[int, Upload | UnusableUpload] = {}
    unreadable = 0
    for entry in images:
        main_api_id = unsigned_bigint(entry.get("id")) if isinstance(entry, dict) else None
        if not main_api_id:
            unreadable += 1
        # Another program may list uploads of any status.
        elif entry.get("status", PendingStatus.PENDING) == PendingStatus.PENDING:
            values = (entry.get(name) for name in ("user_id", "image_path"))
            texts = (entry.get(name) for name in ("original_name", "mime_type"))
            found[main_api_id] = new_upload(main_api_id, *values, *texts)
    # Only smartserve divides its list into pages; other main APIs send the whole list.
    next_after = unsigned_bigint(answer.get("next_after"))
    return pending_page(found.values(), unreadable=unreadable, next_after=next_after)
