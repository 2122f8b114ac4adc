"""The running server, asked at its own address."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from proxy import __version__
from proxy.doctor import CheckBlocked, Diagnosis, failed, reason_of, skipped, warned, well
from proxy.doctor.figures import as_bytes, as_time
from proxy.doctor.http_client import HttpProbe, ProbeResponse
from proxy.doctor.touring import PART_BYTES, ResponseTour, allowed_types, take
from proxy.domain.errors import NoAnswer
from proxy.domain.media import Media
from proxy.domain.urls import image_url
from proxy.settings import LifetimeSettings, Settings

_AHEAD_S, _FAR_AHEAD_S = 2.0, 60.0
_SLOW_S = 0.5
_PARTS: Mapping[str, str] = {
    "database": "see the checks of the database",
    "storage": "see the checks of the originals",
    "renditions": "see the checks of the renditions",
    "workers": "the server's log has worker_start_failed, with the reason",
}
"""What to do where a part of /readyz is not fit."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the server says of itself."""

    base: str
    health: ProbeResponse
    readiness: ProbeResponse
    ahead_s: float | None
    """By how much its clock is ahead of ours; None where it tells no date."""
    version: str
    """Empty where it does not tell."""


@dataclass(frozen=True, slots=True)
class ImageProbe:
    """What came of asking for a picture."""

    media_id: int
    tour: ResponseTour
    allowed: Mapping[str, tuple[str, ...]]
    lifetimes: tuple[str, ...]
    """What Cache-Control may say by the settings."""


async def look(server: HttpProbe) -> ServerFacts:
    """Ask the server how it is; its version is told by its figures."""
    try:
        health = await server.ask("/healthz")
        now = time.time()
        readiness = await server.ask("/readyz")
    except NoAnswer as error:
        advice = (
            "is it running (systemctl status smartserve, docker ps), and is this its address"
            " (server.host, server.port, --url)? 'smartserve serve' says why it does not start"
        )
        raise CheckBlocked(failed(f"{server.base}: {error.detail}", advice)) from error
    date = _moment(health.told("Date"))
    # A date is cut to its second, half of which is what is left out on average.
    ahead_s = None if date is None else date + 0.5 - (now - health.seconds / 2)
    return ServerFacts(server.base, health, readiness, ahead_s, "")


def _moment(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


async def look_at_picture(
    server: HttpProbe, settings: Settings, media: Media | None, mark: str
) -> ImageProbe:
    """Ask for a picture whose original is there, the newest."""
    if media is None:
        raise CheckBlocked(skipped("no picture is known whose original is there"))
    try:
        tour = await take(server, media.id, mark)
    except NoAnswer as error:
        raise CheckBlocked(
            failed(reason_of(error), "see the server's log: answer_failed")
        ) from error
    if tour.chrome.status != HTTPStatus.OK:
        told = f"{image_url(media.id)} is answered {tour.chrome.status}: {_detail(tour.chrome)}"
        advice = "is it the server of these settings? Its log has answer_failed with this media_id"
        raise CheckBlocked(failed(told, advice))
    allowed = allowed_types(settings.encoders, media)
    return ImageProbe(media.id, tour, allowed, tuple(_lifetimes(settings.lifetimes)))


def _detail(answer: ProbeResponse) -> str:
    """The sentence of a problem; else what kind of answer it is."""
    found = read_json(answer)
    return str(found.get("detail") or answer.media_type or "no text")


def read_json(answer: ProbeResponse) -> Mapping[str, object]:
    """The object that an answer is; empty where it is something else."""
    try:
        found = json.loads(answer.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _lifetimes(section: LifetimeSettings) -> Iterator[str]:
    yield f"public, max-age={section.serve_s}"
    stale = f", stale-while-revalidate={section.draft_stale_s}"
    yield f"public, max-age={section.draft_s}{stale}"
    for seconds in (section.fallback_s, section.unsettled_s):
        yield f"public, max-age={seconds}"


def judge_health(seen: ServerFacts) -> Diagnosis:
    """Whether the server is there, and it is one of ours."""
    told = f"{seen.base} answers {seen.health.status} in {as_time(seen.health.seconds)}"
    if read_json(seen.health).get("status") != "alive":
        advice = (
            "this is not the server itself: name its own port with --url; what stands in front"
            " is asked with --public"
        )
        return failed(told, advice)
    if seen.health.seconds <= _SLOW_S:
        return well(told)
    return warned(told, "its loop is late: a core for the server itself, fewer workers.count")


def judge_readiness(seen: ServerFacts) -> Diagnosis:
    """Which part of it is not fit."""
    found = read_json(seen.readiness)
    checks = found.get("checks")
    if seen.readiness.status == HTTPStatus.OK:
        return well(f"ready: {', '.join(checks) if isinstance(checks, dict) else ''}")
    if not isinstance(checks, dict):
        told = f"/readyz answers {seen.readiness.status}: {found.get('status', 'no text')}"
        return failed(told, "draining: it is being stopped, and takes no more connections soon")
    unfit = {name: why for name, why in checks.items() if why != "ok"}
    told = "; ".join(f"{name}: {why}" for name, why in unfit.items())
    return failed(told, "; ".join(_PARTS.get(name, "see its log") for name in unfit))


def judge_version(seen: ServerFacts) -> Diagnosis:
    """Whether what runs is what is installed."""
    if not seen.version:
        return skipped("its figures, which tell, cannot be had")
    if seen.version == __version__:
        return well(f"{seen.version} runs, and is installed")
    told = f"{seen.version} runs, {__version__} is installed"
    return warned(told, "restart the server: it runs what was there when it started")


def judge_clock(seen: ServerFacts) -> Diagnosis:
    """Whether its clock agrees with ours."""
    ahead_s = seen.ahead_s
    if ahead_s is None:
        return skipped("it tells no date")
    direction = "ahead of" if ahead_s > 0 else "behind"
    if abs(ahead_s) <= _AHEAD_S:
        return well("within two seconds of ours")
    told = f"{as_time(abs(ahead_s))} {direction} ours"
    advice = (
        "set both machines by NTP (chronyc tracking): tokens run out by its clock, and caches"
        " reckon with its Date"
    )
    return (failed if abs(ahead_s) > _FAR_AHEAD_S else warned)(told, advice)


def judge_formats(seen: ImageProbe) -> Diagnosis:
    """Whether each browser gets a format that it shows, and the best one."""
    told = ", ".join(f"{name} {kind}" for name, kind in types(seen.tour).items())
    wrong = [name for name, kind in types(seen.tour).items() if kind not in seen.allowed[name]]
    if not wrong:
        return well(f"{image_url(seen.media_id)}: {told}")
    stood_in = "fallback" in seen.tour.chrome.told("Cache-Status")
    advice = (
        "it is stood in for, as its original or a worker is missing: see those checks"
        if stood_in
        else "Accept does not reach the server as it is sent, or other [encoders] run: restart it"
    )
    return (warned if stood_in else failed)(f"{image_url(seen.media_id)}: {told}", advice)


def types(tour: ResponseTour) -> dict[str, str]:
    """What the three browsers got."""
    asked = {"chrome": tour.chrome, "safari": tour.safari, "anything": tour.anything}
    return {name: answer.media_type for name, answer in asked.items()}


def judge_vary(seen: ImageProbe) -> Diagnosis:
    """Whether caches are told what was negotiated, and only that."""
    negotiated, named = varies(seen.tour.chrome), varies(seen.tour.named)
    if negotiated and not named:
        return well("Vary: Accept where it is negotiated, none where the address names the format")
    told = f"negotiated: {_vary(seen.tour.chrome)}; named: {_vary(seen.tour.named)}"
    return failed(told, "this is not as the server answers: what stands before it at --url?")


def varies(answer: ProbeResponse) -> bool:
    """Whether caches are told that Accept decides."""
    fields = {name.strip().lower() for name in answer.told("Vary").split(",")}
    return bool(fields & {"accept", "*"})


def _vary(answer: ProbeResponse) -> str:
    return answer.told("Vary") or "none"


def judge_revalidation(seen: ImageProbe) -> Diagnosis:
    """Whether who has the picture is told so."""
    etag, status = seen.tour.named.told("ETag"), seen.tour.again.status
    told = f"{status} to {etag or 'no ETag'}"
    if status == HTTPStatus.NOT_MODIFIED and not seen.tour.again.body:
        return well(told)
    return failed(told, "this is not as the server answers: what stands before it at --url?")


def judge_head(seen: ImageProbe) -> Diagnosis:
    """Whether HEAD is GET without a body."""
    if told := head_differs(seen.tour):
        return failed(told, "this is not as the server answers: what stands before it at --url?")
    return well("the same as GET, without a body")


def head_differs(tour: ResponseTour) -> str:
    """In what HEAD is not GET without a body; empty where it is."""
    head, named = tour.head, tour.named
    differ = [
        name
        for name in ("Content-Type", "Content-Length", "ETag", "Cache-Control", "Vary")
        if head.told(name) != named.told(name)
    ]
    if head.status == named.status and not differ and not head.body:
        return ""
    return f"{head.status}, and differs in {', '.join(differ) or 'its body'}"


def judge_lifetime(seen: ImageProbe) -> Diagnosis:
    """Whether the lifetime is one that the settings have."""
    told = seen.tour.named.told("Cache-Control") or "no Cache-Control"
    if told not in seen.lifetimes:
        return warned(told, "restart the server, if [lifetimes] was changed since it started")
    detail = seen.tour.named.told("Cache-Status").rpartition("detail=")[2]
    if detail == "fallback":
        return warned(f"{told} (stood in for)", "its original is missing, or no worker is free")
    return well(f"{told} ({detail})")


def judge_range(seen: ImageProbe) -> Diagnosis:
    """Whether a part can be had."""
    part = seen.tour.part
    told = f"{part.status} with {as_bytes(len(part.body))} of {PART_BYTES}"
    if part.status == HTTPStatus.PARTIAL_CONTENT and len(part.body) == PART_BYTES:
        return well(told)
    return failed(told, "this is not as the server answers: what stands before it at --url?")
