"""Forms: the files of a ``multipart/form-data`` body (RFC 7578), one after the other."""

from __future__ import annotations

import re
import warnings
from collections.abc import AsyncIterator, Awaitable
from typing import NamedTuple, TypeVar

from aiohttp import (
    BadContentDispositionHeader,
    BadContentDispositionParam,
    BodyPartReader,
    MultipartReader,
    hdrs,
    web,
)
from aiohttp.helpers import parse_mimetype
from aiohttp.http_exceptions import HttpProcessingError

from proxy.domain.errors import BodyTooLarge, RequestError, UnsupportedBody
from proxy.domain.pending_image import UPLOAD_FIELDS, UploadField
from proxy.web.request_body import patiently, require_sound

MAX_FILES = 10
_MAX_TEXTS = 100
_MAX_TEXT_BYTES = 64 * 1024
_ROOM = 1024 * 1024
"""For the heads of parts, and texts, beside the files."""
_PIECE_BYTES = 64 * 1024
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]", re.ASCII)
_PLAIN = ("", "binary", "8bit", "7bit")
_FAULTS = (ValueError, AssertionError, RuntimeError, LookupError, HttpProcessingError)

# Of a Content-Disposition that is malformed: it would print, and keep, a stranger's text.
warnings.filterwarnings("ignore", category=BadContentDispositionHeader)
warnings.filterwarnings("ignore", category=BadContentDispositionParam)

_T = TypeVar("_T")


class FormLimits(NamedTuple):
    """How much may come, and how slowly."""

    max_file_bytes: int
    stall_s: float

    @property
    def max_bytes(self) -> int:
        """Of the whole body."""
        return MAX_FILES * self.max_file_bytes + _ROOM


class FormFile:
    """A file of a form, to be read before the next one is asked for."""

    def __init__(self, form: Form, part: BodyPartReader, field: UploadField) -> None:
        self._form = form
        self._part = part
        self.field = field
        self.filename = part.filename or ""

    async def pieces(self) -> AsyncIterator[bytes]:
        """Its bytes as they come."""
        while piece := await self._form.read(self._part):
            yield piece


class Form:
    """A body that is a form; its texts are passed over."""

    def __init__(self, request: web.BaseRequest, limits: FormLimits) -> None:
        """Look at the head of the request.

        Raises:
            UnsupportedBody: it is no form.
            BodyTooLarge: it says itself that it is too large.
        """
        self._request = request
        self._limits = limits
        self._require_within(request.content_length or 0)
        kind = parse_mimetype(request.headers.get(hdrs.CONTENT_TYPE, ""))
        if (kind.type, kind.subtype) != ("multipart", "form-data"):
            raise UnsupportedBody("the body has to be multipart/form-data")
        if not _BOUNDARY.fullmatch(kind.parameters.get("boundary", "")):
            raise RequestError("the form has no boundary, or none that is allowed")
        self._reader = MultipartReader(request.headers, request.content)

    async def files(self) -> AsyncIterator[FormFile]:
        """The files in upload fields, each while it comes in.

        Raises:
            RequestError: there are too many parts, or one is not what it may be.
        """
        files = texts = 0
        while (part := await self._next()) is not None:
            if part.name is None:
                raise RequestError("each part of the form needs a name")
            # A browser sends a file without a name where none was chosen.
            if part.filename:
                files += 1
                yield self._file(part, part.name, files)
            else:
                texts += 1
                await self._pass_over(part, texts)
        require_sound(self._request)

    def _file(self, part: BodyPartReader, name: str, count: int) -> FormFile:
        if count > MAX_FILES:
            raise RequestError(f"a form may have {MAX_FILES} files")
        if name not in UPLOAD_FIELDS:
            fields = ", ".join(UPLOAD_FIELDS)
            raise RequestError(f"a file stands in a field that takes none; files go in {fields}")
        return FormFile(self, part, UPLOAD_FIELDS[name])

    async def _pass_over(self, part: BodyPartReader, count: int) -> None:
        if count > _MAX_TEXTS:
            raise RequestError(f"a form may have {_MAX_TEXTS} texts")
        left = _MAX_TEXT_BYTES
        while piece := await self.read(part):
            left -= len(piece)
            if left < 0:
                raise BodyTooLarge(f"a text of the form may have {_MAX_TEXT_BYTES} bytes")

    async def read(self, part: BodyPartReader) -> bytes:
        """The next piece of a part; empty at its end."""
        piece = await self._parsed(part.read_chunk(_PIECE_BYTES))
        self._require_within(self._request.content.total_bytes)
        return bytes(piece)

    async def _next(self) -> BodyPartReader | None:
        part = await self._parsed(self._reader.next())
        self._require_within(self._request.content.total_bytes)
        if part is None:
            return None
        if not isinstance(part, BodyPartReader):
            raise RequestError("a form has no forms in it")
        packed = hdrs.CONTENT_ENCODING in part.headers
        if packed or part.headers.get(hdrs.CONTENT_TRANSFER_ENCODING, "").lower() not in _PLAIN:
            raise UnsupportedBody("the parts of a form have to come as they are")
        return part

    async def _parsed(self, reading: Awaitable[_T]) -> _T:
        """What aiohttp's reader gives; it has no error of its own for a form that is malformed."""
        try:
            return await patiently(reading, self._limits.stall_s)
        except _FAULTS as error:
            raise RequestError("the form is malformed") from error

    def _require_within(self, byte_size: int) -> None:
        if byte_size > self._limits.max_bytes:
            raise BodyTooLarge(f"a form may have {self._limits.max_bytes} bytes")
