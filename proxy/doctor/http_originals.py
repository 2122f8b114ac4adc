"""Checks of the other web servers from which originals may be fetched."""

from __future__ import annotations

import asyncio

from proxy.doctor.check import Findings, area, counted, fail, ok, skip, warn
from proxy.doctor.installation import Installation

_MAX_HOSTS = 50
_HTTP_PORT = 80


@area("http originals", "http originals safety")
async def check_http_originals(installation: Installation) -> Findings:
    """Send a request to each host of the settings that is not a pattern."""
    section, originals = installation.settings.http, installation.http_originals
    if originals is None:
        yield skip("http.hosts is empty: originals are local")
        return
    names = [host for host in section.hosts if not host.startswith("*")][:_MAX_HOSTS]
    reasons = await asyncio.gather(*map(originals.probe, names))
    failed = [f"{host}: {reason}" for host, reason in zip(names, reasons, strict=True) if reason]
    if failed:
        advice = (
            "check the name, http.ports, the certificate and the firewall; an address that is not"
            " allowed must be in http.allow_private"
        )
        yield fail("; ".join(failed), advice)
    elif names:
        yield ok(f"{counted(len(names), 'host')} can be reached")
    else:
        yield skip("http.hosts has only patterns: there is no host to check")
    if section.allow_private:
        networks = ", ".join(section.allow_private)
        advice = "list only networks that contain nothing but servers of images"
        yield warn(f"rows can make the server send requests to {networks}", advice)
    elif _HTTP_PORT in section.ports:
        advice = "remove 80 from http.ports if all addresses of rows begin with https://"
        yield warn("originals may be fetched without encryption", advice)
    else:
        yield ok("only public addresses are connected to")
