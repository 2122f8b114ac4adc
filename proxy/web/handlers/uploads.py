"""``/users/me``: PATCH uploads a form with images, GET returns the images of the profile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field

from proxy.domain.errors import BodyTooSlow, QuotaExceeded, SmartserveError
from proxy.domain.upload import UPLOAD_FIELDS
from proxy.ingest.uploads.upload_queue import AcceptedUpload, Uploader, UploadIntake
from proxy.ingest.uploads.url_replacement import UrlReplacer
from proxy.storage.database.profile_columns import (
    ARTIST_LOGO,
    HEADER,
    PROFILE,
    PROMOTER_LOGO,
    SITE,
    ProfileColumn,
)
from proxy.web.auth import TokenVerifier
from proxy.web.json_response import json_route
from proxy.web.multipart import Form

REASONS: Mapping[int, str] = {
    HTTPStatus.BAD_REQUEST: "malformed",
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.TOO_MANY_REQUESTS: "unauthorized",
    HTTPStatus.REQUEST_TIMEOUT: "slow",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "unsupported",
    HTTPStatus.INSUFFICIENT_STORAGE: "no_space",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
}
"""The metric's label for a rejected upload, by the status of the response."""
QUOTA = "quota"
"""The label for a user who has uploaded enough today; too many wrong keys have its status too."""


@dataclass(frozen=True, slots=True)
class UploadResponse:
    """The stored images; they are processed later."""

    success: Literal[True]
    images: list[AcceptedUpload]
    ignored_fields: Annotated[
        list[str], Field(description="Other fields of the form. They were not stored.")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserProfile:
    """The images of a user's profile: addresses, or paths of uploads that are processed now."""

    success: Literal[True] = True
    user_id: int
    profile_image_path: str | None
    header_image_path: str | None
    logo_path: Annotated[str | None, Field(description="Of the artist, else of the promoter.")]
    site_media: Annotated[list[str], Field(description="The newest first.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadHandler:
    """Handles uploads.

    After an error response nothing of the upload remains, unless the connection to the database was
    lost during the commit: then it may be queued.
    """

    users: TokenVerifier
    uploader: Uploader
    replacer: UrlReplacer
    timeout_s: float
    """The whole body must arrive within this time."""
    stall_s: float
    """The next bytes of the body must arrive within this time."""
    on_refusal: Callable[[str], None]

    @json_route("upload")
    async def upload(self, request: web.Request) -> UploadResponse:
        """Upload images; the response is sent when they are stored and queued."""
        try:
            return await self._store(request)
        except SmartserveError as error:
            # Every error that a form can have is in the table; others are faults of the server.
            quota = isinstance(error, QuotaExceeded)
            self.on_refusal(QUOTA if quota else REASONS.get(error.status, "unavailable"))
            raise

    @json_route("profile")
    async def profile(self, request: web.Request) -> UserProfile:
        """Return the images of the user's profile."""
        user_id = self.users.identify(request)
        found = await self.replacer.profile(user_id)

        def first(*columns: ProfileColumn) -> str | None:
            return next((path for column in columns for path in found.get(column, ())), None)

        return UserProfile(
            user_id=user_id,
            profile_image_path=first(PROFILE),
            header_image_path=first(HEADER),
            logo_path=first(ARTIST_LOGO, PROMOTER_LOGO),
            site_media=list(found.get(SITE, ())),
        )

    async def _store(self, request: web.Request) -> UploadResponse:
        # Before the body: strangers should not make the server read gigabytes.
        user_id = self.users.identify(request)
        form = Form(request, max_file_bytes=self.uploader.max_file_bytes, stall_s=self.stall_s)
        async with self.uploader.begin(user_id) as upload:
            await self._read(form, upload)
            # Outside the timeout: it limits the client only. A commit that was cut off here could
            # have happened although the client is told that it failed.
            images = await upload.finish()
        return UploadResponse(success=True, images=images, ignored_fields=form.ignored)

    async def _read(self, form: Form, upload: UploadIntake) -> None:
        try:
            async with asyncio.timeout(self.timeout_s):
                async for field, filename, _, chunks in form.files():
                    await upload.add(UPLOAD_FIELDS[field], filename, chunks)
        except TimeoutError as error:
            raise BodyTooSlow(
                f"the upload did not arrive within {self.timeout_s:g} s; send fewer or smaller"
                " files at once"
            ) from error
