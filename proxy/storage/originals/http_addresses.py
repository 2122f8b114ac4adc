"""Which addresses of originals on other web servers the settings allow.

Rows may come from people who want to reach servers in the private network (server-side request
forgery). So each request and each redirect must be for a host and a port of the settings.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

from yarl import URL

from proxy.settings import HttpSettings

SCHEMES = ("https", "http")


def is_address(path: str) -> bool:
    """Return whether the path of a row is an address of another web server."""
    return path.partition("://")[0].lower() in SCHEMES


class ForbiddenAddress(ValueError):
    """The settings do not allow an address. The text names the host and the reason."""


class AllowedAddresses:
    """Parses addresses, and refuses those that the settings do not allow.

    The IP address is checked when a connection is opened; see `guarded_connector`.
    """

    def __init__(self, settings: HttpSettings) -> None:
        """Allow the hosts and ports that the settings list."""
        self._hosts = frozenset(settings.hosts)
        self._ports = settings.ports

    def parse(self, path: str) -> URL:
        """Return the address in the path of a row; raises ForbiddenAddress."""
        try:
            url = URL(path).with_fragment(None)
        except ValueError:
            raise ForbiddenAddress("not a valid address") from None
        self._check(url)
        return url

    def redirected(self, url: URL, location: str) -> URL:
        """Return the address to which a response redirects; raises ForbiddenAddress."""
        try:
            target = url.join(URL(location)).with_fragment(None)
        except ValueError:
            raise ForbiddenAddress(f"{url.raw_host}: redirects to no valid address") from None
        if url.scheme == "https" and target.scheme != "https":
            raise ForbiddenAddress(f"{url.raw_host}: redirects from https to {target.scheme}")
        self._check(target)
        return target

    def _check(self, url: URL) -> None:
        host = url.raw_host or ""
        with suppress(ValueError):
            host = str(ip_address(host))
        labels = host.split(".")
        parents = (".".join(labels[count:]) for count in range(1, len(labels)))
        listed = host in self._hosts or any(f"*.{one}" in self._hosts for one in parents)
        reason = ""
        if url.scheme not in SCHEMES:
            reason = f"scheme {url.scheme}"
        elif "@" in url.raw_authority:
            reason = "the address contains a user name or password"
        elif not listed:
            reason = "not in http.hosts"
        elif url.port not in self._ports:
            reason = f"port {url.port} is not in http.ports"
        if reason:
            raise ForbiddenAddress(f"{host}: {reason}")
