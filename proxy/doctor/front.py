"""What stands in front: the same questions through it, compared with the server's own answers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

from proxy.doctor import CheckBlocked, Diagnosis, failed, skipped, warned, well, worst
from proxy.doctor.figures import as_bytes, as_time
from proxy.doctor.http_client import HttpProbe, ProbeResponse
from proxy.doctor.recipes import (
    BODY,
    CLOSED,
    ETAG,
    FORMATS,
    FORWARDED,
    HEAD,
    LIFETIME,
    QUERY,
    RANGE,
    REACH,
    UPLOADS,
    VARY,
    ReverseProxy,
    ReverseProxyFix,
    front_of,
)
from proxy.doctor.serving import ImageProbe, head_differs, read_json, types, varies
from proxy.doctor.touring import PART_BYTES, ResponseTour, take
from proxy.domain.errors import NoAnswer
from proxy.domain.media import MAX_MEDIA_ID
from proxy.settings import Settings

_MODERN = frozenset({"image/avif", "image/webp"})
_PROBLEM = "application/problem+json"
_UPLOAD = "/users/me"
_FILES = 10
"""What a form may hold."""
_NOBODY = f"{MAX_MEDIA_ID}/renditions"
"""Of a medium, or a user, that there is none of: nothing could be purged."""
_CHANGING = (
    ("DELETE", f"/api/media/{_NOBODY}"),
    ("DELETE", f"/api/users/{_NOBODY}"),
    ("GET", "/api/media/pending/all"),
)
_TELLING = (("GET", "/metrics"),)
_HARMLESS = (("GET", "/readyz"), ("GET", "/healthz"))
_SERVERS_FAULT = 500


@dataclass(frozen=True, slots=True)
class ReverseProxyFacts:
    """What came through it, and what the server says itself."""

    base: str
    front: ReverseProxy
    through: ResponseTour
    direct: ResponseTour
    """Taken just before or just after, whichever has the ETag that came through."""
    picture: ImageProbe
    changing: tuple[str, ...]
    """Routes that change something, or ask for a key, and are passed on."""
    telling: tuple[str, ...]
    harmless: tuple[str, ...]
    takes_uploads: bool
    """Whether the settings have the server take any."""
    upload: ProbeResponse | None
    """To an upload without token and body; None where the server takes none, or nobody answers."""
    whole_form: int
    one_file: int
    """Statuses that bodies of the size of ten files, and of one, are met with; 0: not asked, or not
    answered."""
    max_file_bytes: int

    def mend(self, recipe: ReverseProxyFix) -> str:
        """What to do about it, for who is in front."""
        return recipe.advice(self.front)


async def look(
    public: HttpProbe | None,
    server: HttpProbe,
    picture: ImageProbe | CheckBlocked,
    settings: Settings,
    mark: str,
) -> ReverseProxyFacts:
    """Ask through what is in front, and the server itself; nothing is uploaded."""
    if public is None:
        raise CheckBlocked(skipped("no address in front is named (--public, server.public_url)"))
    if isinstance(picture, CheckBlocked):
        raise CheckBlocked(skipped("the server's own answers, to compare with, cannot be had"))
    try:
        through = await take(public, picture.media_id, mark)
        direct = picture.tour
        if _strong(through.named) != direct.named.told("ETag"):
            direct = await take(server, picture.media_id, mark)
        front = front_of(through.chrome)
        _require_picture(public.base, front, through.chrome)
        changing, telling, harmless = [
            await _passed_on(public, routes) for routes in (_CHANGING, _TELLING, _HARMLESS)
        ]
        takes = settings.main.enabled
        upload = await _asked(public, _UPLOAD, "PATCH") if takes else None
        limit = settings.main.max_file_bytes
        form, file = await _sizes(public, limit) if _takes_uploads(upload) else (0, 0)
    except NoAnswer as error:
        advice = (
            "is what stands in front up, does its name lead there, and is its certificate good?"
            f" Else {REACH.advice(ReverseProxy.NGINX)}"
        )
        raise CheckBlocked(failed(f"{public.base}: {error.detail}", advice)) from error
    return ReverseProxyFacts(
        base=public.base,
        front=front,
        through=through,
        direct=direct,
        picture=picture,
        changing=changing,
        telling=telling,
        harmless=harmless,
        takes_uploads=takes,
        upload=upload,
        whole_form=form,
        one_file=file,
        max_file_bytes=limit,
    )


def _require_picture(base: str, front: ReverseProxy, answer: ProbeResponse) -> None:
    if answer.status == HTTPStatus.OK and answer.media_type.startswith("image/"):
        return
    told = f"{base}: a picture is answered {answer.status} {answer.media_type}"
    if location := answer.told("Location"):
        raise CheckBlocked(failed(f"{told}, to {location}", "name that address with --public"))
    raise CheckBlocked(failed(told, REACH.advice(front)))


async def _passed_on(public: HttpProbe, routes: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Those that the server itself has answered."""
    answers = await asyncio.gather(*(_asked(public, target, method) for method, target in routes))
    return tuple(
        f"{method} {target}"
        for (method, target), answer in zip(routes, answers, strict=True)
        if answer is not None and _from_server(answer)
    )


async def _asked(public: HttpProbe, target: str, method: str) -> ProbeResponse | None:
    """The answer; None where there is none: what is closed may be so by hanging up."""
    with suppress(NoAnswer):
        return await public.ask(target, method=method)
    return None


def _from_server(answer: ProbeResponse) -> bool:
    """Whether a route is there, and answered: what is in front refuses in words of its own.

    A 404 of the server's own is that of a route that its settings took away.
    """
    if answer.status == HTTPStatus.NOT_FOUND:
        return False
    told = read_json(answer)
    return bool(
        answer.media_type == _PROBLEM or b"smartserve_" in answer.body or {"status"} & told.keys()
    )


def _takes_uploads(upload: ProbeResponse | None) -> bool:
    """Whether it was the server that wanted a token."""
    return (
        upload is not None
        and upload.status == HTTPStatus.UNAUTHORIZED
        and upload.media_type == _PROBLEM
    )


async def _sizes(public: HttpProbe, max_file_bytes: int) -> tuple[int, int]:
    """With what bodies of the size of a form, and of a file, are met; 0 by no answer."""
    met = [0, 0]
    for at, byte_size in enumerate((_FILES * max_file_bytes, max_file_bytes)):
        with suppress(NoAnswer):
            met[at] = await public.announce(_UPLOAD, method="PATCH", byte_size=byte_size)
    return met[0], met[1]


def judge_reach(seen: ReverseProxyFacts) -> Diagnosis:
    """Whether pictures come through it."""
    front = (
        "nobody in front of it" if seen.front is ReverseProxy.NOBODY else f"through {seen.front}"
    )
    if seen.front is ReverseProxy.OTHER:
        front = "through something in front"
    told = f"{seen.base}, {front}: a picture in {as_time(seen.through.chrome.seconds)}"
    return well(told)


def judge_formats(seen: ReverseProxyFacts) -> Diagnosis:
    """Whether each browser gets what it shows, though another asked before it."""
    got, allowed = types(seen.through), seen.picture.allowed
    told = ", ".join(f"{name} {kind}" for name, kind in got.items())
    broken = [name for name, kind in got.items() if kind in _MODERN and kind not in allowed[name]]
    if broken:
        told = f"one copy goes to all: {told}"
        return failed(f"{told}; {' and '.join(broken)} cannot show it", seen.mend(FORMATS))
    if any(kind not in allowed[name] for name, kind in got.items()):
        return warned(f"not the best format: {told}", seen.mend(FORMATS))
    return well(told)


def judge_query(seen: ReverseProxyFacts) -> Diagnosis:
    """Whether another size is another picture."""
    same = seen.through.wider.body == seen.through.named.body
    if same and seen.direct.wider.body != seen.direct.named.body:
        return failed("two sizes are one picture", seen.mend(QUERY))
    return well("two sizes are two pictures")


def judge_vary(seen: ReverseProxyFacts) -> Diagnosis:
    """Whether clients' own caches are told what the server says."""
    negotiated, named = seen.through.chrome.told("Vary"), seen.through.named.told("Vary")
    told = f"negotiated: {negotiated or 'none'}; named: {named or 'none'}"
    if not varies(seen.through.chrome):
        return failed(f"{told}; the server says Accept", seen.mend(VARY))
    if varies(seen.through.named):
        return warned(f"{told}; the server says none where the format is named", seen.mend(VARY))
    return well(told)


def _strong(answer: ProbeResponse) -> str:
    return answer.told("ETag").removeprefix("W/")


def judge_etag(seen: ReverseProxyFacts) -> Diagnosis:
    """Whether the ETag is the server's, and still spares a transfer."""
    ours, theirs = seen.direct.named.told("ETag"), seen.through.named.told("ETag")
    status = seen.through.again.status
    told = f"{theirs or 'no ETag'}, {status} to it"
    mend = seen.mend(ETAG)
    if not theirs:
        return failed(f"{told}; the server's is {ours}", mend)
    if status != HTTPStatus.NOT_MODIFIED:
        return failed(f"{told}: each visitor loads the picture again", mend)
    if theirs.startswith("W/"):
        return warned(f"{told}: weakened", mend)
    if theirs != ours:
        return warned(f"{told}; the server's is {ours}", mend)
    return well(told)


def judge_lifetime(seen: ReverseProxyFacts) -> Diagnosis:
    """Whether Cache-Control comes through unchanged."""
    ours, theirs = (one.named.told("Cache-Control") for one in (seen.direct, seen.through))
    if theirs == ours or (
        _strong(seen.through.named) != _strong(seen.direct.named)
        and theirs in seen.picture.lifetimes
    ):
        return well(theirs)
    return failed(f"{theirs or 'none'}; the server says {ours}", seen.mend(LIFETIME))


def judge_range(seen: ReverseProxyFacts) -> Diagnosis:
    """Whether a part comes through as one."""
    part = seen.through.part
    told = f"{part.status} with {as_bytes(len(part.body))} of {PART_BYTES}"
    if part.status == HTTPStatus.PARTIAL_CONTENT and len(part.body) == PART_BYTES:
        return well(told)
    return warned(f"{told}: Range is not passed on", seen.mend(RANGE))


def judge_head(seen: ReverseProxyFacts) -> Diagnosis:
    """Whether HEAD is GET without a body there too."""
    if told := head_differs(seen.through):
        return warned(told, seen.mend(HEAD))
    return well("the same as GET, without a body")


def judge_body(seen: ReverseProxyFacts) -> Diagnosis:
    """Whether the bytes are the server's, as long as it says, and not packed again."""
    ours, theirs = seen.direct.named, seen.through.named
    packing = theirs.told("Content-Encoding")
    if packing not in ("", "identity"):
        return warned(f"Content-Encoding: {packing} on a picture", seen.mend(BODY))
    if theirs.body != ours.body and _strong(theirs) == _strong(ours):
        told = f"{as_bytes(len(theirs.body))}, and the server gives {as_bytes(len(ours.body))}"
        return failed(f"other bytes under the same ETag: {told}", seen.mend(BODY))
    if theirs.told("Content-Length") != str(len(theirs.body)):
        told = f"Content-Length: {theirs.told('Content-Length') or 'none'}"
        return warned(f"{told} for {len(theirs.body)} bytes", seen.mend(BODY))
    return well(f"{len(theirs.body)} bytes, the server's own")


def judge_closed(seen: ReverseProxyFacts) -> Diagnosis:
    """Whether strangers are kept from what is not for them."""
    if not (seen.changing or seen.telling or seen.harmless):
        return well("neither probes, metrics nor keyed routes are passed on")
    diagnoses = [
        judge(f"passed on to strangers: {', '.join(found)}", seen.mend(CLOSED))
        for judge, found in (
            (failed, (*seen.changing, *seen.telling)),
            (warned, seen.harmless),
        )
        if found
    ]
    return worst(*diagnoses)


def judge_forwarded(seen: ReverseProxyFacts) -> Diagnosis:
    """Whether the server is told that it is asked for somebody else."""
    if seen.front is ReverseProxy.NOBODY:
        return skipped("nobody is in front")
    if seen.upload is None or not _takes_uploads(seen.upload):
        return skipped("uploads are not passed on, and only they tell")
    if read_json(seen.upload).get("forwarded") is True:
        return well("the server is told that somebody else asks")
    told = "X-Forwarded-For is not set: wrong keys of strangers count as those of this machine"
    return failed(told, seen.mend(FORWARDED))


def judge_uploads(seen: ReverseProxyFacts) -> Diagnosis:
    """Whether uploads are let through at their full size; none was sent."""
    if not seen.takes_uploads:
        return skipped("main.enabled is false: there are no uploads")
    if not _takes_uploads(seen.upload):
        told = "not answered" if seen.upload is None else f"answered {seen.upload.status}"
        return skipped(f"PATCH {_UPLOAD} is {told} there")
    if not (seen.whole_form and seen.one_file):
        return skipped("how large an upload may be is not told there before it is sent")
    return _room(seen)


def _room(seen: ReverseProxyFacts) -> Diagnosis:
    too_large = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    form = as_bytes(_FILES * seen.max_file_bytes)
    if seen.one_file == too_large:
        told = f"a single file of {as_bytes(seen.max_file_bytes)} is refused with 413"
        return failed(told, seen.mend(UPLOADS))
    if seen.whole_form == too_large:
        return warned(f"ten files at once, {form}, are refused with 413", seen.mend(UPLOADS))
    if seen.whole_form >= _SERVERS_FAULT:
        return failed(f"{form} are answered {seen.whole_form}", seen.mend(REACH))
    return well(f"{form} are let through")
