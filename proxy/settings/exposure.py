"""Whether other machines can reach the server, and which routes are therefore enabled."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from proxy.domain.errors import ConfigurationError
from proxy.settings.access import url_keys
from proxy.settings.root import Settings
from proxy.settings.secrets import MAKE_KEY, stored_key
from proxy.settings.sections import AdminSettings

NO_KEY_ADVICE = (
    f"set SMARTSERVE_ADMIN__KEY or admin.key_file ({MAKE_KEY}), or disable the admin routes with"
    " admin.enabled = false"
)


def admin_key(section: AdminSettings) -> str:
    """Return the admin key from the settings or its file; empty if none is set.

    Blocking: call it at start.

    Raises:
        ConfigurationError: the file cannot be read, or contains no valid key.
    """
    return stored_key(section.key, section.key_file, setting="admin.key_file")


def access_faults(settings: Settings) -> list[str]:
    """Return why the server must not listen with these settings. May resolve a host name."""
    try:
        forward_target(settings)
        url_keys(settings.access)
        # Only the admin routes can be without a key: the keys of all others are generated.
        if not settings.admin.enabled:
            return []
        key = admin_key(settings.admin)
    except ConfigurationError as error:
        return list(error.faults)
    if key or is_loopback(settings.server.host):
        return []
    exposed = f"other machines can reach server.host = {settings.server.host!r}"
    return [f"admin.key: {exposed}, and the admin routes have no key; {NO_KEY_ADVICE}"]


def has_page(settings: Settings) -> bool:
    """Return whether the page at ``/`` and its list of images are enabled."""
    chosen = settings.page.enabled
    return is_local_only(settings) if chosen == "auto" else chosen


def has_local_uploads(settings: Settings) -> bool:
    """Return whether the page issues upload tokens to browsers on this machine.

    The server must be able to sign tokens, which it cannot with a public key.
    """
    signs = settings.main.enabled and not settings.users.jwt_public_key_file
    return signs and has_page(settings) and is_local_only(settings)


def is_local_only(settings: Settings) -> bool:
    """Return whether the server has its own database and serves this machine only."""
    # A database of its own is not shared, and without a public URL no proxy is in front.
    outside = settings.database.url or settings.server.public_url
    return not outside and is_loopback(settings.server.host)


def forward_target(settings: Settings) -> tuple[str, bool]:
    """Return the address of the server that has the media, and whether only its name says so.

    The address is empty if this server has them. Blocking: resolves a host name.

    Raises:
        ConfigurationError: `main.forward_to` is this server.
    """
    if not settings.main.enabled:
        return "", False
    if target := settings.main.forward_to.rstrip("/"):
        if _is_this_server(settings, target, settings.server.public_url):
            fault = f"main.forward_to: {target!r} is this server; name the one that has the images"
            raise ConfigurationError([fault])
        return target, False
    backend, main_api = settings.ingest.media_backend_url, settings.ingest.main_api_url
    names = (settings.server.public_url, settings.main.smart_media_base_url)
    # The worker's own machine names itself as the backend, and another server as the main API.
    if not backend or (main_api and not _is_this_server(settings, main_api, *names)):
        return "", False
    own = _is_this_server(settings, backend, *names)
    return ("", False) if own else (backend.rstrip("/"), True)


def _is_this_server(settings: Settings, address: str, *names: str) -> bool:
    host, port = _authority(address)
    if (host, port) in [_authority(one) for one in names if one]:
        return True
    if port != settings.server.port:
        return False
    return host == settings.server.host.lower() or is_loopback(host)


def _authority(address: str) -> tuple[str, int | None]:
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = None
    return parts.hostname or "", port or (443 if parts.scheme == "https" else 80)


def is_loopback(host: str) -> bool:
    """Return whether every address of a host is a loopback address. Blocking.

    A name that cannot be resolved counts as reachable, which is the safe answer.
    """
    try:
        # AI_PASSIVE: an empty host means all interfaces, as for bind(2), and not loopback.
        found = socket.getaddrinfo(host or None, None, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False
    return all(_is_loopback_address(str(sockaddr[0])) for *_, sockaddr in found)


def _is_loopback_address(text: str) -> bool:
    # Link-local IPv6 addresses have a zone: fe80::1%eth0.
    address = ip_address(text.partition("%")[0])
    # Python 3.11: is_loopback is False for ::ffff:127.0.0.1.
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
