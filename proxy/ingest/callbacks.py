"""Callbacks of metadata jobs: signed requests to hosts that the settings allow."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from proxy.domain.errors import BadParameter
from proxy.runtime.http_client import IPAddress, guarded_connector, is_public, open_session

SIGNATURE = "Smartserve-Signature"
"""Header with ``sha256=`` and the HMAC-SHA256 of the body in hexadecimal digits."""
MAX_URL = 2000
TIMEOUT_S = 10.0

_HEADERS = {"Content-Type": "application/json", "User-Agent": "smartserve-callback"}


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Checks and sends callbacks."""

    hosts: Collection[str]
    """Each with a port, unless it is that of the scheme."""
    key: str = field(repr=False)
    timeout_s: float = TIMEOUT_S
    allowed: Callable[[IPAddress], bool] = is_public
    """Whether a request may be sent to an address."""

    def check(self, text: str) -> str:
        """Return the normalised address of a callback.

        Raises:
            BadParameter: it is not an HTTP address, or its host is not allowed.
        """
        url = self._parse(text)
        if url is None:
            allowed = (
                f"an http or https address of at most {MAX_URL} characters, without user name and"
                " fragment, whose host is in metadata.callback_hosts"
            )
            raise BadParameter("callback", allowed)
        return str(url)

    def _parse(self, text: str) -> URL | None:
        try:
            # As the client that sends the request parses it: two parsers could find two hosts.
            url = URL(text)
            valid = url.scheme in ("http", "https") and len(str(url)) <= MAX_URL
            plain = url.raw_user is None and url.raw_password is None and not url.raw_fragment
        except ValueError:
            return None
        return url if valid and plain and _host(url) in self.hosts else None

    async def send(self, address: str, body: bytes) -> str:
        """Post the body once; return why that failed, or an empty text."""
        # Checked again: the settings may have changed since the job was added.
        url = self._parse(address)
        if url is None:
            return "its host is not in metadata.callback_hosts"
        headers = {**_HEADERS, SIGNATURE: self.sign(body)}
        try:
            async with (
                asyncio.timeout(self.timeout_s),
                open_session(headers, connector=guarded_connector(self.allowed)) as session,
                # A redirect could lead to a host that is not allowed.
                session.post(url, data=body, allow_redirects=False) as response,
            ):
                status = response.status
        except TimeoutError:
            return f"it did not answer within {self.timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return str(error) or type(error).__name__
        return "" if 200 <= status < 300 else f"it answered with status {status}"  # noqa: PLR2004

    def sign(self, body: bytes) -> str:
        """Return the value of `SIGNATURE`."""
        digest = hmac.new(self.key.encode(), body, hashlib.sha256).hexdigest()
        return f"sha256={digest}"


def _host(url: URL) -> str:
    """Return the host with the port, unless that is the default of the scheme."""
    host = (url.raw_host or "").lower()
    shown = f"[{host}]" if ":" in host else host
    return shown if url.is_default_port() else f"{shown}:{url.port}"
