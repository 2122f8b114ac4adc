"""Conditional and range requests (RFC 9110, 13 and 14): pure functions of header text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from multidict import MultiMapping

from proxy.domain.errors import PreconditionFailed, RangeNotSatisfiable

_ENTITY_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_BYTE_RANGE = re.compile(r"bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A range of bytes from ``start`` up to, not including, ``stop``."""

    start: int
    stop: int

    def content_range(self, length: int) -> str:
        """Return the value of Content-Range, whose last position is inclusive."""
        return f"bytes {self.start}-{self.stop - 1}/{length}"


def names(if_none_match: str, etag: str) -> bool:
    """Return whether a list of entity tags contains this one, by weak comparison."""
    return etag in _ENTITY_TAG.findall(if_none_match)


def matches(if_none_match: str, etag: str) -> bool:
    """Return whether the list contains this entity tag or is ``*``."""
    return if_none_match.strip() == "*" or names(if_none_match, etag)


def check_preconditions(
    headers: MultiMapping[str], etag: str, last_modified: datetime | None = None
) -> None:
    """Check If-Match and If-Unmodified-Since; call this before all other conditions are checked.

    ``last_modified`` is the date that the response has, or None.

    Raises:
        PreconditionFailed: the client wants only another representation than this one.
    """
    if_match = ", ".join(headers.getall("If-Match", ()))
    if if_match:
        # By strong comparison: a tag that begins with W/ never matches (RFC 9110, 13.1.1).
        # If-Unmodified-Since is ignored beside it.
        listed = (tag[0] for tag in _ENTITY_TAG.finditer(if_match))
        if if_match.strip() != "*" and etag not in listed:
            raise PreconditionFailed("the response does not have an ETag that If-Match lists")
        return
    # The condition is ignored if its date is malformed, or if the response has none (13.1.4).
    date = _parse_date(headers.get("If-Unmodified-Since"))
    if date and last_modified and last_modified.replace(microsecond=0) > date:
        raise PreconditionFailed("the image has changed since the date in If-Unmodified-Since")


def not_modified(headers: MultiMapping[str], etag: str, last_modified: datetime | None) -> bool:
    """Return whether a GET or HEAD with these headers gets a 304; a malformed date is ignored.

    ``last_modified`` is None if no date can confirm the response.
    """
    if_none_match = headers.getall("If-None-Match", ())
    if if_none_match:
        # If-Modified-Since is ignored beside If-None-Match (RFC 9110, 13.1.3).
        return matches(", ".join(if_none_match), etag)
    if last_modified is None:
        return False
    # Only the very date that was sent as Last-Modified counts, as in nginx by default. A client
    # without one sends the Date of its response, which is later: it may have the draft.
    return last_modified.replace(microsecond=0) == _parse_date(headers.get("If-Modified-Since"))


def _parse_date(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def requested_range(headers: Mapping[str, str], *, length: int, etag: str) -> ByteRange | None:
    """Return the range that a GET requests, or None if the whole body is sent.

    That is for several ranges, other units, a malformed header, and an If-Range that fails.

    Raises:
        RangeNotSatisfiable: the range lies outside the rendition.
    """
    # A date in If-Range never matches: all formats, the fallback and the next release's rendition
    # of an image share their Last-Modified, so it is not a strong validator (RFC 9110, 8.8.2.2).
    match = _BYTE_RANGE.fullmatch(headers.get("Range", "").strip())
    if match is None or headers.get("If-Range", etag).strip() != etag:
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        return _suffix(int(last), length)
    start, stop = int(first), int(last) + 1 if last else length
    if stop <= start and last:
        return None
    if start >= length:
        raise RangeNotSatisfiable(length)
    return ByteRange(start, min(stop, length))


def _suffix(count: int, length: int) -> ByteRange:
    if count == 0 or length == 0:
        raise RangeNotSatisfiable(length)
    return ByteRange(max(0, length - count), length)
