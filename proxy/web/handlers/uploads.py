"""The upload route: ``PATCH /users/me``, a form with pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus

from aiohttp import web

from proxy.domain.errors import BodyTooSlow, SmartserveError
from proxy.domain.outcome import Outcome
from proxy.ingest.uploads.accept import AcceptedUpload, Uploader, UploadIntake
from proxy.web.auth.jwt import TokenVerifier
from proxy.web.headers import PRIVATE
from proxy.web.json_response import private_json
from proxy.web.multipart import Form, FormLimits
from proxy.web.problem_details import problem
from proxy.web.request_body import call_for, refuse_packed
from proxy.web.responses import BufferedResponse

_OUTCOME = Outcome("upload")

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
"""Why an upload was refused, as the metrics have it, by the status of the answer."""


class UploadHandler:
    """Answers uploads; what is answered with an error has left nothing."""

    def __init__(
        self,
        *,
        users: TokenVerifier,
        uploader: Uploader,
        timeout_s: float,
        stall_s: float,
        on_refusal: Callable[[str], None],
    ) -> None:
        """``timeout_s`` is for a whole upload to come in, ``stall_s`` for its next bytes."""
        self._users = users
        self._uploader = uploader
        self._timeout_s = timeout_s
        self._limits = FormLimits(uploader.max_file_bytes, stall_s)
        self._on_refusal = on_refusal

    async def upload(self, request: web.Request) -> BufferedResponse:
        """``PATCH /users/me``: what was stored, when it is on the disk and in the queue."""
        try:
            stored = await self._take(request)
        except SmartserveError as error:
            self._on_refusal(REASONS.get(error.status, "unavailable"))
            return problem(error, outcome=_OUTCOME, security=PRIVATE)
        body = {"success": True, "images": [asdict(one) for one in stored]}
        return private_json(body, _OUTCOME)

    async def _take(self, request: web.Request) -> list[AcceptedUpload]:
        """What is stored; only the client is hurried, as what is begun after it may stand."""
        user_id = self._users.identify(request)
        refuse_packed(request)
        form = Form(request, self._limits)
        call_for(request)
        async with self._uploader.begin(user_id) as upload:
            await self._read(form, upload)
            return await upload.finish()

    async def _read(self, form: Form, upload: UploadIntake) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                async for file in form.files():
                    await upload.add(file.field, file.filename, file.pieces())
        except TimeoutError as error:
            raise BodyTooSlow(f"an upload may take {self._timeout_s:g} s") from error
