"""Access: the key of the admin routes, and whether other machines can reach the server at all."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address

from proxy.domain.errors import ConfigurationError
from proxy.settings.secrets import MAKE_KEY, check_key, read_key
from proxy.settings.sections import AdminSettings, Settings

NO_KEY = (
    f"set SMARTSERVE_ADMIN__KEY or admin.key_file ({MAKE_KEY}), or admin.enabled = false"
    " to do without"
)
"""What to do where a key is missing."""


def admin_key(section: AdminSettings) -> str:
    """The key of the admin routes, from the settings or from its file; empty where none is set.

    Reads a file: to be called at start.

    Raises:
        ConfigurationError: the file cannot be read, or holds no key that can be used.
    """
    if not section.key_file:
        return section.key
    return read_key(section.key_file, setting="admin.key_file", check=check_key)


def access_faults(settings: Settings) -> list[str]:
    """Why the server should not listen with these settings, each as a sentence; asks for names."""
    if not settings.admin.enabled:
        return []
    try:
        key = admin_key(settings.admin)
    except ConfigurationError as error:
        return list(error.faults)
    if key or is_loopback(settings.server.host):
        return []
    exposed = f"other machines can reach server.host = {settings.server.host!r}"
    return [f"admin.key: {exposed}, and the admin routes have no key; {NO_KEY}"]


def has_page(settings: Settings) -> bool:
    """Whether the page at ``/`` and its listing of pictures are there; may ask for a name."""
    chosen = settings.page.enabled
    return is_embedded(settings) if chosen == "auto" else chosen


def has_trial(settings: Settings) -> bool:
    """Whether who sits at this machine gets a token to upload with: we have to sign such tokens."""
    signs = settings.main.enabled and not settings.users.jwt_public_key_file
    return signs and has_page(settings) and is_embedded(settings)


def is_embedded(settings: Settings) -> bool:
    """Whether this is the server as it starts without settings: for who sits at this machine.

    Its database is its own, it hears this machine alone, and no other address leads to it.
    """
    outside = settings.database.url or settings.server.public_url
    return not outside and is_loopback(settings.server.host)


def is_loopback(host: str) -> bool:
    """Whether who listens on a host hears this machine alone; so for all addresses of a name.

    A name that has no address counts as one that others can reach. Blocking.
    """
    try:
        found = socket.getaddrinfo(host or None, None, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False
    return all(_loopback(str(sockaddr[0])) for *_, sockaddr in found)


def _loopback(text: str) -> bool:
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
