"""The trial routes: a token for who tries the server on its own machine, and how his upload is."""

from __future__ import annotations

from ipaddress import ip_address

from aiohttp import HttpVersion11, web

from proxy.domain.errors import AccessDisabled, PendingNotFound, SmartserveError
from proxy.domain.media import MAX_MEDIA_ID
from proxy.domain.outcome import Outcome
from proxy.domain.pending_image import media_id_of
from proxy.settings import TokenKey, UserSettings
from proxy.storage.database.upload_repository import UploadRepository
from proxy.web.auth.api_key import caller_of
from proxy.web.auth.jwt import issue
from proxy.web.headers import PRIVATE
from proxy.web.id_params import parse_id
from proxy.web.json_response import private_json
from proxy.web.problem_details import problem
from proxy.web.responses import BufferedResponse

_USER = 1
"""Who tries the server uploads as this user; the samples are his as well."""
_TTL_S = 900
_OUTCOME = Outcome("trial")


class LocalPageHandler:
    """Answers those who sit at the machine itself, and nobody else."""

    def __init__(self, *, key: TokenKey, users: UserSettings, database: UploadRepository) -> None:
        """``key`` signs: it is no public one."""
        self._key = key
        self._users = users
        self._database = database

    async def token(self, request: web.Request) -> BufferedResponse:
        """``/api/page/token``: a token with which one may upload for a quarter of an hour."""
        try:
            check_at_home(request)
        except SmartserveError as error:
            return problem(error, outcome=_OUTCOME, security=PRIVATE)
        token = issue(self._key, self._users, user_id=_USER, ttl_s=_TTL_S)
        return private_json({"token": token, "expires_in": _TTL_S}, _OUTCOME)

    async def upload(self, request: web.Request) -> BufferedResponse:
        """``/api/page/uploads/{id}``: how far an upload of this user has come."""
        try:
            check_at_home(request)
            return private_json(await self._told(request), _OUTCOME)
        except SmartserveError as error:
            return problem(error, outcome=_OUTCOME, security=PRIVATE)

    async def _told(self, request: web.Request) -> dict[str, object]:
        number = parse_id("id", request.match_info["id"])
        row = await self._database.find(number) if number <= MAX_MEDIA_ID else None
        if row is None or row.user_id != _USER:
            raise PendingNotFound("there is no upload with this id")
        media_id = media_id_of(row.permanent_url)
        return {"id": row.id, "status": row.status, "media_id": media_id and int(media_id)}


def check_at_home(request: web.BaseRequest) -> None:
    """Let pass only a page of this very server, shown by a browser on the server's own machine.

    A proxy on this machine comes from here too, and asks for strangers: one shows itself by what
    it adds, by the Host that strangers know, or by HTTP/1.0, as nginx does if it is told nothing.
    A page from elsewhere that has its name lead here shows itself by its Host.

    Raises:
        AccessDisabled: anything speaks against it.
    """
    caller = caller_of(request)
    at_home = (
        not caller.passed_on
        and request.version >= HttpVersion11
        and _is_loopback(request.remote or "")
        and _names_loopback(request.headers.get("Host", ""))
        and request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
    )
    if not at_home:
        raise AccessDisabled("this is for a browser on the machine of the server alone")


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _names_loopback(host: str) -> bool:
    name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or _is_loopback(name.strip("[]"))
