"""Requests and uploads through nginx while something fails, and what came of them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import aiohttp
from PIL import Image

from proxy.domain.request import WIDTHS
from tests.platform.ledger import MariaLedger, completed, reasons, statuses
from tests.platform.sending import token
from tests.support.server import CHROME
from tests.support.waiting import eventually, pause_between_pieces

NAMED = ("thumbnail", "grid")
_CLIENTS = 6
_UPLOADERS = 2
# Longer than the proxy_read_timeout of nginx, after which another server answers.
_TIMEOUT_S = 100
_UPLOAD_TIMEOUT_S = 15
_UPLOAD_EVERY_S = 1.5
_FIRST_USER = 1000
# Encoders change a plain colour by less.
_TOLERANCE = 16
Colour = tuple[int, int, int]


def colour(number: int) -> Colour:
    """Return a colour that differs from that of 511 other numbers."""
    levels = number % 8, number // 8 % 8, number // 64 % 8
    return levels[0] * 32 + 16, levels[1] * 32 + 16, levels[2] * 32 + 16


def plain(number: int, kind: str = "PNG") -> bytes:
    """Return an image of one colour."""
    body = io.BytesIO()
    Image.new("RGB", (480, 360), colour(number)).save(body, kind)
    return body.getvalue()


def plain_images(folder: Path, count: int) -> list[Path]:
    """Write images of one colour each, whose names `colours` knows."""
    folder.mkdir()
    paths = [folder / f"plain-{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(plain(number))
    return paths


def colours(images: Mapping[str, int]) -> dict[int, Colour]:
    """Return the colours of the plain ones of a library, by id."""
    return {
        media_id: colour(int(name.removeprefix("plain-").removesuffix(".png")))
        for name, media_id in images.items()
        if name.startswith("plain-")
    }


def fault_of(body: bytes, expected: Colour | None) -> str:
    """Return what is wrong with an image; empty if nothing."""
    try:
        with Image.open(io.BytesIO(body)) as image:
            middle = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    except OSError as error:
        return str(error)
    assert isinstance(middle, tuple)
    if expected and any(abs(a - b) > _TOLERANCE for a, b in zip(middle, expected, strict=True)):
        return f"colour {middle} instead of {expected}"
    return ""


@dataclass
class Uploads:
    """Uploads that were accepted, by their id in the queue, and the others."""

    number: count[int]
    accepted: dict[int, Colour] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    async def send(self, session: aiohttp.ClientSession) -> None:
        """Upload an image of a new colour."""
        number = next(self.number)
        form = aiohttp.FormData()
        form.add_field("product_image", plain(number), filename=f"{number}.png")
        headers = {"Authorization": f"Bearer {token(_FIRST_USER + number)}"}
        limit = aiohttp.ClientTimeout(total=_UPLOAD_TIMEOUT_S)
        try:
            async with session.patch(
                "/users/me", data=form, headers=headers, timeout=limit
            ) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.refused.append(repr(error))
            return
        if answer.status in {200, 202}:
            (image,) = json.loads(text)["images"]
            self.accepted[image["id"]] = colour(number)
        else:
            self.refused.append(f"{answer.status} {text[:200]}")

    async def check(
        self, front: str, done: Mapping[int, int], why: Mapping[int, str], state: Mapping[int, str]
    ) -> None:
        """Request each accepted image by its id, and note those that are not what was sent."""
        async with aiohttp.ClientSession(front) as session:
            for upload, expected in self.accepted.items():
                if upload not in done:
                    self.lost.append(f"{upload}: {state.get(upload)} {why.get(upload, '')}")
                    continue
                target = f"/serve/{done[upload]}?size=grid"
                async with session.get(target, headers={"Accept": CHROME}) as answer:
                    body = await answer.read()
                fault = fault_of(body, expected) if answer.status == 200 else str(answer.status)
                if fault:
                    self.lost.append(f"{upload}: {target}: {fault}")


@dataclass
class Load:
    """Requests through nginx, most of them for what is known, and what came back."""

    front: str
    colours: Mapping[int, Colour]
    """Of the images that have only one, by id."""
    images: Sequence[int]
    uploads: Uploads
    named_only: bool = False
    """Whether nothing is requested that may be new."""
    answers: int = 0
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    bodies: dict[str, str] = field(default_factory=dict)
    """Hashes by ETag: two servers must not use one ETag for different bytes."""

    def target(self) -> tuple[int, str]:
        """Return a hit, or one time in ten a rendition that may be new."""
        media_id = random.choice(self.images)
        if random.random() < 0.1 and not self.named_only:
            return media_id, f"/serve/{media_id}?w={random.choice(WIDTHS[:12])}"
        return media_id, f"/serve/{media_id}?size={random.choice(NAMED)}"

    async def run(self, seconds: float, until: Collection[Awaitable[None]] = ()) -> None:
        """Send requests for a time, and until all of ``until`` is done."""
        limit = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        ends = time.monotonic() + seconds
        changes = [asyncio.ensure_future(one) for one in until]

        def on() -> bool:
            return time.monotonic() < ends or not all(one.done() for one in changes)

        async with aiohttp.ClientSession(self.front, timeout=limit) as session:
            clients = (self._client(session, on) for _ in range(_CLIENTS))
            uploaders = (self._uploader(session, on) for _ in range(_UPLOADERS))
            await asyncio.gather(*clients, *uploaders, *changes)

    async def _client(self, session: aiohttp.ClientSession, on: Callable[[], bool]) -> None:
        while on():
            await self._request(session, *self.target())

    async def _uploader(self, session: aiohttp.ClientSession, on: Callable[[], bool]) -> None:
        while on():
            await self.uploads.send(session)
            await pause_between_pieces(_UPLOAD_EVERY_S)

    async def _request(self, session: aiohttp.ClientSession, media_id: int, target: str) -> None:
        began = time.monotonic()
        self.answers += 1
        try:
            async with session.get(target, headers={"Accept": CHROME}) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.errors.append(repr(error))
            return
        self.seconds.append(time.monotonic() - began)
        if answer.status != 200:
            self.errors.append(f"{answer.status} {target} {body[:200]!r}")
            return
        tag, digest = answer.headers["ETag"], hashlib.sha256(body).hexdigest()
        if tag not in self.bodies:
            self.bodies[tag] = digest
            # Once for each body: that takes longer than the request.
            if fault := fault_of(body, self.colours.get(media_id)):
                self.wrong.append(f"{target}: {fault}")
        elif self.bodies[tag] != digest:
            self.wrong.append(f"{target}: other bytes under {tag}")

    def line(self, name: str) -> str:
        """Return the row of the table."""
        ordered = sorted(self.seconds) or [0.0]
        p50, p99 = (1000 * ordered[int(len(ordered) * part)] for part in (0.5, 0.99))
        longest = 1000 * ordered[-1]
        share, sent = len(self.errors) / max(1, self.answers), self.uploads
        return (
            f"{name:<32}{self.answers:>9}{share:>8.2%}{len(self.wrong):>7}{p50:>8.0f}{p99:>8.0f}{longest:>8.0f}"
            f"{len(sent.accepted):>9}{len(sent.refused):>9}{len(sent.lost):>6}"
        )


HEAD = (
    f"{'fault':<32}{'requests':>9}{'errors':>8}{'wrong':>7}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}"
    f"{'uploads':>9}{'refused':>9}{'lost':>6}"
)


async def check_uploads(loads: Sequence[Load], ledger: MariaLedger) -> None:
    """Wait until no upload is being processed, and note in each load those that are lost."""
    await eventually(
        lambda: not set(statuses(ledger)) - {"complete", "failed"}, timeout_s=120, interval_s=0.5
    )
    rows = ledger.rows("SELECT id, status FROM pending_images")
    by_id = {int(upload): status for upload, status in rows}
    done, why = completed(ledger), reasons(ledger)
    for load in loads:
        await load.uploads.check(load.front, done, why, by_id)
