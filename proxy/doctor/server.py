"""Checks of the running server at its own address, and of an image that it serves."""

from __future__ import annotations

import re
from http import HTTPStatus

from proxy import __version__
from proxy.doctor.check import Finding, Findings, area, as_time, fail, ok, skip, warn
from proxy.doctor.installation import Installation
from proxy.doctor.probe import ProbeResponse, allowed_types, request_image
from proxy.domain.errors import NoAnswer
from proxy.domain.media import Media
from proxy.domain.urls import image_url

_SLOW_S = 0.5
_BUILD = re.compile(rb'^smartserve_build_info\{[^}]*version="([^"]*)"', re.MULTILINE)


@area("server", "server readiness", "server version", "served formats")
async def check_server(installation: Installation) -> Findings:
    """Report a server that is not running, not smartserve, not ready, outdated or slow."""
    server = installation.server
    try:
        answer = await server.request("/healthz")
    except NoAnswer as error:
        advice = (
            "is it running (systemctl status smartserve, docker ps), and is this its address"
            " (server.host, server.port, --url)? 'smartserve serve' prints why it does not start"
        )
        yield fail(f"{server.base}: {error.detail}", advice)
        return
    text = f"{server.base} answers {answer.status} in {as_time(answer.seconds)}"
    # Another program on this port, or a proxy that answers in its place.
    if answer.json().get("status") != "alive":
        advice = "this is not the server: name its own port with --url, its proxy with --public"
        yield fail(text, advice)
        return
    advice = "its event loop is late: lower workers.count to leave it a core"
    yield warn(text, advice, when=answer.seconds > _SLOW_S)
    yield judge_readiness(await server.request("/readyz"))
    yield judge_version(await server.request("/metrics"))
    if installation.media is None:
        yield skip("there is no public image whose original can be opened")
    else:
        yield await check_formats(installation, installation.media)


def judge_readiness(answer: ProbeResponse) -> Finding:
    """Report the parts that /readyz names as not ready."""
    found = answer.json()
    parts = found.get("checks")
    # A server that drains reports its status alone.
    if not isinstance(parts, dict):
        text = f"/readyz answers {answer.status}: {found.get('status', 'no status')}"
        return fail(text, "if it is draining, it is being stopped and accepts no new connections")
    if answer.status == HTTPStatus.OK:
        return ok(f"ready: {', '.join(parts)}")
    text = "; ".join(f"{name}: {why}" for name, why in parts.items() if why != "ok")
    return fail(text, "see the checks of these parts, and the server's log: worker_start_failed")


def judge_version(metrics: ProbeResponse) -> Finding:
    """Compare the version that runs with the version that is installed."""
    # Prometheus' parser would read thousands of lines for one label.
    match = _BUILD.search(metrics.body)
    if match is None:
        return skip("/metrics does not report it")
    running = match[1].decode()
    if running == __version__:
        return ok(f"{running} runs, and is installed")
    return warn(f"{running} runs, {__version__} is installed", "restart the server")


async def check_formats(installation: Installation, media: Media) -> Finding:
    """Request an image as browsers do, and report those that do not receive the best format.

    Sets ``installation.responses``.
    """
    responses = await request_image(installation.server, media.id)
    first, url = responses.negotiated["chrome"], image_url(media.id)
    if first.status != HTTPStatus.OK:
        detail = first.json().get("detail") or first.media_type or "no text"
        advice = "does the server use these settings? Its log has answer_failed with this media_id"
        return fail(f"{url} answers {first.status}: {detail}", advice)
    installation.responses = responses
    allowed = allowed_types(installation.settings.encoders, media)
    text = f"{url}: {responses.listed}"
    correct = all(kind in allowed[client] for client, kind in responses.types.items())
    if not correct and "fallback" in first.header("Cache-Status"):
        return warn(text, "it is a fallback, because its original or a worker is missing")
    # The settings of the command may differ from those of the running server.
    advice = "restart the server if [encoders] changed; otherwise Accept is changed on the way"
    return fail(text, advice, when=not correct)
