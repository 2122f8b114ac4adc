"""Routes for a browser on the server's own machine: an upload token, and an upload's progress."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from aiohttp import HttpVersion11, web

from proxy.domain.errors import AccessDisabled, PendingNotFound
from proxy.domain.media import MAX_MEDIA_ID
from proxy.domain.upload import PendingStatus, media_id_of
from proxy.settings import TokenKey, UserSettings
from proxy.storage.database.upload_repository import UploadRepository
from proxy.web.auth import caller_of, issue
from proxy.web.json_response import json_route
from proxy.web.request_input import path_id

_USER = 1
"""Uploads from the page belong to this user, as the samples do."""
_TTL_S = 900


@dataclass(frozen=True, slots=True)
class UploadToken:
    """A token for ``PATCH /users/me``; ``expires_in`` is in seconds."""

    token: str
    expires_in: int


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """The state of an upload; ``media_id`` is null until the image exists."""

    id: int
    status: PendingStatus
    media_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPageHandler:
    """Handles requests from this machine and rejects all others."""

    key: TokenKey
    """A secret: tokens are signed with it."""
    users: UserSettings
    database: UploadRepository

    @json_route("trial")
    async def trial_token(self, request: web.Request) -> UploadToken:
        """Return a token for uploads, valid for 15 minutes."""
        check_local(request)
        return UploadToken(issue(self.key, self.users, user_id=_USER, ttl_s=_TTL_S), _TTL_S)

    @json_route("trial")
    async def trial_upload(self, request: web.Request) -> UploadProgress:
        """Return the state of an upload of the page's user."""
        check_local(request)
        upload_id = path_id(request)
        row = await self.database.find(upload_id) if upload_id <= MAX_MEDIA_ID else None
        if row is None or row.user_id != _USER:
            raise PendingNotFound("there is no upload with this id")
        media_id = media_id_of(row.permanent_url)
        return UploadProgress(row.id, row.status, None if media_id is None else int(media_id))


def check_local(request: web.BaseRequest) -> None:
    """Return if the request comes from this server's own page in a browser on this machine.

    A reverse proxy on this machine also connects from a loopback address, but forwards requests
    of strangers. So several signs are checked.

    Raises:
        AccessDisabled: the request is not local.
    """
    local = (
        # X-Forwarded-For and the like: a proxy that identifies itself.
        not caller_of(request).forwarded
        # nginx uses HTTP/1.0 unless `proxy_http_version` is set.
        and request.version >= HttpVersion11
        and _is_loopback(request.remote or "")
        # A public name: a silent proxy, or a page that resolves to 127.0.0.1 (DNS rebinding).
        and _names_loopback(request.headers.get("Host", ""))
        # A foreign page that requests localhost. Clients that are no browsers omit the header.
        and request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
    )
    if not local:
        raise AccessDisabled(
            "only a browser on the server's own machine may use this: open the page there, by"
            " localhost and without a proxy"
        )


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _names_loopback(host: str) -> bool:
    name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or _is_loopback(name.strip("[]"))
