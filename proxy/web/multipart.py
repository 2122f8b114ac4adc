"""Streaming parser for the files of a ``multipart/form-data`` body (RFC 7578)."""

from __future__ import annotations

import re
import warnings
from collections.abc import AsyncIterator, Awaitable, Collection
from typing import Any, NamedTuple, TypeVar

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
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.domain.errors import BodyTooLarge, RequestError, UnsupportedBody
from proxy.domain.upload import UPLOAD_FIELDS
from proxy.web.request_input import accept_body, read_with_timeout, require_complete

MAX_FILES = 10
_MAX_TEXTS = 100
_MAX_TEXT_BYTES = 64 * 1024
_MAX_NAME = 100
OVERHEAD_BYTES = 1024 * 1024
"""For part headers and text fields, in addition to the files."""
_CHUNK_BYTES = 64 * 1024
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]", re.ASCII)
_UNENCODED = ("", "binary", "8bit", "7bit")
_PARSER_ERRORS = (ValueError, AssertionError, RuntimeError, LookupError, HttpProcessingError)

# aiohttp warns about malformed Content-Disposition headers. The warnings would put the client's
# text on standard error and keep it in memory.
warnings.filterwarnings("ignore", category=BadContentDispositionHeader)
warnings.filterwarnings("ignore", category=BadContentDispositionParam)

_T = TypeVar("_T")


class _Part(BodyPartReader):
    """A part whose name the multipart reader does not see.

    The reader takes a first part named ``_charset_`` (RFC 7578, 4.6) for itself, and then rejects
    every form that has one.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Both are computed at their first use, and kept.
        _ = self.name, self.filename
        headers = CIMultiDict(self.headers)
        headers.popall(hdrs.CONTENT_DISPOSITION, None)
        self.headers = CIMultiDictProxy(headers)


class _Reader(MultipartReader):
    part_reader_cls = _Part


class FormFile(NamedTuple):
    """A file of a form. Read its bytes before the next file is requested."""

    field: str
    name: str
    """As the client declared it."""
    content_type: str
    """The header of the part; empty if it has none."""
    chunks: AsyncIterator[bytes]


class Form:
    """A form body; text fields are skipped, and their names collected."""

    def __init__(
        self,
        request: web.BaseRequest,
        *,
        max_file_bytes: int,
        stall_s: float,
        fields: Collection[str] | None = UPLOAD_FIELDS.keys(),
        texts: Collection[str] = (),
        max_files: int = MAX_FILES,
        max_bytes: int | None = None,
    ) -> None:
        """Check the request's headers, and let the client send the body.

        The next bytes must arrive within ``stall_s``. ``fields`` accept files (None: all do), and
        the values of ``texts`` are kept. Without ``max_bytes`` each file may have the full size.

        Raises:
            UnsupportedBody: the body is not a form, or is compressed.
            BodyTooLarge: its Content-Length exceeds the limit.
        """
        self._request = request
        files_bytes = max_files * max_file_bytes if max_bytes is None else max_bytes
        self._max_bytes = files_bytes + OVERHEAD_BYTES
        self._fields, self._kept, self.max_files = fields, texts, max_files
        self._stall_s = stall_s
        kind = parse_mimetype(request.headers.get(hdrs.CONTENT_TYPE, ""))
        if (kind.type, kind.subtype) != ("multipart", "form-data"):
            raise UnsupportedBody("the body must be multipart/form-data")
        # aiohttp accepts any boundary. One that RFC 2046, 5.1.1 does not allow could be read
        # differently by a proxy in front of this server.
        if not _BOUNDARY.fullmatch(kind.parameters.get("boundary", "")):
            raise RequestError("Content-Type has no boundary, or one that RFC 2046 does not allow")
        accept_body(request, self._max_bytes)
        self._reader = _Reader(request.headers, request.content)
        self.ignored: list[str] = []
        """Names of the fields that were skipped, so that the response can list them."""
        self.texts: dict[str, str] = {}
        """Values of the text fields that are kept."""

    async def files(self) -> AsyncIterator[FormFile]:
        """Yield the files while they arrive.

        Raises:
            RequestError: there are too many parts, or one is not allowed.
        """
        files = texts = 0
        while (part := await self._next()) is not None:
            if part.name is None:
                raise RequestError("each part of the form needs a name")
            # If no file was chosen, browsers send the field with an empty file name.
            if part.filename:
                files += 1
                yield self._file(part, part.name, files)
            else:
                texts += 1
                await self._skip(part, part.name, texts)
        # A malformed chunk also ends the stream, perhaps just behind the last boundary.
        require_complete(self._request)

    def _file(self, part: BodyPartReader, name: str, count: int) -> FormFile:
        if count > self.max_files:
            raise RequestError(f"a form may have at most {self.max_files} files")
        if self._fields is not None and name not in self._fields:
            fields = ", ".join(self._fields)
            raise RequestError(f"this form field does not accept files; use one of {fields}")
        declared = part.headers.get(hdrs.CONTENT_TYPE, "")
        return FormFile(name, part.filename or "", declared, self._chunks(part))

    async def _chunks(self, part: BodyPartReader) -> AsyncIterator[bytes]:
        while chunk := await self._parse(part.read_chunk(_CHUNK_BYTES)):
            yield bytes(chunk)

    async def _skip(self, part: BodyPartReader, name: str, count: int) -> None:
        if count > _MAX_TEXTS:
            raise RequestError(f"a form may have at most {_MAX_TEXTS} text fields")
        # Read and dropped: the parser finds the next part only behind this one.
        size, kept = 0, bytearray()
        async for chunk in self._chunks(part):
            size += len(chunk)
            if size > _MAX_TEXT_BYTES:
                raise BodyTooLarge(f"a text field may have at most {_MAX_TEXT_BYTES} bytes")
            if name in self._kept:
                kept += chunk
        if name in self._kept:
            self.texts[name] = kept.decode("utf-8", "replace")
            return
        # A file field in which no file was chosen is empty: nothing of it is lost.
        if size or name not in (self._fields or ()):
            # A name may contain half a character, which JSON cannot represent.
            shown = name[:_MAX_NAME].encode("utf-8", "replace").decode()
            self.ignored += [] if shown in self.ignored else [shown]

    async def _next(self) -> BodyPartReader | None:
        part = await self._parse(self._reader.next())
        if part is None:
            return None
        if not isinstance(part, BodyPartReader):
            # RFC 7578, 4.3 deprecates them: files of one field are parts of the same name.
            raise RequestError("nested forms are not accepted")
        # Decoding could expand a few bytes to gigabytes. RFC 7578, 4.7 deprecates the other one.
        encoded = hdrs.CONTENT_ENCODING in part.headers
        transfer = part.headers.get(hdrs.CONTENT_TRANSFER_ENCODING, "").lower()
        if encoded or transfer not in _UNENCODED:
            raise UnsupportedBody("the parts of a form must not be encoded or compressed")
        return part

    async def _parse(self, reading: Awaitable[_T]) -> _T:
        """Run one read of aiohttp's parser, which has no error class for malformed forms."""
        try:
            result = await read_with_timeout(reading, self._stall_s)
        except _PARSER_ERRORS as error:
            raise RequestError("the form is malformed") from error
        # A chunked body has no Content-Length, so its size is checked after each read.
        if self._request.content.total_bytes > self._max_bytes:
            raise BodyTooLarge(f"a form may have at most {self._max_bytes} bytes")
        return result
