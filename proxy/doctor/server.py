"""Checks of the running server at its own address, and of an image that it serves."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from http import HTTPStatus

from proxy import __version__
from proxy.doctor.check import CheckBlocked, Finding, fail, ok, skip, warn
from proxy.doctor.formatting import as_time
from proxy.doctor.image_requests import allowed_types, request_image
from proxy.doctor.installation import Installation
from proxy.domain.errors import NoAnswer
from proxy.domain.urls import image_url

_SLOW_S = 0.5
_READINESS_ADVICE: Mapping[str, str] = {
    "database": "see the checks of the database",
    "storage": "see the checks of the originals",
    "renditions": "see the checks of the renditions",
    "workers": "the server's log has worker_start_failed, with the reason",
}
"""Advice by the part that /readyz reports as not ready."""
_BUILD = re.compile(rb'^smartserve_build_info\{[^}]*version="([^"]*)"', re.MULTILINE)


async def check_health(installation: Installation) -> Finding:
    """Request /healthz, and report a server that is not running, not smartserve, or slow."""
    server = installation.server
    try:
        answer = await server.request("/healthz")
    except NoAnswer as error:
        advice = (
            "is it running (systemctl status smartserve, docker ps), and is this its address"
            " (server.host, server.port, --url)? 'smartserve serve' prints why it does not start"
        )
        raise CheckBlocked(fail(f"{server.base}: {error.detail}", advice)) from error
    text = f"{server.base} answers {answer.status} in {as_time(answer.seconds)}"
    # Another program on this port, or a proxy that answers in its place.
    if answer.json().get("status") != "alive":
        advice = (
            "this is not the server itself: name its own port with --url, and the reverse proxy"
            " with --public"
        )
        raise CheckBlocked(fail(text, advice))
    if answer.seconds <= _SLOW_S:
        return ok(text)
    return warn(text, "its event loop is late: lower workers.count to leave it a core")


async def check_readiness(installation: Installation) -> Finding:
    """Report the parts that /readyz names as not ready."""
    answer = await installation.server.request("/readyz")
    found = answer.json()
    parts = found.get("checks")
    # A server that drains reports its status alone.
    if not isinstance(parts, dict):
        text = f"/readyz answers {answer.status}: {found.get('status', 'no status')}"
        return fail(text, "if it is draining, it is being stopped and accepts no new connections")
    if answer.status == HTTPStatus.OK:
        return ok(f"ready: {', '.join(parts)}")
    unready = {name: why for name, why in parts.items() if why != "ok"}
    text = "; ".join(f"{name}: {why}" for name, why in unready.items())
    return fail(text, "; ".join(_READINESS_ADVICE.get(name, "see its log") for name in unready))


async def check_version(installation: Installation) -> Finding:
    """Compare the version that runs with the version that is installed."""
    # Prometheus' parser would read thousands of lines for one label.
    match = _BUILD.search((await installation.server.request("/metrics")).body)
    if match is None:
        return skip("/metrics does not report it")
    running = match[1].decode()
    if running == __version__:
        return ok(f"{running} runs, and is installed")
    return warn(f"{running} runs, {__version__} is installed", "restart the server")


async def check_formats(installation: Installation) -> Finding:
    """Request an image as browsers do, and report those that do not receive the best format.

    Sets ``installation.responses``.
    """
    media = installation.media
    if media is None:
        return skip("there is no image whose original can be opened")
    try:
        responses = await request_image(installation.server, media.id, secrets.token_hex(4))
    except NoAnswer as error:
        raise CheckBlocked(fail(error.detail, "see answer_failed in the server's log")) from error
    first = responses.negotiated["chrome"]
    if first.status != HTTPStatus.OK:
        detail = first.json().get("detail") or first.media_type or "no text"
        advice = "does the server use these settings? Its log has answer_failed with this media_id"
        raise CheckBlocked(fail(f"{image_url(media.id)} answers {first.status}: {detail}", advice))
    installation.responses = responses
    allowed = allowed_types(installation.settings.encoders, media)
    types = ", ".join(f"{client} {kind}" for client, kind in responses.types.items())
    text = f"{image_url(media.id)}: {types}"
    # The settings of the command may differ from those of the running server.
    if all(kind in allowed[client] for client, kind in responses.types.items()):
        return ok(text)
    if "fallback" in first.header("Cache-Status"):
        return warn(text, "it is a fallback, because its original or a worker is missing")
    return fail(
        text, "restart the server if [encoders] changed; otherwise Accept is changed on the way"
    )
