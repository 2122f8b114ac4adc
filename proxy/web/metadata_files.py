"""Files of this server whose metadata callers may have: their own uploads and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from proxy.domain.errors import (
    BadParameter,
    MediaNotFound,
    PendingNotFound,
    RequestError,
)
from proxy.domain.media import MAX_MEDIA_ID
from proxy.domain.upload import PendingImage
from proxy.ingest.uploads.upload_queue import UploadQueue
from proxy.metadata.extraction import PROGRESS, Extraction, ExtractOptions, Progress
from proxy.metadata.extractor import Extractor
from proxy.metadata.media_extraction import MediaExtractor
from proxy.storage.database import MediaRepository
from proxy.storage.upload_files import temp_name
from proxy.web.metadata_input import Caller
from proxy.web.request_input import ID, whole_number

_NO_UPLOAD = "There is no such upload of yours."
_NO_MEDIA = "There is no such image of yours."
_SOURCES = ("imagePath", "mediaId", "uploadId")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFiles:
    """The files of this server that callers may have analysed: their own."""

    extractor: Extractor
    media_extractor: MediaExtractor
    media: MediaRepository
    uploads: UploadQueue | None
    """None: this server has no uploads."""

    async def extract(
        self, caller: Caller, message: Mapping[str, Any], progress: Progress
    ) -> Extraction:
        """Extract the metadata of the file that a message names.

        Raises:
            RequestError: it names none, or several.
            PendingNotFound, MediaNotFound: there is no such file, or it belongs to someone else.
            SmartserveError: the extraction failed.
        """
        named = [name for name in _SOURCES if message.get(name) is not None]
        if len(named) != 1:
            raise RequestError("Name one file, by imagePath, mediaId or uploadId.")
        name, value = named[0], message[named[0]]
        if name == "mediaId":
            return await self.extract_media(
                caller, name, value, operation="analyze", progress=progress
            )
        upload = await self._upload(caller, name, value)
        await self.extractor.charge(caller.user_id, "analyze")
        return await self._extract_upload(caller, upload, progress)

    async def extract_media(
        self,
        caller: Caller,
        parameter: str,
        value: object,
        *,
        operation: str,
        progress: Progress = lambda _percent, _stage: None,
    ) -> Extraction:
        """Extract the metadata of the image whose id a parameter has; raises as `extract` does."""
        media_id = _id(parameter, value)
        media = await self.media.find(media_id) if media_id <= MAX_MEDIA_ID else None
        # One answer for both, so that nobody can find out which ids exist.
        if media is None or not (caller.is_admin or media.user_id == caller.user_id):
            raise MediaNotFound(_NO_MEDIA)
        await self.extractor.charge(caller.user_id, operation)
        return await self.media_extractor.extract(media, tier=caller.tier, progress=progress)

    async def _upload(self, caller: Caller, name: str, value: object) -> PendingImage:
        found = None
        if self.uploads is not None:
            database = self.uploads.database
            if name == "uploadId":
                number: int | None = _id(name, value)
            else:
                # A path of another form never reaches the database or the file system.
                path = value if isinstance(value, str) and temp_name(value) else ""
                rows = await database.find_by_paths([path]) if path else {}
                number = rows[path].id if path in rows else None
            if number is not None and number <= MAX_MEDIA_ID:
                found = await database.find(number)
        if found is None or not (caller.is_admin or found.user_id == caller.user_id):
            raise PendingNotFound(_NO_UPLOAD)
        return found

    async def _extract_upload(
        self, caller: Caller, upload: PendingImage, progress: Progress
    ) -> Extraction:
        if self.uploads is None:
            raise PendingNotFound(_NO_UPLOAD)
        with self.extractor.admitted():
            opened = await self.uploads.open(upload.image_path)
            try:
                length = opened.file.length
                # A copy: the upload may be processed and deleted meanwhile.
                receiving = self.extractor.receive(
                    opened.chunks(0, length), tier=caller.tier, expected_bytes=length
                )
                async with receiving as file:
                    progress(PROGRESS["received"], "received")
                    name = upload.original_name or PurePosixPath(upload.image_path).name
                    options = ExtractOptions(name, tier=caller.tier)
                    return await self.extractor.extract(file, options, progress=progress)
            finally:
                opened.file.close()


def _id(name: str, value: object) -> int:
    text = value if isinstance(value, str) else str(whole_number(value))
    if not ID.fullmatch(text):
        raise BadParameter(name, "a number without leading zeros")
    return int(text)
